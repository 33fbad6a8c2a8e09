/* What an item works on: blocks of query rows, and for each a tile of its scores. */
#ifndef FLASHC_BLOCK_H
#define FLASHC_BLOCK_H

#include "attention/problem.h"
#include "kernels/kernel.h"

/* Keys begin .. end - 1 of a sequence. */
typedef struct flashc_key_range {
    int64_t begin, end;
} flashc_key_range;

/* One block of query rows: row r is query r / group of head first_head + r % group, with the heads of a group
 * stacked so that each K/V row is loaded once for all of them. */
typedef struct flashc_row_block {
    int64_t index;         /* among the row blocks of its item */
    int64_t batch, head_k; /* K/V head */
    flashc_sequence sequence;
    int64_t first_row;     /* over n_queries * group */
    int64_t n_rows;        /* 1 .. block_m */
    flashc_key_range keys; /* the others are hidden from every row */
    flashc_key_range full; /* not hidden by position from any row; may be empty */
} flashc_row_block;

static inline int64_t flashc_row_query(const flashc_problem *p, const flashc_row_block *b, int64_t row)
{
    return (b->first_row + row) / p->group;
}

static inline int64_t flashc_row_head(const flashc_problem *p, const flashc_row_block *b, int64_t row)
{
    return b->head_k * p->group + (b->first_row + row) % p->group;
}

/* Column 0 of the block's row in q, o or lse. */
static inline char *flashc_row_element(const flashc_problem *p, const flashc_row_block *b, const flashc_tensor *t,
                                       int64_t row)
{
    return flashc_element(t, b->sequence.q_element, flashc_row_head(p, b, row),
                          b->sequence.first_query + flashc_row_query(p, b, row), 0);
}

/* The scores of a block's rows and keys first_key .. + n_keys, as the kernel lays them out. */
typedef struct flashc_score_tile {
    const flashc_row_block *block;
    const flashc_vector_ops *vector;
    float *scores;
    int64_t ld, lanes; /* see kernel.h */
    int64_t first_key, n_keys;
} flashc_score_tile;

/* From its first to its last score. */
static inline int64_t flashc_score_tile_floats(const flashc_score_tile *tile)
{
    return (tile->vector->rows_along ? tile->lanes : tile->n_keys) * tile->ld;
}

#endif
