/*
 * What a row block will need soon, as hints that the GEMMs prefetch from between their own loads: the next key
 * tile; at a block's last tile the rows of O it is about to store, and what this thread's next item will likely start
 * with: queries, and the first tile of K and V if it is of another head. Hints change no result.
 *
 * Worth, with one thread: K and V of the next head, of 128 keys at head_dim 64, 20 % of the time in f32 and 14 % in
 * bf16 (Zen 5, 16 x 12 heads, all of it in L3 at best), and 3 % at 512 keys. On a Xeon with 2 MiB of L2, at seqlen
 * 2048: 4 % at head_dim 128 for K and V, which do not stay in L2 there; 1 % causal at head_dim 64 and 2 % at seqlen 512
 * for Q and O. That is with a burst before each register block; spread over the products (tile_gemm.h), on Zen 4, 6 %
 * more at 512 keys and 2 % at 2048, and 13 to 60 % where 16,384 keys come from memory for 64 to 16 query rows.
 */
#ifndef FLASHC_UPCOMING_H
#define FLASHC_UPCOMING_H

#include "attention/block.h"
#include "attention/plan.h"
#include "attention/problem.h"
#include "attention/span.h"

/* part of parts of the span's keys first_key .. + n_keys as they lie in memory; with pages, of those up to the end of
 * first_key's. None if n_keys is not positive, or if a row is not contiguous. */
flashc_upcoming flashc_upcoming_keys(const flashc_cache_rows *rows, const flashc_span *span, int64_t first_key,
                                     int64_t n_keys, int64_t n_cols, int64_t part, int64_t parts);

/* n_rows rows (query-major, see flashc_row_block) of a sequence's q or o from first_row on; none if heads are stacked,
 * since the rows are then not evenly spaced. */
flashc_upcoming flashc_upcoming_rows(const flashc_problem *p, const flashc_tensor *tensor, int64_t n_cols,
                                     const flashc_sequence *sequence, int64_t head, int64_t first_row, int64_t n_rows);

/* The bias, or else the mask, of keys first_key .. + n_keys: it is added right after Q K^T, and its rows lie too far
 * apart for the hardware to foresee. None if there is neither, if heads are stacked, or if the queries share a row. */
flashc_upcoming flashc_upcoming_bias(const flashc_problem *p, const flashc_row_block *block, int64_t first_key,
                                     int64_t n_keys);

#endif
