/*
 * Partial states of an item's row blocks, and the fixed tree in which those of key pieces are merged (see plan.h).
 * A partial state is one array of floats: for each row block row_max, row_sum and acc, in the kernel's layout.
 */
#ifndef FLASHC_FOLD_H
#define FLASHC_FOLD_H

#include "attention/plan.h"

/* Row block i of a partial state; n_rows of its rows are in use. */
flashc_softmax_state flashc_fold_block(const flashc_plan *plan, int64_t head_dim_v, float *partial, int64_t i,
                                       int64_t n_rows);

/* The fold of one row item: its stack of open nodes, and which piece comes next. */
typedef struct flashc_fold {
    const flashc_plan *plan;
    int64_t head_dim_v, n_rows; /* of the whole item */
    float *stack;               /* FLASHC_TREE_LEVELS partial states; 1 where keys are not cut */
    int64_t next_piece, open;   /* index of the next one; nodes on the stack */
} flashc_fold;

/* Where the next piece's partial state is to be made. */
float *flashc_fold_next(const flashc_fold *fold);

/* The piece that was made there is complete. */
void flashc_fold_add(flashc_fold *fold);

/* Merges what is open and returns the union of all pieces. There was at least one. */
float *flashc_fold_finish(flashc_fold *fold);

/* Merges the partial states of runs first .. first + n, which lie one after the other, in the same tree over the
 * index of the run, into the first of them. */
void flashc_fold_runs(const flashc_fold *fold, float *partials, int64_t first, int64_t n);

#endif
