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
    const int64_t n = plan->block.block_n, end = flashc_min(keys.end, block->keys.end);
    if (end > flashc_max(keys.begin, block->keys.begin)) { /* tiles begin at keys.begin, and every n keys */
        const int64_t first = flashc_max(0, block->keys.begin - keys.begin) / n;
        const int64_t last = flashc_ceil_div(end - keys.begin, n);
        const int64_t first_full = flashc_max(first, flashc_ceil_div(flashc_max(0, block->full.begin - keys.begin), n));
        const int64_t last_full = block->full.end >= end ? last : flashc_max(0, block->full.end - keys.begin) / n;
        work->tiles += last - first;
        work->edge_tiles += last - first - flashc_max(0, last_full - first_full);
        work->scores += (double)lanes * (double)(end - keys.begin - first * n);
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
