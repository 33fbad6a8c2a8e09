/* Scalar conversions between f32 and the types of fewer bits. These are the definition; vector code
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

static inline float flashc_f32_from_e5m2(uint8_t code)
{
    return flashc_f32_from_f16((uint16_t)(code << 8));
}

/* As an f16 of the same exponent bits, whose bias is 8 more. */
static inline float flashc_f32_from_e4m3(uint8_t code)
{
    const uint32_t sign = (uint32_t)(code & 0x80u) << 24, magnitude = code & 0x7fu;
    if (magnitude == 0x7fu)
        return flashc_f32_from_bits(sign | 0x7fc00000u);
    return flashc_f32_from_f16((uint16_t)(sign >> 16 | magnitude << 7)) * 0x1p8f;
}

/* The bits below the sign of a float of so many mantissa bits, for one of f32 that is not NaN. The exponent goes on
 * beyond what the type holds. In integers, so that the caller's rounding mode has no say. */
static inline uint32_t flashc_f8_magnitude(uint32_t magnitude, uint32_t mantissa, uint32_t bias)
{
    const uint32_t exponent = magnitude >> 23, cut = 23u - mantissa;
    if (exponent >= 128u - bias) {
        const uint32_t odd = (magnitude >> cut) & 1u;
        return (magnitude - ((127u - bias) << 23) + (1u << (cut - 1)) - 1u + odd) >> cut;
    }
    const uint32_t shift = cut + 128u - bias - exponent; /* a multiple of the smallest subnormal */
    if (shift > 24)
        return 0;
    const uint32_t significand = (magnitude & 0x007fffffu) | 0x00800000u;
    return (significand + (1u << (shift - 1)) - 1u + ((significand >> shift) & 1u)) >> shift;
}

/* Beyond 448, where the type ends, NaN. */
static inline uint8_t flashc_e4m3_from_f32(float x)
{
    const uint32_t bits = flashc_bits_from_f32(x), magnitude = bits & 0x7fffffffu;
    const uint32_t code = magnitude >= 0x7f800000u ? 0x7fu : flashc_f8_magnitude(magnitude, 3, 7);
    return (uint8_t)((bits >> 24 & 0x80u) | (code < 0x7fu ? code : 0x7fu));
}

static inline uint8_t flashc_e5m2_from_f32(float x)
{
    const uint32_t bits = flashc_bits_from_f32(x), magnitude = bits & 0x7fffffffu;
    const uint32_t code = flashc_f8_magnitude(magnitude, 2, 15);
    if (magnitude > 0x7f800000u)
        return (uint8_t)((bits >> 24 & 0x80u) | 0x7eu);
    return (uint8_t)((bits >> 24 & 0x80u) | (code < 0x7cu ? code : 0x7cu));
}

static inline float flashc_f32_from_q8_0(const void *blocks, int64_t column)
{
    const unsigned char *block = (const unsigned char *)blocks + column / FLASHC_Q8_0_COLUMNS * FLASHC_Q8_0_BYTES;
    uint16_t scale;
    memcpy(&scale, block, sizeof scale);
    /* A product of 11 and 8 bits: exact. */
    return flashc_f32_from_f16(scale) * (float)(int8_t)block[2 + column % FLASHC_Q8_0_COLUMNS];
}

/* Element number index of an array of dtype, as f32: of I8 and the 8-bit floats the code; of Q8_0 column number index,
 * 0 or more. */
static inline float flashc_load_f32(const void *data, flashc_dtype dtype, int64_t index)
{
    switch (dtype) {
    case FLASHC_F32: return ((const float *)data)[index];
    case FLASHC_F16: return flashc_f32_from_f16(((const uint16_t *)data)[index]);
    case FLASHC_BF16: return flashc_f32_from_bf16(((const uint16_t *)data)[index]);
    case FLASHC_BOOL: return ((const uint8_t *)data)[index] != 0;
    case FLASHC_I8: return ((const int8_t *)data)[index];
    case FLASHC_F8_E4M3: return flashc_f32_from_e4m3(((const uint8_t *)data)[index]);
    case FLASHC_F8_E5M2: return flashc_f32_from_e5m2(((const uint8_t *)data)[index]);
    case FLASHC_Q8_0: return flashc_f32_from_q8_0(data, index);
    }
    return 0.0f;
}

/* Of the types that one number can be rounded to: f32, f16, bf16 and the 8-bit floats. */
static inline void flashc_store_f32(void *data, flashc_dtype dtype, int64_t index, float value)
{
    switch (dtype) {
    case FLASHC_F32: ((float *)data)[index] = value; return;
    case FLASHC_F16: ((uint16_t *)data)[index] = flashc_f16_from_f32(value); return;
    case FLASHC_BF16: ((uint16_t *)data)[index] = flashc_bf16_from_f32(value); return;
    case FLASHC_F8_E4M3: ((uint8_t *)data)[index] = flashc_e4m3_from_f32(value); return;
    case FLASHC_F8_E5M2: ((uint8_t *)data)[index] = flashc_e5m2_from_f32(value); return;
    case FLASHC_BOOL:
    case FLASHC_I8:
    case FLASHC_Q8_0: return;
    }
}

#endif
