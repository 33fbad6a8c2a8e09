/*
 * AVX-512 on CPUs that have AVX2 alone, for tests: the intrinsics of the AVX-512 kernels as SIMDe has them, and those
 * that its release in Debian 12 lacks. Included before a kernel's file, see scripts/test_avx512.
 *
 * Results are those of the CPU but for the order in which products of bf16 are added up. What is large stays a
 * function: inlined wherever it is used, the compiler takes minutes.
 */
#ifndef FLASHC_EMULATED_AVX512_H
#define FLASHC_EMULATED_AVX512_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

/* An alias that this release forgot. */
#define _mm512_shuffle_f32x4 simde_mm512_shuffle_f32x4

typedef float emulated_floats __attribute__((vector_size(64)));
typedef int32_t emulated_words __attribute__((vector_size(64)));
typedef uint32_t emulated_bits __attribute__((vector_size(64)));
typedef int8_t emulated_signed_bytes __attribute__((vector_size(16)));
typedef uint8_t emulated_bytes __attribute__((vector_size(16)));
typedef int16_t emulated_halves __attribute__((vector_size(32)));
typedef uint16_t emulated_positive_halves __attribute__((vector_size(32)));

#define EMULATED static inline __attribute__((always_inline))
#define EMULATED_LARGE static __attribute__((noinline, unused))

/* Number by number from one vector type to another. */
#define EMULATED_CONVERSION(name, result, argument, from, to)                                                          \
    EMULATED result emulated_##name(argument x) { return (result)__builtin_convertvector((from)x, to); }

EMULATED_CONVERSION(cvtepi32_ps, __m512, __m512i, emulated_words, emulated_floats)
EMULATED_CONVERSION(cvtepi8_epi32, __m512i, __m128i, emulated_signed_bytes, emulated_words)
EMULATED_CONVERSION(cvtepu8_epi32, __m512i, __m128i, emulated_bytes, emulated_words)
EMULATED_CONVERSION(cvtepu16_epi32, __m512i, __m256i, emulated_positive_halves, emulated_words)
EMULATED_CONVERSION(cvtepi32_epi16, __m256i, __m512i, emulated_words, emulated_halves)
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
#define _mm512_cvtepi8_epi32 emulated_cvtepi8_epi32
#define _mm512_cvtepu8_epi32 emulated_cvtepu8_epi32
#define _mm512_cvtepu16_epi32 emulated_cvtepu16_epi32
#define _mm512_cvtepi32_epi16 emulated_cvtepi32_epi16

EMULATED __m512i emulated_zextsi256_si512(__m256i x)
{
    __m512i wide = _mm512_setzero_si512();
    memcpy(&wide, &x, sizeof x);
    return wide;
}
#define _mm512_zextsi256_si512 emulated_zextsi256_si512

EMULATED __m512 emulated_cvtph_ps(__m256i x)
{
    const __m256 halves[2] = {_mm256_cvtph_ps(_mm256_castsi256_si128(x)),
                              _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1))};
    return _mm512_loadu_ps(halves);
}
#define _mm512_cvtph_ps emulated_cvtph_ps

/* To nearest, which is all that the kernels ask for. */
EMULATED __m256i emulated_cvtps_ph(__m512 x, int rounding)
{
    (void)rounding;
    __m256 half[2];
    memcpy(half, &x, sizeof x);
    return _mm256_set_m128i(_mm256_cvtps_ph(half[1], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                            _mm256_cvtps_ph(half[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#define _mm512_cvtps_ph emulated_cvtps_ph

/* To nearest even; subnormal numbers to 0; NaN to a quiet one. */
EMULATED_LARGE __m256bh emulated_cvtneps_pbh(__m512 x)
{
    const emulated_bits bits = (emulated_bits)x, exponent = bits & 0x7f800000;
    const emulated_bits rounded = bits + 0x7fff + (bits >> 16 & 1);
    const emulated_bits nan = (emulated_bits)((bits & 0x7fffffff) > 0x7f800000), tiny = (emulated_bits)(exponent == 0);
    const emulated_bits whole = (rounded & ~nan) | ((bits | 0x00400000) & nan);
    const emulated_bits result = ((whole & ~tiny) | (bits & 0x80000000 & tiny)) >> 16;
    return (__m256bh)__builtin_convertvector(result, emulated_positive_halves);
}
#define _mm512_cvtneps_pbh emulated_cvtneps_pbh

/* The second argument's numbers come first. */
EMULATED __m512bh emulated_cvtne2ps_pbh(__m512 high, __m512 low)
{
    const __m256bh halves[2] = {emulated_cvtneps_pbh(low), emulated_cvtneps_pbh(high)};
    return (__m512bh)_mm512_loadu_ps(halves);
}
#define _mm512_cvtne2ps_pbh emulated_cvtne2ps_pbh

/* Subnormal numbers are 0. */
EMULATED __m512 emulated_of_bf16(emulated_bits x)
{
    const emulated_bits tiny = (emulated_bits)((x & 0x7f800000) == 0);
    return (__m512)(x & ~tiny);
}

/* The products are exact, the sums rounded. */
EMULATED_LARGE __m512 emulated_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b)
{
    const emulated_bits x = (emulated_bits)a, y = (emulated_bits)b, odd = (emulated_bits){} + 0xffff0000;
    sum = emulated_of_bf16(x << 16) * emulated_of_bf16(y << 16) + sum;
    return emulated_of_bf16(x & odd) * emulated_of_bf16(y & odd) + sum;
}
#undef _mm512_dpbf16_ps
#define _mm512_dpbf16_ps emulated_dpbf16_ps

EMULATED_LARGE void emulated_mask_storeu(void *dst, uint32_t mask, const void *src, size_t size)
{
    for (size_t i = 0; i < 64 / size; i++)
        if (mask >> i & 1)
            memcpy((char *)dst + i * size, (const char *)src + i * size, size);
}

EMULATED void emulated_mask_storeu_epi16(void *dst, __mmask32 mask, __m512i x)
{
    emulated_mask_storeu(dst, mask, &x, 2);
}
#define _mm512_mask_storeu_epi16 emulated_mask_storeu_epi16

EMULATED void emulated_mask_storeu_epi32(void *dst, __mmask16 mask, __m512i x)
{
    emulated_mask_storeu(dst, mask, &x, 4);
}
#define _mm512_mask_storeu_epi32 emulated_mask_storeu_epi32

/* Halves, again and again, as the compilers' own do. */
EMULATED_LARGE float emulated_reduce_ps(__m512 x, float (*of_two)(float, float))
{
    float lane[16];
    memcpy(lane, &x, sizeof x);
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] = of_two(lane[i], lane[i + half]);
    return lane[0];
}

EMULATED float emulated_sum(float a, float b) { return a + b; }
EMULATED float emulated_larger(float a, float b) { return a > b ? a : b; }
EMULATED float emulated_reduce_add_ps(__m512 x) { return emulated_reduce_ps(x, emulated_sum); }
EMULATED float emulated_reduce_max_ps(__m512 x) { return emulated_reduce_ps(x, emulated_larger); }
#define _mm512_reduce_add_ps emulated_reduce_add_ps
#define _mm512_reduce_max_ps emulated_reduce_max_ps

#endif
