/* The primitives of f32_tile.h in NEON, for the files of this instruction set. */
#ifndef FLASHC_NEON_H
#define FLASHC_NEON_H

#include "kernels/kernel.h"
#include "numerics.h"

#include <arm_neon.h>

typedef float32x4_t vec;
enum { VL = 4, PREFETCH_STEPS = INT32_MAX };

#define V_INLINE static inline __attribute__((always_inline))

V_INLINE vec v_load(const float *p) { return vld1q_f32(p); }
V_INLINE void v_store(float *p, vec x) { vst1q_f32(p, x); }
V_INLINE vec v_set1(float x) { return vdupq_n_f32(x); }
V_INLINE vec v_add(vec a, vec b) { return vaddq_f32(a, b); }
V_INLINE vec v_sub(vec a, vec b) { return vsubq_f32(a, b); }
V_INLINE vec v_mul(vec a, vec b) { return vmulq_f32(a, b); }
V_INLINE vec v_fma(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
V_INLINE vec v_max(vec a, vec b) { return vbslq_f32(vcgtq_f32(a, b), a, b); } /* b if either is NaN */
V_INLINE vec v_min(vec a, vec b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
V_INLINE vec v_div(vec a, vec b) { return vdivq_f32(a, b); }

#include "kernels/f32_exp.h"

V_INLINE vec v_exp(vec x)
{
    /* The clamp keeps n in the range of the exponent field; FMAX gives NaN where x is NaN. */
    const vec limit = v_set1(FLASHC_EXP_MIN), magic = v_set1(FLASHC_EXP_MAGIC);
    const vec clamped = vmaxq_f32(limit, x);
    const vec shifted = v_fma(clamped, v_set1(FLASHC_EXP_LOG2E), magic);
    const vec f = v_fma(v_sub(shifted, magic), v_set1(FLASHC_EXP_MINUS_LN2), clamped);
    const vec p = exp_polynomial(f);
    /* A multiplication by 2^n, and not an addition to p's exponent, keeps NaN whatever n became. */
    const int32x4_t biased = vaddq_s32(vreinterpretq_s32_f32(shifted), vdupq_n_s32(127));
    const vec result = v_mul(p, vreinterpretq_f32_s32(vshlq_n_s32(biased, 23)));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(result), vcltq_f32(x, limit)));
}

V_INLINE uint32x4_t is_neg_inf(vec x)
{
    return vceqq_f32(x, v_set1(-(float)INFINITY));
}

V_INLINE vec v_zero_if_neg_inf(vec x)
{
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(x), is_neg_inf(x)));
}

V_INLINE vec v_hide_if_neg_inf(vec s, vec b)
{
    return vbslq_f32(is_neg_inf(b), b, s);
}

V_INLINE vec v_hide_outside(vec s, int32_t t, const int32_t *first, const int32_t *last)
{
    const int32x4_t key = vdupq_n_s32(t);
    const uint32x4_t visible = vandq_u32(vcleq_s32(vld1q_s32(first), key), vcgtq_s32(vld1q_s32(last), key));
    return vbslq_f32(visible, s, v_set1(-(float)INFINITY));
}

V_INLINE vec v_load_f16(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

V_INLINE vec v_load_bf16(const uint16_t *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}

/* Four bytes and no more of memory. */
V_INLINE uint8x8_t load_bytes(const void *p)
{
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return vreinterpret_u8_u32(vdup_n_u32(four));
}

V_INLINE vec v_load_bool(const uint8_t *p)
{
    const uint32x4_t hidden = vceqzq_u32(vmovl_u16(vget_low_u16(vmovl_u8(load_bytes(p)))));
    return vreinterpretq_f32_u32(vandq_u32(hidden, vreinterpretq_u32_f32(v_set1(-(float)INFINITY))));
}

V_INLINE vec v_load_i8(const int8_t *p)
{
    const int16x8_t wide = vmovl_s8(vreinterpret_s8_u8(load_bytes(p)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}

/* As an f16 of the same exponent bits, whose bias is 8 more; all ones is NaN. The sign extends into bits 15 to 7. */
V_INLINE vec v_load_e4m3(const uint8_t *p)
{
    const int16x4_t wide = vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load_bytes(p))));
    const uint16x4_t half = vand_u16(vreinterpret_u16_s16(vshl_n_s16(wide, 7)), vdup_n_u16(0xbf80));
    const uint16x4_t ones = vdup_n_u16(0x3f80);
    const uint16x4_t nan = vceq_u16(vand_u16(half, ones), ones);
    const uint16x4_t quiet = vorr_u16(half, vand_u16(nan, vdup_n_u16(0x7e00)));
    return v_mul(vcvt_f32_f16(vreinterpret_f16_u16(quiet)), v_set1(0x1p8f));
}

V_INLINE vec v_load_e5m2(const uint8_t *p)
{
    const uint16x4_t wide = vget_low_u16(vmovl_u8(load_bytes(p)));
    return vcvt_f32_f16(vreinterpret_f16_u16(vshl_n_u16(wide, 8)));
}

V_INLINE vec v_set1_f16(const void *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half)));
}

V_INLINE void v_store_f16(uint16_t *p, vec x)
{
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x)));
}

V_INLINE void v_store_bf16(uint16_t *p, vec x)
{
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x00400000));
    vst1_u16(p, vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16));
}

V_INLINE void v_transpose(vec r[4])
{
    const float32x4x2_t ab = vtrnq_f32(r[0], r[1]), cd = vtrnq_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0]));
    r[1] = vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1]));
    r[2] = vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0]));
    r[3] = vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1]));
}

V_INLINE float v_max_across(vec x) { return vmaxvq_f32(x); }
V_INLINE float v_sum_across(vec x) { return vaddvq_f32(x); }

V_INLINE vec v_sum_each(const vec r[4])
{
    return vpaddq_f32(vpaddq_f32(r[0], r[1]), vpaddq_f32(r[2], r[3]));
}

#endif
