/*
 * Which keys can a query see? The one place that knows, in two steps: a key range for a span of
 * queries, then, for one tile, whether it is hidden, fully visible or in between, and what is hidden in it.
 * Positions (causal, window) and the block mask's tiles become per-row limits; the boolean mask (0 or -inf) is added
 * to the scores from where it lies, and -inf hides.
 */
#ifndef FLASHC_MASK_H
#define FLASHC_MASK_H

#include "attention/problem.h"
#include "kernels/kernel.h"

/* Keys begin .. end - 1 of a sequence. */
typedef struct flashc_key_range {
    int64_t begin, end;
} flashc_key_range;

/* One block of query rows: row r is query r / group of head first_head + r % group, with the heads of a group
 * stacked so that each K/V row is loaded once for all of them. */
typedef struct flashc_row_block {
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

/* The keys that a query may see by position, within begin_key .. n_keys. Neither end falls from a query to the next. */
flashc_key_range flashc_mask_keys(const flashc_problem *p, const flashc_sequence *s, int64_t query);

/* The keys that any of the queries first .. last sees. */
flashc_key_range flashc_mask_keys_of(const flashc_problem *p, const flashc_sequence *s, int64_t first, int64_t last);

/* Visible (query, key) pairs by position of one head. */
double flashc_mask_visible_pairs(const flashc_problem *p, const flashc_sequence *s);

/* Fills keys and full. */
void flashc_mask_resolve_block(const flashc_problem *p, flashc_row_block *block);

/* Does any row of the block see any of keys first_key .. + n_keys, as far as positions and the block mask go? If not,
 * the tile is not even loaded for it. */
bool flashc_mask_reaches(const flashc_problem *p, const flashc_row_block *block, int64_t first_key, int64_t n_keys);

/* Does the mask alone, or the bias alone, hide all of keys first_key .. + n_keys from all rows of the block? Then
 * nothing else of the tile need be touched. Looks no further than to the first element that does not hide. */
bool flashc_mask_hides_tile(const flashc_problem *p, const flashc_row_block *block, int64_t first_key, int64_t n_keys);

/* Adds the bias, or the mask as 0 or -inf, to the scores of these keys. */
void flashc_mask_add(const flashc_tensor *t, const flashc_problem *p, const flashc_row_block *block,
                     const flashc_vector_ops *vector, int64_t ld, int64_t first_key, int64_t n_keys, float *scores);

/* Makes the scores of all keys -inf that the mask, the block mask or a row's position hides. */
void flashc_mask_hide(const flashc_problem *p, const flashc_row_block *block, const flashc_vector_ops *vector,
                      int64_t ld, int64_t lanes, int64_t first_key, int64_t n_keys, float *scores);

#endif
