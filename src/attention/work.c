#include "attention/work.h"

#include "attention/mask.h"
#include "attention/span.h"

/* Visible (row, key) pairs by position. */
static double visible_pairs(const flashc_problem *p, const flashc_row_block *block, flashc_key_range keys)
{
    double pairs = 0;
    for (int64_t r = 0; r < block->n_rows; r++) {
        const int64_t end = flashc_mask_key_end(p, block->batch, flashc_row_query(p, block, r));
        pairs += (double)flashc_max(0, flashc_min(end, keys.end) - keys.begin);
    }
    return pairs;
}

static void add_block(const flashc_problem *p, const flashc_plan *plan, const flashc_row_block *block,
                      flashc_key_range keys, flashc_item_work *work)
{
    const int64_t lanes = flashc_round_up(block->n_rows, plan->kernel->vector->row_multiple);
    const int64_t end = flashc_min(keys.end, block->key_end);
    for (int64_t key = keys.begin; key < end; key += plan->block.block_n) {
        const int64_t n_keys = flashc_min(plan->block.block_n, end - key);
        work->tiles++;
        work->edge_tiles += key + n_keys > block->key_full;
        work->scores += (double)(lanes * n_keys);
    }
    work->rows += block->n_rows;
    work->flops += 2.0 * (double)(p->head_dim + p->head_dim_v) * visible_pairs(p, block, keys);
}

flashc_item_work flashc_work_of_item(const flashc_problem *p, const flashc_plan *plan, int64_t index)
{
    const flashc_span span = flashc_span_of(p, plan, index);
    flashc_row_block blocks[FLASHC_MAX_BLOCKS_PER_ITEM];
    for (int64_t i = 0; i < span.n_blocks; i++)
        blocks[i] = flashc_span_block(p, plan, &span, i);
    const flashc_key_range keys = flashc_span_keys(plan, &span, blocks);
    flashc_item_work work = {
        .batch = span.batch,
        .head_k = span.head_k,
        .keys = keys.end - keys.begin,
        .pieces = flashc_max(1, flashc_ceil_div(keys.end - keys.begin, plan->piece_keys)),
    };
    for (int64_t i = 0; i < span.n_blocks; i++)
        add_block(p, plan, &blocks[i], keys, &work);
    return work;
}
