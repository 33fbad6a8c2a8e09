/*
 * exp by a polynomial, and constants of every exp; included after vec, v_set1 and v_fma are defined. (Where a register
 * can be a table f32_exp_table.h is shorter.)
 *
 * exp(x) = 2^n e^f, n = round(x log2e), f = x - n ln2, for x <= 0:
 *
 *   e^f = 1 + f + c2 f^2 + ... + c6 f^6 on [-ln2/2, ln2/2], minimax with relative weight and the first two
 *   coefficients held at 1, so that exp(0) is exactly 1: relative error 0.06 u, u = 2^-24 (degree 5: 1.8 u
 *   for one FMA less of about 13 operations). ln2 in one f32 adds 0.03 u per unit of |x|.
 *
 * n comes out of adding 1.5 * 2^23: the sum's low bits are n, ready to become an exponent.
 */
#ifndef FLASHC_F32_EXP_H
#define FLASHC_F32_EXP_H

#define FLASHC_EXP_LOG2E 0x1.715476p0f
#define FLASHC_EXP_MINUS_LN2 -0x1.62e430p-1f
/* The same in two parts, for want of FMA: n times the first, of 15 bits, is exact. */
#define FLASHC_EXP_LN2_HIGH 0x1.62e4p-1f
#define FLASHC_EXP_LN2_LOW 0x1.7f7d1cp-20f
#define FLASHC_EXP_MAGIC 0x1.8p23f

#define FLASHC_EXP_C2 0x1.fffffcp-2f
#define FLASHC_EXP_C3 0x1.555492p-3f
#define FLASHC_EXP_C4 0x1.5558f2p-5f
#define FLASHC_EXP_C5 0x1.123a20p-7f
#define FLASHC_EXP_C6 0x1.6a23cep-10f

/* e^f */
static inline __attribute__((always_inline)) vec exp_polynomial(vec f)
{
    vec p = v_fma(v_set1(FLASHC_EXP_C6), f, v_set1(FLASHC_EXP_C5));
    p = v_fma(p, f, v_set1(FLASHC_EXP_C4));
    p = v_fma(p, f, v_set1(FLASHC_EXP_C3));
    p = v_fma(p, f, v_set1(FLASHC_EXP_C2));
    p = v_fma(p, f, v_set1(1.0f));
    p = v_fma(p, f, v_set1(1.0f));
    return p;
}

#endif
