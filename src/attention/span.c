#include "attention/span.h"

#include "attention/mask.h"

/* Fills what is about keys. Tiles lie at multiples of block_n, and pieces at multiples of theirs, whatever a row
 * sees; a run is run_pieces of them. */
static void cut_keys(const flashc_problem *p, const flashc_plan *plan, flashc_span *span)
{
    const int64_t m = plan->block.block_m, rows = span->sequence.n_queries * p->group;
    span->n_runs = 1;
    if (span->n_blocks == 0)
        return;
    const int64_t last_row = flashc_min(rows, (span->first_block + span->n_blocks) * m) - 1;
    const flashc_key_range seen =
        flashc_mask_keys_of(p, &span->sequence, span->first_block * m / p->group, last_row / p->group);
    if (seen.begin >= seen.end)
        return;
    const flashc_piece_range pieces = flashc_plan_pieces(seen, span->piece_keys);
    span->first_run = pieces.begin / plan->run_pieces;
    span->n_runs = flashc_ceil_div(pieces.end, plan->run_pieces) - span->first_run;
    const int64_t first_piece = (span->first_run + span->run) * plan->run_pieces;
    if (span->run >= span->n_runs)
        return;
    const int64_t begin = flashc_max(first_piece * span->piece_keys, seen.begin);
    span->keys.begin = flashc_max(begin - begin % plan->block.block_n, span->sequence.begin_key);
    const bool to_the_end = pieces.end - first_piece <= plan->run_pieces;
    span->keys.end = to_the_end ? seen.end : (first_piece + plan->run_pieces) * span->piece_keys;
}

flashc_span flashc_span_of(const flashc_problem *p, const flashc_plan *plan, int64_t index)
{
    /* Head by head, so that one head's K and V stay in L2 for all its items; within a head the last rows
     * first: under causal they see the most keys, and the list should end with short items. */
    const int64_t row_index = index / plan->runs;
    const int64_t head = row_index / plan->row_items, row_item = plan->row_items - 1 - row_index % plan->row_items;
    flashc_span span = {
        .batch = head / p->num_heads_k,
        .head_k = head % p->num_heads_k,
        .sequence = flashc_problem_sequence(p, head / p->num_heads_k),
        .first_block = row_item * plan->blocks_per_item,
        .run = p->state ? 0 : index % plan->runs, /* a chunk's runs are those of its pass */
    };
    const int64_t row_blocks = flashc_ceil_div(span.sequence.n_queries * p->group, plan->block.block_m);
    span.n_blocks = flashc_max(0, flashc_min(plan->blocks_per_item, row_blocks - span.first_block));
    span.piece_keys = flashc_plan_piece_keys(plan, p, &span.sequence);
    cut_keys(p, plan, &span);
    return span;
}

flashc_row_block flashc_span_block(const flashc_problem *p, const flashc_plan *plan, const flashc_span *span,
                                   int64_t i)
{
    const int64_t m = plan->block.block_m;
    flashc_row_block block = {.index = i,
                              .batch = span->batch,
                              .head_k = span->head_k,
                              .sequence = span->sequence,
                              .first_row = (span->first_block + i) * m};
    block.n_rows = flashc_min(m, span->sequence.n_queries * p->group - block.first_row);
    flashc_mask_resolve_block(p, &block);
    return block;
}
