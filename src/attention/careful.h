/*
 * NaN and infinity in V. Hidden keys have P = 0, and 0 times a finite V adds nothing; but 0 times NaN or infinity
 * is NaN. Rather than guard every tile, a piece runs straight through and looks at the finished acc: if that is
 * finite, no non-finite V ever met it. Otherwise the piece runs again with care: non-finite elements of V are
 * replaced by 0 in a copy of the tile and added afterwards to just those rows that see them. Rows that do
 * not see them get the same bits as if they had been finite.
 */
#ifndef FLASHC_CAREFUL_H
#define FLASHC_CAREFUL_H

#include "cache/rows.h"
#include "kernels/kernel.h"

/* Replaces NaN and infinity in a copy of a V tile by 0; returns whether there were any. */
bool flashc_careful_clear(float *copy, int64_t n_keys, int64_t n_cols, int64_t ld);

/* Adds the elements that this left out of the keys first_key .. + n_keys of a head to the rows that see them.
 * copy, copy_ld: what it left. hidden: of the tile, as noted before its softmax; row_step and key_step lead
 * through it. */
void flashc_careful_add(const flashc_softmax_state *state, const flashc_cache_rows *rows, int64_t sequence,
                        int64_t head, int64_t first_key, int64_t n_keys, const float *copy, int64_t copy_ld,
                        const uint8_t *hidden, int64_t row_step, int64_t key_step);

/* hidden[i]: is that score -inf? */
void flashc_careful_note_hidden(const float *scores, int64_t count, uint8_t *hidden);

#endif
