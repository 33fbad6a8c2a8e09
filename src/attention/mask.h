/*
 * Which keys can a query see? The one place that knows, in two steps: a key range for a span of
 * queries, then, for one tile, whether it is hidden, fully visible or in between, and what is hidden in it.
 * Positions (causal, window) and the block mask's tiles become per-row limits; the boolean mask (0 or -inf) is added
 * to the scores from where it lies, and -inf hides.
 */
#ifndef FLASHC_MASK_H
#define FLASHC_MASK_H

#include "attention/block.h"

/* Is there anything but lengths that hides keys? */
bool flashc_mask_is_given(const flashc_problem *p);

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

/* Does the mask alone, or the bias alone, hide all of the tile? Then nothing else of it need be touched: its scores are
 * not read. Looks no further than to the first element that does not hide. */
bool flashc_mask_hides_tile(const flashc_problem *p, const flashc_score_tile *tile);

/* Adds a bias, or a mask as 0 or -inf, to the tile's scores. */
void flashc_mask_add(const flashc_problem *p, const flashc_tensor *t, const flashc_score_tile *tile);

/* Makes the scores of all keys -inf that the mask, the block mask or a row's position hides. */
void flashc_mask_hide(const flashc_problem *p, const flashc_score_tile *tile);

#endif
