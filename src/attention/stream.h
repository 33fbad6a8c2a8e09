/*
 * A call's result kept as partial states, to which keys come chunk by chunk (flashc_attention_state). The nodes of a
 * state are those that are open in the binary counter over key pieces (see fold.h), from left to right, and an
 * unfinished piece is the last of them: so a chunk goes on where the one before it ended, bit for bit.
 */
#ifndef FLASHC_STREAM_H
#define FLASHC_STREAM_H

#include "attention/mask.h"
#include "attention/plan.h"
#include "attention/problem.h"

/* Keys of a piece; more than there can be if they are not cut. */
int64_t flashc_stream_piece_keys(const flashc_attention_state *state);

/* One step of a chunk: the keys begin .. end - 1, which all lie in piece number `index`. */
typedef struct flashc_stream_step {
    int64_t index, end;
    bool continues; /* the last node, which is unfinished */
    bool completes; /* the piece: its node meets those before it */
} flashc_stream_step;

/* The step from key begin on of a chunk that ends at `end`, with so many nodes before it. */
flashc_stream_step flashc_stream_next(const flashc_attention_state *state, int64_t begin, int64_t end, int64_t nodes);

/* What execute leaves in every row of so many nodes when it takes the keys begin .. end - 1. */
int64_t flashc_stream_nodes_after(const flashc_attention_state *state, int64_t begin, int64_t end, int64_t nodes);

/* Sets plan->pass to what of a chunk's keys, up to `end`, comes after the pass that was. Threads get runs of equal
 * length where whole pieces are left; the bits are those of piece after piece. */
void flashc_stream_next_pass(const flashc_attention_state *state, flashc_plan *plan, int64_t end);

/* All rows of a node. */
flashc_softmax_state flashc_stream_node(const flashc_attention_state *state, int64_t node);

/* Which of them is that of a query. */
int64_t flashc_stream_row(const flashc_attention_state *state, const flashc_sequence *sequence, int64_t head,
                          int64_t query);

/* Copies a row block of one of the state's nodes to an item's partial state, or back. */
void flashc_stream_load(const flashc_problem *problem, const flashc_row_block *block, int64_t node,
                        const flashc_softmax_state *to);
void flashc_stream_store(const flashc_problem *problem, const flashc_row_block *block, int64_t node,
                         const flashc_softmax_state *from);

#endif
