/* Scalar conversions between f32 and the 16-bit types. These are the definition; vector code
 * must agree bit for bit (tests compare them exhaustively). */
#ifndef FLASHC_NUMERICS_H
#define FLASHC_NUMERICS_H

#include "common.h"

#include <string.h>

/* Below this exp is exactly 0: the smallest f32 whose exp is a normal f32 (ln(2^-126) = -87.3365447 lies
 * between it and the next). */
#define FLASHC_EXP_MIN (-87.3365402f)

static inline uint32_t flashc_bits_from_f32(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float flashc_f32_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float flashc_f32_from_bf16(uint16_t h)
{
    return flashc_f32_from_bits((uint32_t)h << 16);
}

/* NaN is tested first: rounding up would carry a NaN's mantissa into infinity or -0. */
static inline uint16_t flashc_bf16_from_f32(float x)
{
    uint32_t bits = flashc_bits_from_f32(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x0040u); /* quiet, sign and payload kept */
    bits += 0x7fffu + ((bits >> 16) & 1u);
    return (uint16_t)(bits >> 16);
}

static inline float flashc_f32_from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t magnitude = h & 0x7fffu;
    if (magnitude >= 0x7c00u) /* infinity or NaN; NaN comes out quiet, as F16C makes it */
        return flashc_f32_from_bits(sign | 0x7f800000u | (magnitude & 0x03ffu) << 13 |
                                    (magnitude > 0x7c00u ? 0x00400000u : 0));
    if (magnitude >= 0x0400u)
        return flashc_f32_from_bits(sign | ((magnitude << 13) + ((127u - 15u) << 23)));
    /* Zero or subnormal: magnitude * 2^-24, exact in f32. */
    float value = (float)magnitude * 0x1p-24f;
    return flashc_f32_from_bits(sign | flashc_bits_from_f32(value));
}

static inline uint16_t flashc_f16_from_f32(float x)
{
    uint32_t bits = flashc_bits_from_f32(x);
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x03ffu));
    if (magnitude >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        /* Below 2^-14 the result is subnormal, a multiple of 2^-24. In integers, so that the caller's
         * rounding mode has no say. */
        if (magnitude < 0x33000000u) /* below 2^-25 */
            return sign;
        uint32_t significand = (magnitude & 0x007fffffu) | 0x00800000u;
        uint32_t shift = 126u - (magnitude >> 23); /* 14 to 24 */
        uint32_t kept_odd = (significand >> shift) & 1u;
        return (uint16_t)(sign | ((significand + (1u << (shift - 1)) - 1u + kept_odd) >> shift));
    }
    uint32_t odd = (magnitude >> 13) & 1u;
    magnitude += 0x0fffu + odd - ((127u - 15u) << 23);
    return (uint16_t)(sign | (magnitude >> 13));
}

/* Element number index of an array of dtype (f32, f16 or bf16), as f32. */
static inline float flashc_load_f32(const void *data, flashc_dtype dtype, int64_t index)
{
    if (dtype == FLASHC_F32)
        return ((const float *)data)[index];
    uint16_t half = ((const uint16_t *)data)[index];
    return dtype == FLASHC_F16 ? flashc_f32_from_f16(half) : flashc_f32_from_bf16(half);
}

static inline void flashc_store_f32(void *data, flashc_dtype dtype, int64_t index, float value)
{
    if (dtype == FLASHC_F32)
        ((float *)data)[index] = value;
    else
        ((uint16_t *)data)[index] = dtype == FLASHC_F16 ? flashc_f16_from_f32(value) : flashc_bf16_from_f32(value);
}

#endif
