/*
 * Any CPU: vectors of 4 floats in the compilers' own notation (SSE2, NEON or plain scalars come out of it). The last
 * row of the table, and the one to read first.
 *
 * Registers, of 16 with SSE2: 4 x 2 accumulators, 2 loads, 1 broadcast, and the product, since there is no FMA; rows
 * along 8 accumulators.
 *
 * Ideal, with two multiplications and two additions a cycle: a tile of 48 queries x 128 keys at head_dim 64 is 2 x
 * 12,288 steps of 8 of both, 2 x 49,152 cycles. A step is 35 instructions on x86-64 (gcc 12, counted). What share is
 * reached is not measured: every CPU that was measured has a faster row.
 */
#include "kernels/kernel.h"
#include "numerics.h"

typedef float vec __attribute__((vector_size(16)));
typedef uint32_t uvec __attribute__((vector_size(16)));
typedef int32_t ivec __attribute__((vector_size(16)));
enum { VL = 4, GEMM_ROWS = 4, GEMM_VECS = 2, ROW_ACCUMULATORS = 8 };

#define V_INLINE static inline __attribute__((always_inline))

V_INLINE vec v_load(const float *p)
{
    vec x;
    memcpy(&x, p, sizeof x);
    return x;
}

V_INLINE void v_store(float *p, vec x) { memcpy(p, &x, sizeof x); }
V_INLINE vec v_set1(float x) { return (vec){x, x, x, x}; }
V_INLINE vec v_add(vec a, vec b) { return a + b; }
V_INLINE vec v_sub(vec a, vec b) { return a - b; }
V_INLINE vec v_mul(vec a, vec b) { return a * b; }
V_INLINE vec v_fma(vec a, vec b, vec c) { return a * b + c; }
V_INLINE vec v_select(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }
V_INLINE vec v_max(vec a, vec b) { return v_select(a > b, a, b); } /* false if either is NaN: b */
V_INLINE vec v_min(vec a, vec b) { return v_select(a < b, a, b); }
V_INLINE vec v_div(vec a, vec b) { return a / b; }

#include "kernels/f32_exp.h"

V_INLINE vec v_exp(vec x)
{
    const vec limit = v_set1(FLASHC_EXP_MIN), magic = v_set1(FLASHC_EXP_MAGIC);
    const vec clamped = v_select(x < limit, limit, x);
    const vec shifted = v_fma(clamped, v_set1(FLASHC_EXP_LOG2E), magic);
    const vec n = shifted - magic;
    const vec f = (clamped - n * v_set1(FLASHC_EXP_LN2_HIGH)) - n * v_set1(FLASHC_EXP_LN2_LOW);
    const vec p = exp_polynomial(f);
    /* magic's own low bits are zero after the shift; 127 is the exponent's bias. */
    const uvec exponent = ((uvec)shifted + 127u) << 23;
    return v_select(x < limit, v_set1(0.0f), p * (vec)exponent);
}

V_INLINE vec v_zero_if_neg_inf(vec x) { return v_select(x == v_set1(-(float)INFINITY), v_set1(0.0f), x); }
V_INLINE vec v_hide_if_neg_inf(vec s, vec b) { return v_select(b == v_set1(-(float)INFINITY), b, s); }

V_INLINE vec v_hide_outside(vec s, int32_t t, const int32_t *first, const int32_t *last)
{
    ivec low, high;
    const ivec key = {t, t, t, t};
    memcpy(&low, first, sizeof low);
    memcpy(&high, last, sizeof high);
    return v_select((low <= key) & (key < high), s, v_set1(-(float)INFINITY));
}

V_INLINE vec v_load_f16(const uint16_t *p)
{
    return (vec){flashc_f32_from_f16(p[0]), flashc_f32_from_f16(p[1]), flashc_f32_from_f16(p[2]),
                 flashc_f32_from_f16(p[3])};
}

V_INLINE vec v_load_bf16(const uint16_t *p)
{
    return (vec){flashc_f32_from_bf16(p[0]), flashc_f32_from_bf16(p[1]), flashc_f32_from_bf16(p[2]),
                 flashc_f32_from_bf16(p[3])};
}

V_INLINE vec v_load_bool(const uint8_t *p)
{
    const ivec value = {p[0], p[1], p[2], p[3]};
    return v_select(value == 0, v_set1(-(float)INFINITY), v_set1(0.0f));
}

V_INLINE vec v_load_i8(const int8_t *p) { return (vec){p[0], p[1], p[2], p[3]}; }

V_INLINE vec v_load_e4m3(const uint8_t *p)
{
    return (vec){flashc_f32_from_e4m3(p[0]), flashc_f32_from_e4m3(p[1]), flashc_f32_from_e4m3(p[2]),
                 flashc_f32_from_e4m3(p[3])};
}

V_INLINE vec v_load_e5m2(const uint8_t *p)
{
    return (vec){flashc_f32_from_e5m2(p[0]), flashc_f32_from_e5m2(p[1]), flashc_f32_from_e5m2(p[2]),
                 flashc_f32_from_e5m2(p[3])};
}

V_INLINE vec v_set1_f16(const void *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return v_set1(flashc_f32_from_f16(half));
}

V_INLINE void v_store_f16(uint16_t *p, vec x)
{
    for (int i = 0; i < VL; i++)
        p[i] = flashc_f16_from_f32(x[i]);
}

V_INLINE void v_store_bf16(uint16_t *p, vec x)
{
    for (int i = 0; i < VL; i++)
        p[i] = flashc_bf16_from_f32(x[i]);
}

V_INLINE void v_transpose(vec r[4])
{
    const vec a = r[0], b = r[1], c = r[2], d = r[3];
    for (int i = 0; i < VL; i++)
        r[i] = (vec){a[i], b[i], c[i], d[i]};
}

V_INLINE float v_max_across(vec x)
{
    const float a = x[0] > x[2] ? x[0] : x[2], b = x[1] > x[3] ? x[1] : x[3];
    return a > b ? a : b;
}

V_INLINE float v_sum_across(vec x) { return (x[0] + x[2]) + (x[1] + x[3]); }

V_INLINE vec v_sum_each(const vec r[4])
{
    vec t[4] = {r[0], r[1], r[2], r[3]};
    v_transpose(t);
    return (t[0] + t[1]) + (t[2] + t[3]);
}

#include "kernels/f32_tile.h"
#include "kernels/f32_gemm.h"
#include "kernels/decode_f32.h"
#include "kernels/decode_tile.h"

const flashc_isa flashc_f32_generic = FLASHC_F32_TILE_ISA;
const flashc_isa flashc_decode_generic = FLASHC_DECODE_TILE_ISA(row_load_rows, false);
