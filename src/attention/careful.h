/*
 * NaN and infinity in V. Hidden keys have P = 0, and 0 times a finite V adds nothing; but 0 times NaN or infinity
 * is NaN. Rather than guard every tile, a piece runs straight through and looks at the finished acc: if that is
 * finite, no non-finite V ever met it. Otherwise the piece runs again with care: non-finite elements of V are
 * replaced by 0 in a copy of the tile and added afterwards to just those rows that see them. Rows that do
 * not see them get the same bits as if they had been finite.
 */
#ifndef FLASHC_CAREFUL_H
#define FLASHC_CAREFUL_H

#include "attention/block.h"
#include "cache/rows.h"

/* Replaces NaN and infinity in a copy of a V tile by 0; returns whether there were any. */
bool flashc_careful_clear(float *copy, int64_t n_keys, int64_t n_cols, int64_t ld);

/* Adds the elements of v that flashc_careful_clear() replaced by 0 to the acc of those rows that see them. state: of
 * the tile's rows. copy, copy_ld: the tile of v after clearing. hidden: as noted before the tile's softmax. */
void flashc_careful_add(const flashc_softmax_state *state, const flashc_cache_rows *v, const flashc_score_tile *tile,
                        const float *copy, int64_t copy_ld, const uint8_t *hidden);

/* hidden[i]: is score i of the tile -inf? */
void flashc_careful_note_hidden(const flashc_score_tile *tile, uint8_t *hidden);

#endif
