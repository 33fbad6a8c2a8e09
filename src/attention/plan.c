#include "attention/plan.h"

#include "attention/choose.h"
#include "attention/kv_tiles.h"
#include "attention/mask.h"
#include "attention/scratch.h"
#include "attention/threads.h"

#include <math.h>

enum {
    /* Enough items, of several threads, for a last one that runs alone to cost little. */
    ITEMS_PER_THREAD = 32,
    /* Row blocks that share a K/V tile: 4 x 48 rows read each tile seldom enough from L3 or memory
     * for f32; a tile that must be converted first wants twice as many to hide that. */
    MAX_BLOCKS_IN_PLACE = 4,
    MAX_BLOCKS_CONVERTED = FLASHC_MAX_BLOCKS_PER_ITEM,
    /* Default threads: one per this many useful operations; less is done before a team has started. */
    FLOPS_PER_THREAD = 1000000,
    /* Keys are cut where a sequence has but one row block per K/V head (decode), or fewer row blocks in all than
     * occupy the threads of a large machine. */
    CUT_BELOW_BLOCKS = 64,
    /* Keys of a piece, rounded up to tiles. Merging costs 1 % of a piece of this length at 48 query rows, less at
     * fewer; 16,384 keys of one K/V head still occupy 32 threads. */
    PIECE_KEYS = 512,
    /* Runs are made as long as leaves this many to each thread, to even out what threads get done. */
    RUNS_PER_THREAD = 4,
};

/* How many sequences differ: 1 if all are alike. */
static int64_t distinct_sequences(const flashc_problem *p)
{
    return flashc_problem_is_uniform(p) ? flashc_min(1, p->batch) : p->batch;
}

/* Rows of queries of one head, padding included. */
static double all_queries(const flashc_problem *p)
{
    return p->cu_seqlens_q ? (double)p->cu_seqlens_q[p->batch] : (double)p->batch * (double)p->seqlen_q;
}

static double useful_flops(const flashc_problem *p)
{
    const int64_t n = distinct_sequences(p);
    double pairs = 0;
    for (int64_t b = 0; b < n; b++) {
        const flashc_sequence s = flashc_problem_sequence(p, b);
        pairs += flashc_mask_visible_pairs(p, &s);
    }
    if (n == 1)
        pairs *= (double)p->batch;
    return 2.0 * pairs * (double)p->num_heads * (double)(p->head_dim + p->head_dim_v);
}

/* A block of at most `most` that tiles of this length are whole numbers of, or that is a whole number of tiles; a
 * multiple of step, and not less than a quarter of most. If there is none, most. */
static int64_t fit_tiles(int64_t tile, int64_t step, int64_t most)
{
    enum { MOST_BLOCKS = 64 }; /* of a longer tile hardly anything is in a block that reaches beyond it */
    if (tile <= most) {
        const int64_t block = tile * flashc_ceil_div(flashc_max(1, most / 4), tile);
        return block % step == 0 && block <= most ? block : most;
    }
    for (int64_t n = flashc_ceil_div(tile, most); n <= MOST_BLOCKS && tile / n >= most / 4; n++)
        if (tile % (n * step) == 0)
            return tile / n;
    return most;
}

/* Blocks that fit a block mask: so its hidden tiles cost nothing. */
static void fit_block_mask(flashc_plan *plan, const flashc_problem *p)
{
    const int64_t large = 1 << 20; /* anything longer than MOST_BLOCKS, and no overflow */
    if (!p->block_mask.data)
        return;
    flashc_block_shape *b = &plan->block;
    /* Without heads there is no group, and no tile to fit; the plan is made all the same. */
    b->block_m = fit_tiles(flashc_min(p->block_mask_m, large) * flashc_max(1, flashc_min(p->group, large)),
                           plan->kernel->vector->row_multiple, b->block_m);
    b->block_n = fit_tiles(flashc_min(p->block_mask_n, large), 1, b->block_n);
}

/* Are a sequence's row blocks so few that its keys are cut, if they are long? */
static bool has_few_blocks(const flashc_plan *plan, const flashc_problem *p, int64_t n_queries)
{
    const int64_t few = flashc_max(2, flashc_ceil_div(CUT_BELOW_BLOCKS, flashc_max(1, p->num_heads_k)));
    return flashc_ceil_div(n_queries * p->group, plan->block.block_m) < few;
}

static int64_t shortest_piece(const flashc_plan *plan)
{
    return flashc_round_up(PIECE_KEYS, plan->block.block_n);
}

int64_t flashc_plan_piece_keys(const flashc_plan *plan, const flashc_problem *p, const flashc_sequence *s)
{
    if (p->state)
        return flashc_attention_state_piece_keys(p->state);
    if (!has_few_blocks(plan, p, s->n_queries))
        return flashc_max(1, s->n_keys);
    int64_t piece_keys = shortest_piece(plan);
    while (flashc_ceil_div(s->n_keys, piece_keys) > FLASHC_MAX_PIECES)
        piece_keys *= 2;
    return piece_keys;
}

static void find_longest_piece(flashc_plan *plan, const flashc_problem *p)
{
    if (p->state) { /* its pieces are of rows, whichever of them are keys */
        const int64_t piece_keys = flashc_attention_state_piece_keys(p->state);
        plan->longest_piece = piece_keys < p->state->next_key + p->seqlen_k ? piece_keys : 0;
        return;
    }
    for (int64_t b = 0; b < distinct_sequences(p); b++) {
        const flashc_sequence s = flashc_problem_sequence(p, b);
        const int64_t piece_keys = flashc_plan_piece_keys(plan, p, &s);
        if (piece_keys < s.n_keys)
            plan->longest_piece = flashc_max(plan->longest_piece, piece_keys);
    }
}

/* Whole pieces of a chunk. */
static int64_t chunk_pieces(const flashc_problem *p)
{
    return flashc_max(1, p->seqlen_k / flashc_attention_state_piece_keys(p->state));
}

/* The most pieces that the rows of one item see. */
static int64_t most_pieces(const flashc_plan *plan, const flashc_problem *p)
{
    int64_t most = 1;
    if (p->state)
        return chunk_pieces(p);
    for (int64_t b = 0; plan->longest_piece > 0 && b < distinct_sequences(p); b++) {
        const flashc_sequence s = flashc_problem_sequence(p, b);
        const int64_t piece_keys = flashc_plan_piece_keys(plan, p, &s), rows = s.n_queries * p->group;
        const int64_t item_rows = plan->blocks_per_item * plan->block.block_m;
        /* Few items, since keys are cut for few row blocks only. */
        for (int64_t row = 0; piece_keys < s.n_keys && row < rows; row += item_rows) {
            const int64_t last = flashc_min(row + item_rows, rows) - 1;
            const flashc_piece_range pieces =
                flashc_plan_pieces(flashc_mask_keys_of(p, &s, row / p->group, last / p->group), piece_keys);
            most = flashc_max(most, pieces.end - pieces.begin);
        }
    }
    return most;
}

/* What the caller asks for, or what the work is worth. */
static int64_t wanted_threads(const flashc_problem *p, double flops)
{
    int64_t threads = p->num_threads;
    if (threads == 0)
        threads = (int64_t)fmin(flashc_default_threads(), 1 + flops / FLOPS_PER_THREAD);
    return flashc_threads_limit(threads);
}

/* Row blocks that share each loaded K/V tile. More than one only where items remain for all threads; no bit of a result
 * depends on it. */
static void choose_blocks_per_item(flashc_plan *plan, const flashc_problem *p, int64_t threads)
{
    const bool in_place = flashc_kv_in_place(&p->k, &plan->kernel->gemm->k, p->head_dim) &&
                          flashc_kv_in_place(&p->v, &plan->kernel->gemm->v, p->head_dim_v);
    const int64_t block_bytes = (p->head_dim + p->head_dim_v) * plan->block.block_m * (int64_t)sizeof(float);
    int64_t most = flashc_min(in_place ? MAX_BLOCKS_IN_PLACE : MAX_BLOCKS_CONVERTED, FLASHC_HALF_L2 / block_bytes);
    if (threads > 1)
        most = flashc_min(most, plan->row_blocks * p->batch * p->num_heads_k / (ITEMS_PER_THREAD * threads));
    if (plan->longest_piece > 0)
        most = 1; /* an item holds a partial state per level of the tree */
    plan->blocks_per_item = flashc_max(1, flashc_min(most, plan->row_blocks));
    plan->row_items = flashc_ceil_div(plan->row_blocks, plan->blocks_per_item);
}

/* Threads, and runs of so many pieces that occupy them: aligned, so a power of two pieces long, and at most twice as
 * many as asked for. *most_runs: a bound of runs that does not depend on the length. */
static void choose_runs(flashc_plan *plan, const flashc_problem *p, int64_t threads, int64_t pieces, int64_t *most_runs)
{
    const int64_t row_items = plan->row_items * p->batch * p->num_heads_k;
    /* Row items are divided by, not multiplied with the pieces: there may be any number of them. */
    if (flashc_ceil_div(threads, pieces) > row_items)
        threads = pieces * row_items;
    plan->num_threads = (int)flashc_max(1, threads);

    const int64_t wanted = flashc_ceil_div(RUNS_PER_THREAD * (int64_t)plan->num_threads, flashc_max(1, row_items));
    plan->run_pieces = FLASHC_MAX_PIECES; /* all of them, wherever they begin */
    plan->runs = 1;
    if (p->state && plan->num_threads > 1 && wanted > 1) {
        plan->runs = flashc_min(pieces, wanted);
    } else if (plan->num_threads > 1 && wanted > 1) {
        for (plan->run_pieces = 1; plan->run_pieces * 2 <= pieces / wanted; plan->run_pieces *= 2)
            ;
        /* A window's pieces may begin within a run. */
        const int64_t partial_runs = p->window_left >= 0 && pieces > 1;
        plan->runs = flashc_ceil_div(pieces - partial_runs, plan->run_pieces) + partial_runs;
    }
    *most_runs = plan->runs > 1 ? flashc_min(pieces, 2 * wanted + 1) : 1;
    plan->num_items = row_items * plan->runs;
}

/* What is left of a plan whose row items are known. */
static flashc_status plan_memory(flashc_plan *plan, const flashc_problem *p, int64_t threads, int64_t pieces)
{
    int64_t most_runs;
    choose_runs(plan, p, threads, pieces, &most_runs);
    plan->block_floats = 2 * flashc_round_up(plan->block.block_m, FLASHC_COLUMN_MULTIPLE) +
                         flashc_round_up(flashc_plan_tile_floats(plan, p->head_dim_v), FLASHC_COLUMN_MULTIPLE);
    plan->partial_floats = plan->block_floats * plan->blocks_per_item;
    flashc_scratch_lay_out(plan, p);
    return flashc_scratch_size_workspace(plan, plan->runs > 1 ? plan->num_items / plan->runs : 0, most_runs);
}

flashc_status flashc_plan_init(flashc_plan *plan, const flashc_problem *p, char *refused, size_t refused_size)
{
    *plan = (flashc_plan){.kernel = NULL};
    plan->rows = p->seqlen_q * p->group;
    flashc_status status = flashc_choose_kernel(p, plan->rows, &plan->kernel, refused, refused_size);
    if (status != FLASHC_OK)
        return status;
    plan->block = plan->kernel->block_shape(p->head_dim, p->head_dim_v);
    fit_block_mask(plan, p);
    const int64_t block_m = plan->rows <= plan->block.whole_m ? plan->rows : plan->block.block_m;
    plan->block.block_m = flashc_round_up(flashc_max(1, block_m), plan->kernel->vector->row_multiple);
    plan->ld = plan->kernel->vector->rows_along
                   ? flashc_round_up(flashc_max(plan->block.block_n, flashc_max(p->head_dim, p->head_dim_v)),
                                     FLASHC_COLUMN_MULTIPLE)
                   : plan->block.block_m;
    plan->flops = useful_flops(p);

    const int64_t threads = wanted_threads(p, plan->flops);
    plan->row_blocks = flashc_ceil_div(plan->rows, plan->block.block_m);
    find_longest_piece(plan, p);
    choose_blocks_per_item(plan, p, threads);
    /* An item of one block would issue more prefetches than it gains where K and V stay in L2 anyway (-4 % at
     * seqlen 512). Divided, since a long head's bytes may be beyond 64 bits. */
    const bool head_fits = p->seqlen_k < FLASHC_HALF_L2 / ((p->head_dim + p->head_dim_v) * (int64_t)sizeof(float));
    plan->prefetch_keys = plan->blocks_per_item > 1 || !head_fits;
    return plan_memory(plan, p, threads, most_pieces(plan, p));
}

/* Keys that a query sees at most, whatever its position is. */
static int64_t most_keys_of_query(const flashc_problem *p)
{
    const int64_t right = p->causal ? 0 : p->window_right;
    if (p->window_left < 0 || right < 0)
        return p->seqlen_k;
    return flashc_min(p->seqlen_k,
                      flashc_min(p->window_left, p->seqlen_k) + flashc_min(right, p->seqlen_k) + 1);
}

/* Keys of a piece, if any sequence's may be cut with no more than seqlen_k of them; else 0. */
static int64_t piece_of_fewer_keys(const flashc_plan *plan, const flashc_problem *p)
{
    if (p->state)
        return p->state->piece_n;
    bool few = has_few_blocks(plan, p, p->seqlen_q);
    for (int64_t b = 0; !few && (p->seqlens_q || p->cu_seqlens_q) && b < p->batch; b++)
        few = has_few_blocks(plan, p, flashc_problem_sequence(p, b).n_queries);
    return few && p->seqlen_k > shortest_piece(plan) ? shortest_piece(plan) : 0;
}

/* A bound of most_pieces() for any lengths and positions. */
static int64_t most_pieces_of_fewer_keys(const flashc_plan *plan, const flashc_problem *p)
{
    if (p->state)
        return chunk_pieces(p);
    const int64_t piece_keys = plan->longest_piece;
    const int64_t queries = flashc_min(p->seqlen_q, plan->block.block_m / flashc_max(1, p->group) + 2);
    const int64_t span = flashc_min(p->seqlen_k, most_keys_of_query(p) + queries - 1);
    return flashc_min(FLASHC_MAX_PIECES, flashc_min(flashc_ceil_div(p->seqlen_k, piece_keys),
                                                    flashc_ceil_div(span - 1, piece_keys) + 1));
}

flashc_status flashc_plan_workspace_bound(const flashc_plan *plan, const flashc_problem *p, size_t *size)
{
    const int64_t threads =
        wanted_threads(p, 2.0 * all_queries(p) * (double)most_keys_of_query(p) * (double)p->num_heads *
                              (double)(p->head_dim + p->head_dim_v));
    flashc_plan most = *plan;
    flashc_status status = FLASHC_OK;
    size_t bound = 0;
    most.longest_piece = piece_of_fewer_keys(plan, p);
    if (most.longest_piece > 0) {
        choose_blocks_per_item(&most, p, threads);
        status = plan_memory(&most, p, threads, most_pieces_of_fewer_keys(&most, p));
        bound = most.workspace_size;
    }
    /* Keys that are not cut. With fewer threads more row blocks may be an item's, and less work may mean fewer. */
    most.longest_piece = 0;
    for (int64_t t = flashc_max(1, threads); t > 0 && status == FLASHC_OK;) {
        choose_blocks_per_item(&most, p, t);
        status = plan_memory(&most, p, t, 1);
        bound = most.workspace_size > bound ? most.workspace_size : bound;
        const int64_t next = plan->row_blocks * p->batch * p->num_heads_k /
                             (ITEMS_PER_THREAD * (most.blocks_per_item + 1));
        t = p->num_threads > 0 || t == 1 ? 0 : flashc_max(1, flashc_min(t - 1, next));
    }
    if (status == FLASHC_OK)
        *size = bound;
    return status;
}
