/* The online-softmax recurrence, in plain C: the reference for what vector code does, and the only
 * one that the softmax functions use. The functions here are those of flashc.h without the argument
 * checks. Strides decide where acc lies: [rows, head_dim_v] with the columns contiguous, or one
 * vector lane per row (acc_row_stride 1) as attention's kernels hold it. */
#ifndef FLASHC_SOFTMAX_STATE_H
#define FLASHC_SOFTMAX_STATE_H

#include "numerics.h"

#include <math.h>

/* Keys are summed in chains of this length, and the chains one after the other: a sum of n terms
 * then carries (SUM_CHUNK + n / SUM_CHUNK) rounding errors instead of n. */
#define FLASHC_SUM_CHUNK 128

/* The f32 exp of every weight: exactly 0 where the result would be subnormal. NaN stays NaN. */
static inline float flashc_exp(float x)
{
    return x < FLASHC_EXP_MIN ? 0.0f : expf(x);
}

/* A row that has seen no visible key. A max takes no notice of NaN: where NaN is all that was
 * visible, row_max is -inf too, but row_sum is NaN. */
static inline bool flashc_softmax_row_is_empty(float row_max, float row_sum)
{
    return row_max == -INFINITY && row_sum == row_sum;
}

/* row_max + ln(row_sum), in double so that the one rounding left is the result's. */
static inline float flashc_softmax_row_lse(float row_max, float row_sum)
{
    if (flashc_softmax_row_is_empty(row_max, row_sum))
        return -INFINITY;
    return (float)((double)row_max + log((double)row_sum));
}

/* The fixed tree in which parts 0, 1, 2, ... of a set of keys are merged: parts 2k and 2k+1 meet first, then
 * pairs of pairs, as in a binary counter that counts the parts; what is left open at the end is folded from the
 * last part to the first. This many merges of the two topmost open nodes follow when part number index is in. */
static inline int flashc_softmax_tree_carries(int64_t index)
{
    return __builtin_ctzll(~(unsigned long long)index);
}

void flashc_state_init(const flashc_softmax_state *state);
void flashc_state_update(const flashc_softmax_state *state, int64_t n_keys, const float *scores,
                         int64_t scores_row_stride, const float *v, int64_t v_row_stride);
void flashc_state_merge(const flashc_softmax_state *into, const flashc_softmax_state *from);
void flashc_state_finish(const flashc_softmax_state *state, float *o, int64_t o_row_stride, float *lse);

#endif
