/* Words that every floor uses: errors, alignment, small integer helpers. */
#ifndef FLASHC_COMMON_H
#define FLASHC_COMMON_H

#include "flashc.h"

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "flashc needs IEEE arithmetic, NaN and infinity included: build it without -ffast-math and its parts"
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Every scratch array starts on a cache line; a full AVX-512 register is one. */
#define FLASHC_ALIGNMENT 64

/* Sets this thread's error message (printf format) and returns status. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
flashc_status flashc_fail(flashc_status status, const char *format, ...);

/* A block of FLASHC_Q8_0: an f16 scale, then a byte a column. */
enum { FLASHC_Q8_0_COLUMNS = 32, FLASHC_Q8_0_BYTES = 34 };

/* Columns of an element. */
static inline int64_t flashc_dtype_columns(flashc_dtype dtype)
{
    return dtype == FLASHC_Q8_0 ? FLASHC_Q8_0_COLUMNS : 1;
}

/* flashc_dtype_size() for inner loops: a constant where dtype is one. */
static inline size_t flashc_element_size(flashc_dtype dtype)
{
    switch (dtype) {
    case FLASHC_F32: return 4;
    case FLASHC_F16: return 2;
    case FLASHC_BF16: return 2;
    case FLASHC_BOOL:
    case FLASHC_I8:
    case FLASHC_F8_E4M3:
    case FLASHC_F8_E5M2: return 1;
    case FLASHC_Q8_0: return FLASHC_Q8_0_BYTES;
    }
    return 0;
}

/* Codes with scales? */
static inline bool flashc_dtype_is_quantised(flashc_dtype dtype)
{
    return dtype == FLASHC_I8 || dtype == FLASHC_F8_E4M3 || dtype == FLASHC_F8_E5M2 || dtype == FLASHC_Q8_0;
}

/* Bytes of so many contiguous columns. */
static inline int64_t flashc_row_bytes(flashc_dtype dtype, int64_t n_cols)
{
    return n_cols / flashc_dtype_columns(dtype) * (int64_t)flashc_element_size(dtype);
}

static inline int64_t flashc_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t flashc_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* |stride| without the overflow of -INT64_MIN. */
static inline uint64_t flashc_magnitude(int64_t stride)
{
    return stride < 0 ? 0 - (uint64_t)stride : (uint64_t)stride;
}

/* a / b rounded up, a >= 0, b > 0. */
static inline int64_t flashc_ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

static inline int64_t flashc_round_up(int64_t a, int64_t multiple)
{
    return flashc_ceil_div(a, multiple) * multiple;
}

#endif
