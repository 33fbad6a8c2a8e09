/* The primitives of f32_tile.h in AVX-512F, for the files of this instruction set. */
#ifndef FLASHC_AVX512_H
#define FLASHC_AVX512_H

#include "kernels/kernel.h"
#include "numerics.h"

#include <immintrin.h>

typedef __m512 vec;
enum { VL = 16 };

#define V_INLINE static inline __attribute__((always_inline))

V_INLINE vec v_load(const float *p) { return _mm512_loadu_ps(p); }
V_INLINE void v_store(float *p, vec x) { _mm512_storeu_ps(p, x); }
V_INLINE vec v_set1(float x) { return _mm512_set1_ps(x); }
V_INLINE vec v_add(vec a, vec b) { return _mm512_add_ps(a, b); }
V_INLINE vec v_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
V_INLINE vec v_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
V_INLINE vec v_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
V_INLINE vec v_max(vec a, vec b) { return _mm512_max_ps(a, b); } /* b if either is NaN */
V_INLINE vec v_min(vec a, vec b) { return _mm512_min_ps(a, b); }
V_INLINE vec v_div(vec a, vec b) { return _mm512_div_ps(a, b); }

/*
 * exp by a table of 16; see f32_exp_table.h. e^f - 1 has a relative error of 0.03 u, the table 0.5 u.
 *
 * Where scores and their products fill two ports, it is the multiply-adds here that cost time (adds and the
 * integer steps go elsewhere on AMD): 6 of them, where exp_polynomial() with scalef takes 10. Zen 5: 4.8 cycles a
 * vector with loads, stores and the sum, against 5.9.
 */
#define EXP_C2 0x1.00021ep-1f
#define EXP_C3 0x1.55559ap-3f

V_INLINE __m512i exp_table(void)
{
    enum { J = 1 << 19 }; /* 1 in j, shifted */
    return _mm512_setr_epi32(0x3f800000, 0x3f85aac3 - J, 0x3f8b95c2 - 2 * J, 0x3f91c3d3 - 3 * J, 0x3f9837f0 - 4 * J,
                             0x3f9ef532 - 5 * J, 0x3fa5fed7 - 6 * J, 0x3fad583f - 7 * J, 0x3fb504f3 - 8 * J,
                             0x3fbd08a4 - 9 * J, 0x3fc5672a - 10 * J, 0x3fce248c - 11 * J, 0x3fd744fd - 12 * J,
                             0x3fe0ccdf - 13 * J, 0x3feac0c7 - 14 * J, 0x3ff5257d - 15 * J);
}

V_INLINE vec exp_of_index(vec shifted)
{
    const __m512i m = _mm512_castps_si512(shifted);
    const __m512i power = _mm512_add_epi32(_mm512_permutexvar_epi32(m, exp_table()), _mm512_slli_epi32(m, 19));
    return _mm512_castsi512_ps(power);
}

V_INLINE vec exp_or_zero(vec p, vec g, vec x)
{
    /* "not less" is true for NaN. */
    const __mmask16 keep = _mm512_cmp_ps_mask(x, v_set1(FLASHC_EXP_MIN), _CMP_NLT_UQ);
    return _mm512_maskz_fmadd_ps(keep, p, g, p);
}

#include "kernels/f32_exp_table.h"

V_INLINE __mmask16 is_neg_inf(vec x)
{
    return _mm512_cmp_ps_mask(x, v_set1(-(float)INFINITY), _CMP_EQ_OQ);
}

V_INLINE vec v_zero_if_neg_inf(vec x)
{
    return _mm512_mask_mov_ps(x, is_neg_inf(x), v_set1(0.0f));
}

V_INLINE vec v_hide_if_neg_inf(vec s, vec b)
{
    return _mm512_mask_mov_ps(s, is_neg_inf(b), b);
}

V_INLINE vec v_hide_outside(vec s, int32_t t, const int32_t *first, const int32_t *last)
{
    const __m512i key = _mm512_set1_epi32(t);
    const __mmask16 visible = _mm512_cmple_epi32_mask(_mm512_loadu_si512(first), key) &
                              _mm512_cmpgt_epi32_mask(_mm512_loadu_si512(last), key);
    return _mm512_mask_mov_ps(v_set1(-(float)INFINITY), visible, s);
}

V_INLINE vec v_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

V_INLINE vec v_load_bf16(const uint16_t *p)
{
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

V_INLINE vec v_load_bool(const uint8_t *p)
{
    const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    const __mmask16 hidden = _mm512_cmpeq_epi32_mask(wide, _mm512_setzero_si512());
    return _mm512_maskz_mov_ps(hidden, v_set1(-(float)INFINITY));
}

V_INLINE vec v_load_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}

/* As an f16 of the same exponent bits, whose bias is 8 more; all ones is NaN. The sign extends into bits 15 to 7. */
V_INLINE vec v_load_e4m3(const uint8_t *p)
{
    const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
    const __m256i half = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16((int16_t)0xbf80));
    const __m256i ones = _mm256_set1_epi16(0x3f80);
    const __m256i nan = _mm256_cmpeq_epi16(_mm256_and_si256(half, ones), ones);
    const __m256i quiet = _mm256_or_si256(half, _mm256_and_si256(nan, _mm256_set1_epi16(0x7e00)));
    return v_mul(_mm512_cvtph_ps(quiet), v_set1(0x1p8f));
}

V_INLINE vec v_load_e5m2(const uint8_t *p)
{
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm512_cvtph_ps(_mm256_slli_epi16(wide, 8));
}

V_INLINE vec v_set1_f16(const void *p)
{
    int16_t half;
    memcpy(&half, p, sizeof half);
    return _mm512_cvtph_ps(_mm256_set1_epi16(half));
}

V_INLINE void v_store_f16(uint16_t *p, vec x)
{
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

V_INLINE void v_store_bf16(uint16_t *p, vec x)
{
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_epi32(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __m512i quiet = _mm512_or_epi32(bits, _mm512_set1_epi32(0x00400000));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i result = _mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, quiet), 16);
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(result));
}

/* 16 x 16 in four rounds: pairs, fours, then 128-bit quarters twice. */
V_INLINE void v_transpose(vec r[16])
{
    vec t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            const __m512d lo = _mm512_castps_pd(t[i + j]), hi = _mm512_castps_pd(t[i + 2 + j]);
            r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(lo, hi));
            r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(lo, hi));
        }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    }
}

V_INLINE float v_max_across(vec x) { return _mm512_reduce_max_ps(x); }
V_INLINE float v_sum_across(vec x) { return _mm512_reduce_add_ps(x); }

/* Four vectors to one: in each 128-bit quarter the four quarter sums. */
V_INLINE vec sum_quarters(const vec r[4])
{
    const vec ab = v_add(_mm512_unpacklo_ps(r[0], r[1]), _mm512_unpackhi_ps(r[0], r[1]));
    const vec cd = v_add(_mm512_unpacklo_ps(r[2], r[3]), _mm512_unpackhi_ps(r[2], r[3]));
    const __m512d lo = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512d hi = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    return v_add(_mm512_castpd_ps(lo), _mm512_castpd_ps(hi));
}

/* Two vectors to one of half as many quarters each. */
V_INLINE vec add_quarters(vec a, vec b)
{
    return v_add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

V_INLINE vec v_sum_each(const vec r[16])
{
    const vec a = add_quarters(sum_quarters(r), sum_quarters(r + 4));
    const vec b = add_quarters(sum_quarters(r + 8), sum_quarters(r + 12));
    return add_quarters(a, b);
}

#endif
