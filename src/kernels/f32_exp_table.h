/*
 * exp for instruction sets that look numbers up in a register: a table of VL numbers. Included after the vector
 * primitives.
 *
 * exp(x) = 2^n 2^(j/VL) e^f for x <= 0, with VL n + j = m = round(VL x log2e) and f = x - m ln2/VL.
 *
 *   m comes out of adding 1.5 * 2^23, as the sum's low bits. Shifted left until n is in the exponent, they have j on
 *   top of the mantissa: the table holds 2^(j/VL) less that in its bits, and one integer addition makes both right.
 *
 *   e^f - 1 = f + c2 f^2 + c3 f^3 on [-ln2/2VL, ln2/2VL], minimax. The table is rounded to f32 (exact for j = 0, so
 *   that exp(0) is 1), and so is the result; ln2/VL in one f32 adds 0.05 u per unit of |x|, u = 2^-24.
 *
 * The file has defined
 *
 *   EXP_C2, EXP_C3           the coefficients, with what is left of the error bound
 *   exp_of_index(shifted)    2^(m/VL), m being the low bits
 *   exp_or_zero(p, g, x)     p + p g, but 0 where x is below FLASHC_EXP_MIN. NaN, which is in g, stays
 */
#ifndef FLASHC_F32_EXP_TABLE_H
#define FLASHC_F32_EXP_TABLE_H

#include "kernels/f32_exp.h"

V_INLINE vec v_exp(vec x)
{
    const vec magic = v_set1(FLASHC_EXP_MAGIC);
    const vec shifted = v_fma(x, v_set1(VL * FLASHC_EXP_LOG2E), magic);
    const vec p = exp_of_index(shifted);
    const vec f = v_fma(v_sub(shifted, magic), v_set1(FLASHC_EXP_MINUS_LN2 / VL), x);
    const vec g = v_fma(v_fma(v_set1(EXP_C3), f, v_set1(EXP_C2)), v_mul(f, f), f);
    return exp_or_zero(p, g, x);
}

#endif
