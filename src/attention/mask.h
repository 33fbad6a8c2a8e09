/*
 * Which keys can a query see? The one place that knows, in two steps: a key range for a span of
 * queries, then, for one tile, whether it is hidden, fully visible or in between, and what is hidden in it.
 * Positions (causal) become per-row limits; the bias and the boolean mask (0 or -inf) are added to the scores from
 * where they lie, and -inf hides.
 */
#ifndef FLASHC_MASK_H
#define FLASHC_MASK_H

#include "attention/problem.h"
#include "kernels/kernel.h"

/* One block of query rows: row r is query r / group of head first_head + r % group, with the heads of a group
 * stacked so that each K/V row is loaded once for all of them. */
typedef struct flashc_row_block {
    int64_t batch, head_k; /* K/V head */
    int64_t first_row;     /* over seqlen_q * group */
    int64_t n_rows;        /* 1 .. block_m */
    int64_t key_end;       /* keys from here on are hidden from every row */
    int64_t key_full;      /* keys before this are not hidden by position from any row */
} flashc_row_block;

static inline int64_t flashc_row_query(const flashc_problem *p, const flashc_row_block *b, int64_t row)
{
    return (b->first_row + row) / p->group;
}

static inline int64_t flashc_row_head(const flashc_problem *p, const flashc_row_block *b, int64_t row)
{
    return b->head_k * p->group + (b->first_row + row) % p->group;
}

/* One past the last key that query may see by position, in 0 .. seqlen_k. */
int64_t flashc_mask_key_end(const flashc_problem *p, int64_t batch, int64_t query);

/* Fills key_end and key_full. */
void flashc_mask_resolve_block(const flashc_problem *p, flashc_row_block *block);

/* Does the mask alone, or the bias alone, hide all of keys first_key .. + n_keys from all rows of the block? Then
 * nothing else of the tile need be touched. Looks no further than to the first element that does not hide. */
bool flashc_mask_hides_tile(const flashc_problem *p, const flashc_row_block *block, int64_t first_key, int64_t n_keys);

/* Adds bias and mask to the scores of these keys; hidden ones become -inf. */
void flashc_mask_add(const flashc_problem *p, const flashc_row_block *block, const flashc_vector_ops *vector,
                     int64_t ld, int64_t first_key, int64_t n_keys, float *scores);

/* Hides the keys of a tile that are beyond each row's position. */
void flashc_mask_hide_by_position(const flashc_problem *p, const flashc_row_block *block,
                                  const flashc_vector_ops *vector, int64_t ld, int64_t lanes, int64_t first_key,
                                  int64_t n_keys, float *scores);

#endif
