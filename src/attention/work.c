#include "attention/work.h"

#include "attention/mask.h"
#include "attention/span.h"

/* Visible (row, key) pairs by position. */
static double visible_pairs(const flashc_problem *p, const flashc_row_block *block, flashc_key_range keys)
{
    double pairs = 0;
    for (int64_t r = 0; r < block->n_rows; r++) {
        const flashc_key_range seen = flashc_mask_keys(p, &block->sequence, flashc_row_query(p, block, r));
        pairs += (double)flashc_max(0, flashc_min(seen.end, keys.end) - flashc_max(seen.begin, keys.begin));
    }
    return pairs;
}

static void add_block(const flashc_problem *p, const flashc_plan *plan, const flashc_row_block *block,
                      flashc_key_range keys, flashc_item_work *work)
{
    const int64_t lanes = flashc_round_up(block->n_rows, plan->kernel->vector->row_multiple);
    const int64_t end = flashc_min(keys.end, block->keys.end);
    for (int64_t key = keys.begin; key < end; key += plan->block.block_n) {
        const int64_t n_keys = flashc_min(plan->block.block_n, end - key);
        if (block->keys.begin >= key + n_keys)
            continue;
        work->tiles++;
        work->edge_tiles += key < block->full.begin || key + n_keys > block->full.end;
        work->scores += (double)(lanes * n_keys);
    }
    work->rows += block->n_rows;
    work->flops += 2.0 * (double)(p->head_dim + p->head_dim_v) * visible_pairs(p, block, keys);
}

flashc_item_work flashc_work_of_item(const flashc_problem *p, const flashc_plan *plan, int64_t index)
{
    const flashc_span span = flashc_span_of(p, plan, index);
    flashc_item_work work = {.batch = span.batch, .head_k = span.head_k};
    if (span.n_blocks == 0 || span.run >= span.n_runs)
        return work;
    const flashc_piece_range pieces = flashc_plan_pieces(span.keys, span.piece_keys);
    work.first_key = span.keys.begin;
    work.keys = span.keys.end - span.keys.begin;
    work.pieces = flashc_max(1, pieces.end - pieces.begin);
    for (int64_t i = 0; i < span.n_blocks; i++) {
        const flashc_row_block block = flashc_span_block(p, plan, &span, i);
        add_block(p, plan, &block, span.keys, &work);
    }
    return work;
}
