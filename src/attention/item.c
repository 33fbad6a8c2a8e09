/*
 * The way of one item: for each piece of its keys, and in it for each key tile, load it once, then for each row
 * block that can see it
 *     Q K^T -> score stages -> mask -> online softmax -> P V.
 * Pieces are folded as they are done. An item that holds all pieces of its rows divides by the row sums and
 * stores; of several runs over the same rows the one that ends last folds the runs' results first.
 */
#include "attention/item.h"

#include "attention/cache.h"
#include "attention/careful.h"
#include "attention/fold.h"
#include "attention/mask.h"
#include "attention/span.h"
#include "attention/stages.h"
#include "attention/upcoming.h"
#include "numerics.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

/* The item's scratch and geometry in one place. */
typedef struct item {
    const flashc_problem *p;
    const flashc_plan *plan;
    const flashc_vector_ops *vector;
    flashc_span span;
    int64_t likely_next_row; /* first row of the item that this thread takes next, if it is of this head; or < 0 */
    bool careful;
    float *partial; /* the state that this piece is made in */
    flashc_tile_scratch k_scratch, v_scratch;
    float *qt, *scores, *v_finite, *correction;
    uint8_t *hidden;
} item;

static item open_item(const flashc_problem *p, const flashc_plan *plan, int64_t index, char *slot)
{
    const flashc_scratch_layout *s = &plan->scratch;
    const flashc_span span = flashc_span_of(p, plan, index);
    return (item){
        .p = p,
        .plan = plan,
        .vector = plan->kernel->vector,
        .span = span,
        .likely_next_row =
            plan->runs > 1
                ? -1
                : (span.first_block - plan->num_threads * plan->blocks_per_item) * plan->block.block_m,
        .qt = (float *)(void *)(slot + s->qt),
        .scores = (float *)(void *)(slot + s->scores),
        .k_scratch = {.copy = (float *)(void *)(slot + s->k_tile),
                      .gathered = slot + s->gathered,
                      .row = (const void **)(void *)(slot + s->k_rows),
                      .scale = (float *)(void *)(slot + s->k_scale)},
        .v_scratch = {.copy = (float *)(void *)(slot + s->v_tile),
                      .gathered = slot + s->gathered,
                      .row = (const void **)(void *)(slot + s->v_rows),
                      .scale = (float *)(void *)(slot + s->v_scale)},
        .v_finite = (float *)(void *)(slot + s->v_finite),
        .hidden = (uint8_t *)(slot + s->hidden),
        .correction = (float *)(void *)(slot + s->correction),
    };
}

/* All rows of row block i that the kernel may touch. */
static flashc_softmax_state block_state(const item *it, int64_t i)
{
    return flashc_fold_block(it->plan, it->p->head_dim_v, it->partial, i, it->plan->block.block_m);
}

static float *block_queries(const item *it, int64_t i)
{
    return it->qt + i * flashc_plan_tile_floats(it->plan, it->p->head_dim);
}

static void load_queries(const item *it, int64_t i, const flashc_row_block *block)
{
    const flashc_problem *p = it->p;
    const void *row[FLASHC_MAX_BLOCK_M];
    for (int64_t r = 0; r < block->n_rows; r++)
        row[r] = flashc_row_element(p, block, &p->q, r);
    const flashc_rows rows = {.row = row, .dtype = p->q.dtype, .col_stride = p->q.stride[3]};
    it->vector->load_rows(block_queries(it, i), it->plan->ld, rows, block->n_rows, p->head_dim,
                          it->plan->kernel->gemm->scales_scores ? 1.0f : p->softmax_scale);
}

static void clear_block(const item *it, int64_t i)
{
    const flashc_softmax_state state = block_state(it, i);
    for (int64_t r = 0; r < state.rows; r++) {
        state.row_max[r] = -INFINITY;
        state.row_sum[r] = 0.0f;
    }
    memset(state.acc, 0, (size_t)flashc_plan_tile_floats(it->plan, state.head_dim_v) * sizeof(float));
}

/* Floats from a row of v_finite to the next. */
static int64_t finite_v_ld(const item *it)
{
    return flashc_round_up(it->p->head_dim_v, it->plan->kernel->gemm->v.col_multiple);
}

/* One key tile against one row block. */
static void run_tile(const item *it, int64_t i, const flashc_row_block *block, flashc_kv_tile k, flashc_kv_tile v,
                     int64_t first_key, int64_t n_keys, bool v_has_non_finite)
{
    const flashc_problem *p = it->p;
    const flashc_vector_ops *vector = it->vector;
    const flashc_gemm_ops *gemm = it->plan->kernel->gemm;
    const int64_t ld = it->plan->ld;
    const int64_t lanes = flashc_round_up(block->n_rows, vector->row_multiple);
    const flashc_softmax_state state = block_state(it, i);

    if (flashc_mask_hides_tile(p, block, first_key, n_keys))
        return;
    gemm->qk(it->scores, k, block_queries(it, i), ld, n_keys, lanes, p->head_dim,
             gemm->scales_scores ? p->softmax_scale : 1.0f);
    if (k.scale)
        vector->scale_keys(it->scores, ld, n_keys, lanes, k.scale);
    flashc_stages_run(p, block, vector, ld, lanes, first_key, n_keys, it->scores, it->hidden);
    flashc_mask_hide(p, block, vector, ld, lanes, first_key, n_keys, it->scores);
    if (v_has_non_finite)
        flashc_careful_note_hidden(it->scores, flashc_plan_tile_floats(it->plan, n_keys), it->hidden);
    vector->softmax(it->scores, ld, n_keys, lanes, state.row_max, state.row_sum, it->correction);
    if (v.scale)
        vector->scale_keys(it->scores, ld, n_keys, lanes, v.scale);
    if (p->head_dim_v > 0)
        gemm->pv(state.acc, v, it->scores, ld, n_keys, lanes, p->head_dim_v, it->correction);
    if (v_has_non_finite) {
        const flashc_softmax_state rows =
            flashc_fold_block(it->plan, p->head_dim_v, it->partial, i, block->n_rows);
        flashc_careful_add(&rows, &p->v, block->sequence.k_element, it->span.head_k,
                           block->sequence.first_key + first_key, n_keys, it->v_finite, finite_v_ld(it), it->hidden,
                           flashc_row_step(vector, ld), flashc_col_step(vector, ld));
    }
}

/* Hints for row block i at this key tile, `left` keys from the end; see upcoming.h. */
static void name_upcoming(const item *it, int64_t i, const flashc_row_block *block, int64_t key, int64_t left,
                          flashc_kv_tile *k, flashc_kv_tile *v)
{
    const flashc_problem *p = it->p;
    const int64_t block_n = it->plan->block.block_n, m = it->plan->block.block_m;
    k->upcoming = v->upcoming = (flashc_upcoming){.row = NULL};
    if (block->keys.end <= key + block_n) {
        k->upcoming = flashc_upcoming_rows(p, &p->q, p->head_dim, &block->sequence, it->span.head_k,
                                           it->likely_next_row + i * m, m);
        v->upcoming = flashc_upcoming_rows(p, &p->o, p->head_dim_v, &block->sequence, it->span.head_k,
                                           block->first_row, block->n_rows);
    } else if (left > 0 && it->plan->prefetch_keys && !it->careful) { /* with care, V is a copy of one tile */
        k->upcoming = flashc_upcoming_keys(*k, block_n, left, p->head_dim, i, it->span.n_blocks);
        v->upcoming = flashc_upcoming_keys(*v, block_n, left, p->head_dim_v, i, it->span.n_blocks);
    }
    const flashc_upcoming bias =
        flashc_upcoming_bias(p, block, key, flashc_min(block_n, block->keys.end - key));
    if (bias.n_rows > 0)
        k->upcoming = bias; /* needed before the next keys, and harder to foresee */
}

/* A tile of V: of the careful pass with 0 in place of NaN and infinity, see careful.h. Its scales multiply P; but where
 * V is packed P may be of fewer bits, and they multiply the rows on their way. */
static flashc_kv_tile load_v(const item *it, const flashc_tile_rows *rows, bool *has_non_finite)
{
    const flashc_problem *p = it->p;
    const flashc_kernel_row *kernel = it->plan->kernel;
    const flashc_operand *operand = &kernel->gemm->v;
    const float *scale = flashc_cache_load_scales(&p->v, rows, &it->v_scratch);
    const bool scale_rows = scale && operand->pack;
    flashc_kv_tile v;
    *has_non_finite = false;
    if (it->careful || scale_rows) {
        const int64_t ld = finite_v_ld(it);
        flashc_cache_load_f32(&p->v, kernel, rows, p->head_dim_v, it->v_finite, ld);
        if (it->careful)
            *has_non_finite = flashc_careful_clear(it->v_finite, rows->n, p->head_dim_v, ld);
        for (int64_t i = 0; i < rows->n * ld && scale_rows; i++)
            it->v_finite[i] *= scale[i / ld];
        const flashc_tile tile = {.data = it->v_finite, .dtype = FLASHC_F32, .row_stride = ld, .col_stride = 1};
        v = operand->pack ? operand->pack(it->v_scratch.copy, tile, rows->n, p->head_dim_v)
                          : (flashc_kv_tile){.data = tile.data, .dtype = tile.dtype, .row_stride = ld};
    } else {
        v = flashc_cache_load(&p->v, kernel, operand, rows, p->head_dim_v, &it->v_scratch);
    }
    v.scale = scale_rows ? NULL : scale;
    return v;
}

static bool any_block_reaches(const item *it, const flashc_row_block *blocks, int64_t key, int64_t n_keys)
{
    for (int64_t i = 0; i < it->span.n_blocks; i++)
        if (flashc_mask_reaches(it->p, &blocks[i], key, n_keys))
            return true;
    return false;
}

/* The key tiles begin .. end of an item whose keys go on until run_end. Returns false if told to end. */
static bool run_keys(const item *it, const flashc_row_block *blocks, int64_t begin, int64_t end, int64_t run_end,
                     flashc_keep_going_fn keep_going, void *context)
{
    const flashc_problem *p = it->p;
    const flashc_kernel_row *kernel = it->plan->kernel;
    const int64_t block_n = it->plan->block.block_n;
    for (int64_t key = begin; key < end; key += block_n) {
        if (!keep_going(context))
            return false;
        const int64_t n_keys = flashc_min(block_n, end - key);
        if (p->block_mask.data && !any_block_reaches(it, blocks, key, n_keys))
            continue;
        const flashc_tile_rows rows = {.sequence = it->span.sequence.k_element,
                                       .head = it->span.head_k,
                                       .first = it->span.sequence.first_key + key,
                                       .n = n_keys,
                                       .next = flashc_min(n_keys, run_end - key - n_keys)};
        flashc_kv_tile k =
            flashc_cache_load(&p->k, kernel, &kernel->gemm->k, &rows, p->head_dim, &it->k_scratch);
        k.scale = flashc_cache_load_scales(&p->k, &rows, &it->k_scratch);
        bool v_has_non_finite;
        flashc_kv_tile v = load_v(it, &rows, &v_has_non_finite);
        for (int64_t i = 0; i < it->span.n_blocks; i++)
            if (flashc_mask_reaches(p, &blocks[i], key, n_keys)) {
                name_upcoming(it, i, &blocks[i], key, run_end - key - block_n, &k, &v);
                run_tile(it, i, &blocks[i], k, v, key, flashc_min(n_keys, blocks[i].keys.end - key), v_has_non_finite);
            }
    }
    return true;
}

/* One piece, begin .. end, into it->partial; see careful.h. Returns false if told to end. */
static bool run_piece(item *it, const flashc_row_block *blocks, int64_t begin, int64_t end, int64_t run_end,
                      flashc_keep_going_fn keep_going, void *context)
{
    it->careful = false;
    for (;;) {
        for (int64_t i = 0; i < it->span.n_blocks; i++)
            clear_block(it, i);
        if (!run_keys(it, blocks, begin, end, run_end, keep_going, context))
            return false;
        bool finite = true;
        for (int64_t i = 0; i < it->span.n_blocks; i++)
            finite = finite && it->vector->all_finite(block_state(it, i).acc, it->plan->ld,
                                                      blocks[i].n_rows, it->p->head_dim_v);
        if (finite || it->careful)
            return true;
        it->careful = true;
    }
}

/* All pieces of the item's run that its rows can see; without any, one of no keys. Returns their union, or NULL if
 * told to end. */
static float *run_pieces(item *it, const flashc_row_block *blocks, flashc_fold *fold,
                         flashc_keep_going_fn keep_going, void *context)
{
    const flashc_key_range keys = it->span.keys;
    int64_t begin = keys.begin;
    fold->next_piece = begin / it->span.piece_keys;
    do {
        const int64_t left = it->span.piece_keys - begin % it->span.piece_keys; /* of this piece */
        const int64_t end = keys.end - begin > left ? begin + left : keys.end;
        it->partial = flashc_fold_next(fold);
        if (!run_piece(it, blocks, begin, end, keys.end, keep_going, context))
            return NULL;
        flashc_fold_add(fold);
        begin = end;
    } while (begin < keys.end);
    return flashc_fold_finish(fold);
}

/* Hands in the result of one of several runs. The last to do so gets their union, the others NULL. */
static float *join_runs(const item *it, const flashc_fold *fold, const float *partial, int64_t index, char *workspace)
{
    const flashc_plan *plan = it->plan;
    const flashc_span *span = &it->span;
    const int64_t row_index = index / plan->runs;
    float *all = (float *)(void *)(workspace + plan->shared_partials);
    all += row_index * plan->runs * plan->partial_floats;
    atomic_int *count = (atomic_int *)(void *)(workspace + plan->shared_counts) + row_index;
    memcpy(all + span->run * plan->partial_floats, partial, (size_t)plan->partial_floats * sizeof(float));
    if (atomic_fetch_add(count, 1) + 1 < span->n_runs)
        return NULL;
    flashc_fold_runs(fold, all, span->first_run, span->n_runs);
    return all;
}

static void store_block(const item *it, int64_t i, const flashc_row_block *block)
{
    const flashc_problem *p = it->p;
    const flashc_softmax_state state = block_state(it, i);
    void *row[FLASHC_MAX_BLOCK_M];
    float factor[FLASHC_MAX_BLOCK_M] = {0};
    for (int64_t r = 0; r < block->n_rows; r++) {
        float *lse = p->lse.data ? (float *)(void *)flashc_row_element(p, block, &p->lse, r) : NULL;
        row[r] = flashc_row_element(p, block, &p->o, r);
        flashc_stages_finish_row(p, flashc_row_head(p, block, r), state.row_max[r], state.row_sum[r], &factor[r], lse);
    }
    it->vector->store_rows(row, p->o.dtype, p->o.stride[3], state.acc, it->plan->ld, block->n_rows, p->head_dim_v,
                           factor);
}

/* The item's rows that are beyond its sequence, as rows that see nothing. */
static void store_padding(const item *it)
{
    const flashc_problem *p = it->p;
    const int64_t m = it->plan->block.block_m, first_row = it->span.first_block * m;
    const int64_t end = flashc_min(it->plan->rows, first_row + it->plan->blocks_per_item * m);
    if (p->cu_seqlens_q) /* there, rows beyond it are the next one's */
        return;
    const flashc_row_block block = {.sequence = it->span.sequence, .head_k = it->span.head_k};
    for (int64_t row = flashc_max(first_row, it->span.sequence.n_queries * p->group); row < end; row++) {
        for (int64_t d = 0; d < p->head_dim_v; d++)
            flashc_store_f32(flashc_row_element(p, &block, &p->o, row), p->o.dtype, d * p->o.stride[3], 0.0f);
        if (p->lse.data)
            *(float *)(void *)flashc_row_element(p, &block, &p->lse, row) = -INFINITY;
    }
}

void flashc_items_prepare(const flashc_plan *plan, char *workspace)
{
    atomic_int *counts = (atomic_int *)(void *)(workspace + plan->shared_counts);
    for (int64_t i = 0; plan->runs > 1 && i < plan->num_items / plan->runs; i++)
        atomic_init(&counts[i], 0);
}

void flashc_item_run(const flashc_problem *problem, const flashc_plan *plan, int64_t index, char *workspace, int slot,
                     flashc_keep_going_fn keep_going, void *context)
{
    char *scratch = workspace + (size_t)slot * plan->scratch.size;
    item it = open_item(problem, plan, index, scratch);
    flashc_row_block blocks[FLASHC_MAX_BLOCKS_PER_ITEM];
    flashc_fold fold = {.plan = plan,
                        .head_dim_v = problem->head_dim_v,
                        .stack = (float *)(void *)(scratch + plan->scratch.partials)};
    if (it.span.run >= it.span.n_runs)
        return;
    if (it.span.run == 0)
        store_padding(&it);
    if (it.span.n_blocks == 0)
        return;
    for (int64_t i = 0; i < it.span.n_blocks; i++) {
        blocks[i] = flashc_span_block(problem, plan, &it.span, i);
        load_queries(&it, i, &blocks[i]);
        fold.n_rows += blocks[i].n_rows;
    }
    it.partial = run_pieces(&it, blocks, &fold, keep_going, context);
    if (it.partial && it.span.n_runs > 1)
        it.partial = join_runs(&it, &fold, it.partial, index, workspace);
    for (int64_t i = 0; it.partial && i < it.span.n_blocks; i++)
        store_block(&it, i, &blocks[i]);
}
