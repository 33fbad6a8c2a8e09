/*
 * AVX2 + FMA + F16C: 8 floats a vector, 16 registers: 4 x 3 accumulators, 3 loads, 1 broadcast; rows along 8
 * accumulators, 2 to 4 loads of K and one of a query, or up to 8 of V, one at a time, and a broadcast.
 *
 * Ideal: two multiply-adds a cycle. A tile of 48 queries x 128 keys at head_dim 64 is 768 vectors of scores, each 128
 * multiply-adds, 64 cycles. Zen 4, tiles in L2: 32.3 and 32.6 cycles for the products, 5.6 for the softmax (9.9 with
 * exp by a polynomial of degree 6, whose chain of operations, not their number, took the time), 90.9 % of the peak; in
 * calls 84 to 85.5. Head_dim 32 / 128: 84 and 94.7 % in tiles; 88 to 89 in calls at 128. Zen 3: 32.8 and 32.9 cycles,
 * softmax 6.1, 87.8 % (32 / 128: 77 and 92.6).
 *
 * Rows along, cycles a key at head_dim 128 and 4 rows: Q K^T 50 to 54 and P V 39 to 44, of 32 each.
 */
#include "kernels/kernel.h"
#include "numerics.h"

#include <immintrin.h>

typedef __m256 vec;
enum { VL = 8, GEMM_ROWS = 4, GEMM_VECS = 3, ROW_ACCUMULATORS = 8 };

#define V_INLINE static inline __attribute__((always_inline))

V_INLINE vec v_load(const float *p) { return _mm256_loadu_ps(p); }
V_INLINE void v_store(float *p, vec x) { _mm256_storeu_ps(p, x); }
V_INLINE vec v_set1(float x) { return _mm256_set1_ps(x); }
V_INLINE vec v_add(vec a, vec b) { return _mm256_add_ps(a, b); }
V_INLINE vec v_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
V_INLINE vec v_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
V_INLINE vec v_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }

/* As v_fma gcc 12 reads vectors of b from memory again for each row, or moves sums about. A core to itself gains
 * nothing. One whose other thread is busy takes 4 to 7 % less time for a call of decode (Zen 3), whose Q K^T then loads
 * each query once for two keys; its P V in this way 2 % more. */
#define FLASHC_OWN_DOT
V_INLINE vec v_dot(vec a, vec b, vec sum)
{
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
    return sum;
}

V_INLINE vec v_max(vec a, vec b) { return _mm256_max_ps(a, b); } /* b if either is NaN */
V_INLINE vec v_min(vec a, vec b) { return _mm256_min_ps(a, b); }
V_INLINE vec v_div(vec a, vec b) { return _mm256_div_ps(a, b); }

/*
 * exp by a table of 8; see f32_exp_table.h. e^f - 1 is minimax with the error below weighing five times the one above:
 * -1.06 u to 0.21 u relative, u = 2^-24. The table is off by 0.54 u, and ln2/8 in one f32 is too large by 0.046 u per
 * unit of |x|, which makes e^f too large: hence the weights. (Equal ones, 0.43 u, left flashc.h's bound at x = -78.)
 * Largest error of all x: 0.987 of the bound.
 */
#define EXP_C2 0x1.0005dep-1f
#define EXP_C3 0x1.554bf8p-3f

V_INLINE __m256i exp_table(void)
{
    enum { J = 1 << 20 }; /* 1 in j, shifted */
    return _mm256_setr_epi32(0x3f800000, 0x3f8b95c2 - J, 0x3f9837f0 - 2 * J, 0x3fa5fed7 - 3 * J, 0x3fb504f3 - 4 * J,
                             0x3fc5672a - 5 * J, 0x3fd744fd - 6 * J, 0x3feac0c7 - 7 * J);
}

V_INLINE vec exp_of_index(vec shifted)
{
    const __m256i m = _mm256_castps_si256(shifted);
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_permutevar8x32_epi32(exp_table(), m), _mm256_slli_epi32(m, 20)));
}

V_INLINE vec exp_or_zero(vec p, vec g, vec x)
{
    /* "not less" is true for NaN. */
    return _mm256_and_ps(v_fma(p, g, p), _mm256_cmp_ps(x, v_set1(FLASHC_EXP_MIN), _CMP_NLT_UQ));
}

#include "kernels/f32_exp_table.h"

V_INLINE vec is_neg_inf(vec x)
{
    return _mm256_cmp_ps(x, v_set1(-(float)INFINITY), _CMP_EQ_OQ);
}

V_INLINE vec v_zero_if_neg_inf(vec x)
{
    return _mm256_andnot_ps(is_neg_inf(x), x);
}

V_INLINE vec v_hide_if_neg_inf(vec s, vec b)
{
    return _mm256_blendv_ps(s, b, is_neg_inf(b));
}

V_INLINE vec v_hide_outside(vec s, int32_t t, const int32_t *first, const int32_t *last)
{
    const __m256i key = _mm256_set1_epi32(t);
    const __m256i before = _mm256_cmpgt_epi32(_mm256_loadu_si256((const __m256i *)(const void *)first), key);
    const __m256i inside = _mm256_cmpgt_epi32(_mm256_loadu_si256((const __m256i *)(const void *)last), key);
    const __m256i visible = _mm256_andnot_si256(before, inside);
    return _mm256_blendv_ps(v_set1(-(float)INFINITY), s, _mm256_castsi256_ps(visible));
}

V_INLINE vec v_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

V_INLINE vec v_load_bf16(const uint16_t *p)
{
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

V_INLINE vec v_load_bool(const uint8_t *p)
{
    const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
    const vec hidden = _mm256_castsi256_ps(_mm256_cmpeq_epi32(wide, _mm256_setzero_si256()));
    return _mm256_and_ps(hidden, v_set1(-(float)INFINITY));
}

V_INLINE vec v_load_i8(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}

/* As an f16 of the same exponent bits, whose bias is 8 more; all ones is NaN. The sign extends into bits 15 to 7. */
V_INLINE vec v_load_e4m3(const uint8_t *p)
{
    const __m128i wide = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)p));
    const __m128i half = _mm_and_si128(_mm_slli_epi16(wide, 7), _mm_set1_epi16((int16_t)0xbf80));
    const __m128i ones = _mm_set1_epi16(0x3f80);
    const __m128i nan = _mm_cmpeq_epi16(_mm_and_si128(half, ones), ones);
    const __m128i quiet = _mm_or_si128(half, _mm_and_si128(nan, _mm_set1_epi16(0x7e00)));
    return v_mul(_mm256_cvtph_ps(quiet), v_set1(0x1p8f));
}

V_INLINE vec v_load_e5m2(const uint8_t *p)
{
    const __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)p));
    return _mm256_cvtph_ps(_mm_slli_epi16(wide, 8));
}

V_INLINE vec v_set1_f16(const void *p)
{
    int16_t half;
    memcpy(&half, p, sizeof half);
    return _mm256_cvtph_ps(_mm_set1_epi16(half));
}

V_INLINE void v_store_f16(uint16_t *p, vec x)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

V_INLINE void v_store_bf16(uint16_t *p, vec x)
{
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const vec quiet = _mm256_or_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x00400000)));
    const vec nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    const __m256i result =
        _mm256_srli_epi32(_mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(rounded), quiet, nan)), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(result, result), 0x08);
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(packed));
}

V_INLINE void v_transpose(vec r[8])
{
    vec t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            const __m256d lo = _mm256_castps_pd(t[i + j]), hi = _mm256_castps_pd(t[i + 2 + j]);
            r[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(lo, hi));
            r[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(lo, hi));
        }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
    for (int i = 0; i < 8; i++)
        r[i] = t[i];
}

/* Four vectors to one: in each half the four sums of that half. A blend runs on any port, a shuffle on two: four fewer
 * of those than with horizontal additions. */
V_INLINE vec sum_halves(const vec r[4])
{
    vec pair[2];
    for (int i = 0; i < 2; i++)
        pair[i] = v_add(_mm256_blend_ps(r[2 * i], r[2 * i + 1], 0xcc),
                        _mm256_shuffle_ps(r[2 * i], r[2 * i + 1], _MM_SHUFFLE(1, 0, 3, 2)));
    return v_add(_mm256_shuffle_ps(pair[0], pair[1], _MM_SHUFFLE(2, 0, 2, 0)),
                 _mm256_shuffle_ps(pair[0], pair[1], _MM_SHUFFLE(3, 1, 3, 1)));
}

/* Lanes 0 .. 3 and 4 .. 7 by f, then halves of what is left. */
#define ACROSS(f, x)                                                                                                   \
    __m128 four = f(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));                                           \
    four = f(four, _mm_movehl_ps(four, four));                                                                         \
    return _mm_cvtss_f32(f(four, _mm_movehdup_ps(four)))

V_INLINE float v_max_across(vec x) { ACROSS(_mm_max_ps, x); }
V_INLINE float v_sum_across(vec x) { ACROSS(_mm_add_ps, x); }

V_INLINE vec v_sum_each(const vec r[8])
{
    const vec a = sum_halves(r), b = sum_halves(r + 4);
    return v_add(_mm256_blend_ps(a, b, 0xf0), _mm256_permute2f128_ps(a, b, 0x21));
}

#include "kernels/avx2_gemm.h"
#include "kernels/f32_tile.h"
#include "kernels/f32_gemm.h"
#include "kernels/decode_f32.h"
#include "kernels/decode_tile.h"

const flashc_isa flashc_f32_avx2 = FLASHC_F32_TILE_ISA;
const flashc_isa flashc_decode_avx2 = FLASHC_DECODE_TILE_ISA(row_load_rows, false);
