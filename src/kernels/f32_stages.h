/*
 * What happens to scores between Q K^T and softmax: softcap and ALiBi. Part of f32_tile.h.
 *
 * tanh(x) = x P(x^2) / Q(x^2), both of degree 4, minimax with relative weight on [-9.02, 9.02] where the first
 * coefficients are held at 1: off by 0.4 u, u = 2^-24, and by 6 u as evaluated, since all coefficients are positive.
 * Beyond, tanh is 1 to half an ulp. (Through exp it would cost more, and lose the small x that caps leave as they are.)
 */
#ifndef FLASHC_F32_STAGES_H
#define FLASHC_F32_STAGES_H

#include "kernels/kernel.h"

#define FLASHC_TANH_LIMIT 9.02f
#define FLASHC_TANH_P1 0x1.120458p-3f
#define FLASHC_TANH_P2 0x1.c9f8fap-9f
#define FLASHC_TANH_P3 0x1.595694p-16f
#define FLASHC_TANH_P4 0x1.c9a6b4p-27f
#define FLASHC_TANH_Q1 0x1.de5774p-2f
#define FLASHC_TANH_Q2 0x1.a7df74p-6f
#define FLASHC_TANH_Q3 0x1.5842a4p-12f
#define FLASHC_TANH_Q4 0x1.a0ba6ap-21f

/* NaN stays NaN. */
V_INLINE vec v_tanh(vec any)
{
    const vec x = v_min(v_set1(FLASHC_TANH_LIMIT), v_max(v_set1(-FLASHC_TANH_LIMIT), any));
    const vec z = v_mul(x, x);
    vec p = v_fma(v_set1(FLASHC_TANH_P4), z, v_set1(FLASHC_TANH_P3));
    vec q = v_fma(v_set1(FLASHC_TANH_Q4), z, v_set1(FLASHC_TANH_Q3));
    p = v_fma(p, z, v_set1(FLASHC_TANH_P2));
    q = v_fma(q, z, v_set1(FLASHC_TANH_Q2));
    p = v_fma(p, z, v_set1(FLASHC_TANH_P1));
    q = v_fma(q, z, v_set1(FLASHC_TANH_Q1));
    p = v_fma(p, z, v_set1(1.0f));
    q = v_fma(q, z, v_set1(1.0f));
    return v_div(v_mul(x, p), q);
}

/* n floats from s on, rounded up to vectors. */
V_INLINE void cap_floats(float *s, int64_t n, float softcap)
{
    const vec cap = v_set1(softcap), inverse = v_set1(1.0f / softcap);
    for (int64_t i = 0; i < n; i += VL)
        v_store(s + i, v_mul(cap, v_tanh(v_mul(v_load(s + i), inverse))));
}

static void tile_softcap(float *scores, int64_t ld, int64_t n_keys, int64_t lanes, float softcap)
{
    for (int64_t key = 0; key < n_keys; key++)
        cap_floats(scores + key * ld, lanes, softcap);
}

/* s - slope |d| */
V_INLINE vec v_alibi(vec s, vec slope, vec d)
{
    const vec minus_d = v_sub(v_set1(0.0f), d);
    return v_fma(slope, v_sub(v_set1(0.0f), v_max(d, minus_d)), s);
}

static void tile_alibi(float *scores, int64_t ld, int64_t n_keys, int64_t lanes, const float *slope,
                       const float *distance)
{
    for (int64_t lane = 0; lane < lanes; lane += VL) {
        const vec slopes = v_load(slope + lane), first = v_load(distance + lane);
        for (int64_t key = 0; key < n_keys; key++) {
            float *s = scores + key * ld + lane;
            v_store(s, v_alibi(v_load(s), slopes, v_sub(first, v_set1((float)key))));
        }
    }
}

#endif
