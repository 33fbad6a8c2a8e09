/* Rows of batch elements, however params say them: lengths, packed sequences, or all alike. */
#ifndef FLASHC_LENGTHS_H
#define FLASHC_LENGTHS_H

#include "common.h"

/* Rows of sequence b: of an array of lengths, or packed, or (both NULL) `otherwise`. */
static inline int64_t flashc_lengths_rows(const int64_t *lengths, const int64_t *cu_seqlens, int64_t b,
                                          int64_t otherwise)
{
    if (cu_seqlens)
        return cu_seqlens[b + 1] - cu_seqlens[b];
    return lengths ? lengths[b] : otherwise;
}

/* Rows of the longest of the packed sequences, or (NULL) `otherwise`. */
static inline int64_t flashc_lengths_longest(const int64_t *cu_seqlens, int64_t batch, int64_t otherwise)
{
    int64_t longest = 0;
    for (int64_t b = 0; cu_seqlens && b < batch; b++)
        longest = flashc_max(longest, cu_seqlens[b + 1] - cu_seqlens[b]);
    return cu_seqlens ? longest : otherwise;
}

/* Rows of the one call that a state's sequence b has. */
static inline int64_t flashc_lengths_in_all(const flashc_attention_state *state, int64_t b)
{
    return state->seqlens_k ? state->seqlens_k[b] : state->seqlen_k;
}

#endif
