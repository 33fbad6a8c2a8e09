#include "attention/span.h"

flashc_span flashc_span_of(const flashc_problem *p, const flashc_plan *plan, int64_t index)
{
    /* Head by head, so that one head's K and V stay in L2 for all its items; within a head the last rows
     * first: under causal they see the most keys, and the list should end with short items. */
    const int64_t row_index = index / plan->runs;
    const int64_t head = row_index / plan->row_items, row_item = plan->row_items - 1 - row_index % plan->row_items;
    const int64_t first_block = row_item * plan->blocks_per_item;
    return (flashc_span){
        .batch = head / p->num_heads_k,
        .head_k = head % p->num_heads_k,
        .first_block = first_block,
        .n_blocks = flashc_min(plan->blocks_per_item, plan->row_blocks - first_block),
        .run = index % plan->runs,
    };
}

flashc_row_block flashc_span_block(const flashc_problem *p, const flashc_plan *plan, const flashc_span *span,
                                   int64_t i)
{
    const int64_t m = plan->block.block_m;
    flashc_row_block block = {
        .batch = span->batch, .head_k = span->head_k, .first_row = (span->first_block + i) * m};
    block.n_rows = flashc_min(m, plan->rows - block.first_row);
    flashc_mask_resolve_block(p, &block);
    return block;
}

flashc_key_range flashc_span_keys(const flashc_plan *plan, const flashc_span *span, const flashc_row_block *blocks)
{
    int64_t key_end = 0;
    for (int64_t i = 0; i < span->n_blocks; i++)
        key_end = flashc_max(key_end, blocks[i].key_end);
    const int64_t pieces = flashc_ceil_div(key_end, plan->piece_keys), first = span->run * plan->run_pieces;
    const bool to_the_end = pieces - first <= plan->run_pieces;
    const int64_t end = to_the_end ? key_end : (first + plan->run_pieces) * plan->piece_keys;
    return (flashc_key_range){.begin = first < pieces ? first * plan->piece_keys : end, .end = end};
}
