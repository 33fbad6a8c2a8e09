/*
 * The way of one item: for each piece of its keys, and in it for each key tile, load it once, then for each row
 * block that can see it
 *     Q K^T -> score stages -> mask -> online softmax -> P V.
 * Pieces are folded as they are done. An item that holds all pieces of its rows divides by the row sums and
 * stores; of several runs over the same rows the one that ends last folds the runs' results first.
 */
#include "attention/item.h"

#include "attention/fold.h"
#include "attention/stages.h"
#include "attention/state.h"
#include "numerics.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

static void clear(const flashc_item *it, const flashc_softmax_state *state)
{
    for (int64_t r = 0; r < state->rows; r++) {
        state->row_max[r] = -INFINITY;
        state->row_sum[r] = 0.0f;
    }
    memset(state->acc, 0, (size_t)flashc_plan_tile_floats(it->plan, state->head_dim_v) * sizeof(float));
}

/* it->partial as a node of the problem's state holds it; node < 0: of no keys. */
static void load_node(const flashc_item *it, int64_t node)
{
    for (int64_t i = 0; i < it->span.n_blocks; i++) {
        const flashc_softmax_state state = flashc_tiles_state(it, &it->blocks[i]);
        clear(it, &state);
        if (node >= 0)
            flashc_attention_state_load(it->p, &it->blocks[i], node, &state);
    }
}

static bool partial_is_finite(const flashc_item *it)
{
    bool finite = true;
    for (int64_t i = 0; i < it->span.n_blocks; i++)
        finite = finite && it->vector->all_finite(flashc_tiles_state(it, &it->blocks[i]).acc, it->plan->ld,
                                                  it->blocks[i].n_rows, it->p->head_dim_v);
    return finite;
}

/* One piece, begin .. end of the keys that the run has until run_end, into it->partial, on top of what a node of the
 * problem's state holds (node < 0: nothing); see careful.h. Returns false if told to end. */
static bool run_piece(flashc_item *it, int64_t node, int64_t begin, int64_t end, int64_t run_end)
{
    it->careful = false;
    for (;;) {
        load_node(it, node);
        if (!flashc_tiles_run(it, begin, end, run_end))
            return false;
        if (it->careful || partial_is_finite(it))
            return true;
        it->careful = true;
    }
}

/* All pieces of the item's run that its rows can see; without any, one of no keys. Returns their union, or NULL if
 * told to end. */
static float *run_pieces(flashc_item *it, flashc_fold *fold)
{
    const flashc_key_range keys = it->span.keys;
    int64_t begin = keys.begin;
    fold->next_piece = begin / it->span.piece_keys;
    do {
        const int64_t left = it->span.piece_keys - begin % it->span.piece_keys; /* of this piece */
        const int64_t end = keys.end - begin > left ? begin + left : keys.end;
        it->partial = flashc_fold_next(fold);
        if (!run_piece(it, -1, begin, end, keys.end))
            return NULL;
        flashc_fold_add(fold);
        begin = end;
    } while (begin < keys.end);
    return flashc_fold_finish(fold);
}

/* The part of a piece, of these rows of the one call, that the item's rows may see. */
static bool run_part(flashc_item *it, int64_t node, int64_t begin, int64_t end)
{
    const flashc_key_range keys = it->span.keys;
    const int64_t leftpad = it->span.sequence.leftpad;
    return run_piece(it, node, flashc_max(begin - leftpad, keys.begin), flashc_min(end - leftpad, keys.end),
                     keys.end);
}

static void load_nodes(flashc_item *it, flashc_fold *fold)
{
    for (fold->open = 0; fold->open < it->plan->pass.nodes; fold->open++) {
        it->partial = flashc_fold_next(fold);
        load_node(it, fold->open);
    }
}

static void store_nodes(flashc_item *it, flashc_fold *fold)
{
    for (int64_t nodes = fold->open, node = 0; node < nodes; node++) {
        fold->open = node;
        it->partial = flashc_fold_next(fold);
        for (int64_t i = 0; i < it->span.n_blocks; i++) {
            const flashc_softmax_state rows = flashc_tiles_state(it, &it->blocks[i]);
            flashc_attention_state_store(it->p, &it->blocks[i], node, &rows);
        }
    }
}

/* All pieces of the pass, also those that its rows do not see, on top of the state's nodes. An item that was told to
 * end leaves the state as it was. */
static void run_chunk(flashc_item *it, flashc_fold *fold)
{
    const flashc_chunk_pass *pass = &it->plan->pass;
    flashc_attention_state_step step;
    load_nodes(it, fold);
    for (int64_t begin = pass->begin; begin < pass->end; begin = step.end) {
        step = flashc_attention_state_next(it->p->state, begin, pass->end, fold->open);
        fold->open -= step.continues;
        fold->next_piece = step.index;
        it->partial = flashc_fold_next(fold);
        if (!run_part(it, step.continues ? fold->open : -1, begin, step.end))
            return;
        if (step.completes)
            flashc_fold_add(fold);
        else
            fold->open++;
    }
    store_nodes(it, fold);
}

/* Hands in the result of one of n_runs runs. The last to do so gets all of them, one after the other, the others
 * NULL. */
static float *hand_in(const flashc_item *it, const float *partial, int64_t n_runs)
{
    const flashc_plan *plan = it->plan;
    char *workspace = it->worker->workspace;
    const int64_t row_index = it->index / plan->runs;
    float *all = (float *)(void *)(workspace + plan->shared_partials);
    all += row_index * plan->runs * plan->partial_floats;
    atomic_int *count = (atomic_int *)(void *)(workspace + plan->shared_counts) + row_index;
    memcpy(all + it->index % plan->runs * plan->partial_floats, partial,
           (size_t)plan->partial_floats * sizeof(float));
    return atomic_fetch_add(count, 1) + 1 < n_runs ? NULL : all;
}

/* One of the pass's runs; the last to end puts all of them on top of the state's nodes. A run is a node: what remains
 * is the tree over the runs. */
static void run_part_of_chunk(flashc_item *it, flashc_fold *fold)
{
    const flashc_chunk_pass *pass = &it->plan->pass;
    const int64_t run = it->index % it->plan->runs, floats = it->plan->partial_floats;
    const int64_t first = pass->begin + run * pass->run_keys;
    fold->next_piece = first / it->span.piece_keys;
    for (int64_t begin = first; begin < first + pass->run_keys; begin += it->span.piece_keys) {
        it->partial = flashc_fold_next(fold);
        if (!run_part(it, -1, begin, begin + it->span.piece_keys))
            return;
        flashc_fold_add(fold);
    }
    const float *all = hand_in(it, flashc_fold_finish(fold), pass->n_runs);
    if (!all)
        return;
    load_nodes(it, fold);
    fold->next_piece = pass->begin / pass->run_keys;
    for (int64_t i = 0; i < pass->n_runs; i++) {
        memcpy(flashc_fold_next(fold), all + i * floats, (size_t)floats * sizeof(float));
        flashc_fold_add(fold);
    }
    store_nodes(it, fold);
}

/* Where lse or row_max has its number for a row of the block; NULL if it is not wanted. */
static float *output_at(const flashc_problem *p, const flashc_row_block *block, const flashc_tensor *output,
                        int64_t row)
{
    return output->data ? (float *)(void *)flashc_row_element(p, block, output, row) : NULL;
}

static void store_block(const flashc_item *it, const flashc_row_block *block)
{
    const flashc_problem *p = it->p;
    const flashc_softmax_state state = flashc_tiles_state(it, block);
    void *row[FLASHC_MAX_BLOCK_M];
    float factor[FLASHC_MAX_BLOCK_M] = {0};
    for (int64_t r = 0; r < block->n_rows; r++) {
        row[r] = flashc_row_element(p, block, &p->o, r);
        flashc_stages_finish_row(p, flashc_row_head(p, block, r), state.row_max[r], state.row_sum[r], &factor[r],
                                 output_at(p, block, &p->lse, r), output_at(p, block, &p->row_max, r));
    }
    it->vector->store_rows(row, p->o.dtype, p->o.stride[3], state.acc, it->plan->ld, block->n_rows, p->head_dim_v,
                           factor);
}

/* The item's rows that are beyond its sequence, as rows that see nothing. */
static void store_padding(const flashc_item *it)
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
        float *lse = output_at(p, &block, &p->lse, row), *row_max = output_at(p, &block, &p->row_max, row);
        if (lse)
            *lse = -INFINITY;
        if (row_max)
            *row_max = -INFINITY;
    }
}

void flashc_items_prepare(const flashc_plan *plan, char *workspace)
{
    atomic_int *counts = (atomic_int *)(void *)(workspace + plan->shared_counts);
    for (int64_t i = 0; plan->runs > 1 && i < plan->num_items / plan->runs; i++)
        atomic_init(&counts[i], 0);
}

/* What the item's rows are after all of its keys, by whichever of the runs over them ends last. */
static void run_rows(flashc_item *it, flashc_fold *fold)
{
    it->partial = run_pieces(it, fold);
    if (it->partial && it->span.n_runs > 1) {
        it->partial = hand_in(it, it->partial, it->span.n_runs);
        if (it->partial)
            flashc_fold_runs(fold, it->partial, it->span.first_run, it->span.n_runs);
    }
    for (int64_t i = 0; it->partial && i < it->span.n_blocks; i++)
        store_block(it, &it->blocks[i]);
}

void flashc_item_run(const flashc_problem *problem, const flashc_plan *plan, int64_t index,
                     const flashc_worker *worker)
{
    flashc_row_block blocks[FLASHC_MAX_BLOCKS_PER_ITEM];
    flashc_item it = flashc_tiles_open(problem, plan, worker);
    it.index = index;
    it.span = flashc_span_of(problem, plan, index);
    it.blocks = blocks;
    if (!plan->kernel->vector->rows_along && index + plan->num_threads < plan->num_items)
        it.next = flashc_span_of(problem, plan, index + plan->num_threads);
    if (it.span.run >= it.span.n_runs || (problem->state && index % plan->runs >= flashc_max(1, plan->pass.n_runs)))
        return;
    if (it.span.run == 0 && !problem->state)
        store_padding(&it);
    if (it.span.n_blocks == 0)
        return;
    flashc_fold fold = {.plan = plan, .head_dim_v = problem->head_dim_v, .stack = it.partials};
    for (int64_t i = 0; i < it.span.n_blocks; i++) {
        blocks[i] = flashc_span_block(problem, plan, &it.span, i);
        flashc_tiles_load_queries(&it, &blocks[i]);
        fold.n_rows += blocks[i].n_rows;
    }
    if (!problem->state)
        run_rows(&it, &fold);
    else if (plan->pass.n_runs > 0)
        run_part_of_chunk(&it, &fold);
    else
        run_chunk(&it, &fold);
}
