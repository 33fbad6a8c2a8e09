#include "cache/quantise.h"

#include "numerics.h"

#include <float.h>
#include <math.h>

/* The scale with which the largest |x| becomes 127, or less if that would not be a normal number, and *inverse, what
 * x is multiplied by. A NaN makes the scale NaN and infinity makes it infinite; then, and where all are 0, codes are
 * 0. */
static float choose_scale(const float *x, int64_t n, float *inverse)
{
    float largest = 0.0f;
    for (int64_t i = 0; i < n; i++)
        largest = fabsf(x[i]) > largest || isnan(x[i]) ? fabsf(x[i]) : largest;
    float scale = largest / 127.0f;
    if (largest > 0.0f && scale < FLT_MIN)
        scale = FLT_MIN;
    *inverse = isfinite(scale) && scale > 0.0f ? 1.0f / scale : 0.0f;
    return scale;
}

/* To the nearest integer, halves away from 0, as ggml does. */
static int8_t code_of(float x, float inverse)
{
    const float code = inverse == 0.0f ? 0.0f : x * inverse;
    return (int8_t)fminf(127.0f, fmaxf(-127.0f, roundf(code)));
}

static void to_blocks(char *block, const float *x, int64_t n)
{
    for (int64_t first = 0; first < n; first += FLASHC_Q8_0_COLUMNS, block += FLASHC_Q8_0_BYTES) {
        float inverse;
        const uint16_t scale = flashc_f16_from_f32(choose_scale(x + first, FLASHC_Q8_0_COLUMNS, &inverse));
        memcpy(block, &scale, sizeof scale);
        for (int64_t i = 0; i < FLASHC_Q8_0_COLUMNS; i++)
            ((int8_t *)block)[2 + i] = code_of(x[first + i], inverse);
    }
}

/* What is finite stays so, also where the quotient is not. */
static float divide_within(flashc_dtype dtype, float x, float divisor)
{
    const float most = dtype == FLASHC_F8_E4M3 ? 448.0f : 57344.0f;
    return isfinite(x) ? fminf(most, fmaxf(-most, x / divisor)) : x;
}

void flashc_row_quantise(flashc_row dst, const float *x, int64_t n, float *scale)
{
    if (dst.dtype == FLASHC_Q8_0) {
        to_blocks(dst.data, x, n);
    } else if (dst.dtype == FLASHC_I8) {
        float inverse;
        *scale = choose_scale(x, n, &inverse);
        for (int64_t i = 0; i < n; i++)
            ((int8_t *)dst.data)[i * dst.stride] = code_of(x[i], inverse);
    } else {
        const float divisor = scale ? *scale : 1.0f;
        for (int64_t i = 0; i < n; i++)
            flashc_store_f32(dst.data, dst.dtype, i * dst.stride, divide_within(dst.dtype, x[i], divisor));
    }
}
