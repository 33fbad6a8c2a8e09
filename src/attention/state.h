/*
 * A call's result kept as partial states, to which keys come chunk by chunk (flashc_attention_state). The nodes of a
 * state are those that are open in the binary counter over key pieces (see fold.h), from left to right, and an
 * unfinished piece is the last of them: so a chunk goes on where the one before it ended, bit for bit.
 */
#ifndef FLASHC_ATTENTION_STATE_H
#define FLASHC_ATTENTION_STATE_H

#include "attention/block.h"
#include "attention/problem.h"

/* All rows of a node. */
flashc_softmax_state flashc_attention_state_node(const flashc_attention_state *state, int64_t node);

/* Which of them is that of a query. */
int64_t flashc_attention_state_row(const flashc_attention_state *state, const flashc_sequence *sequence, int64_t head,
                                   int64_t query);

/* Copies a row block of one of the state's nodes to an item's partial state, or back. */
void flashc_attention_state_load(const flashc_problem *problem, const flashc_row_block *block, int64_t node,
                                 const flashc_softmax_state *to);
void flashc_attention_state_store(const flashc_problem *problem, const flashc_row_block *block, int64_t node,
                                  const flashc_softmax_state *from);

#endif
