#include "softmax/check.h"

#include <inttypes.h>

flashc_status flashc_check_pointer(const char *name, const void *pointer)
{
    if (!pointer)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s: expected a pointer, found NULL", name);
    return FLASHC_OK;
}

flashc_status flashc_check_size(const char *name, int64_t size)
{
    if (size < 0)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s: expected 0 or more, found %" PRId64, name, size);
    return FLASHC_OK;
}

flashc_status flashc_check_float_dtype(const char *name, flashc_dtype dtype)
{
    if (dtype != FLASHC_F32 && dtype != FLASHC_F16 && dtype != FLASHC_BF16)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s: expected f32, f16 or bf16, found %s (%d)", name,
                           flashc_dtype_name(dtype), (int)dtype);
    return FLASHC_OK;
}

flashc_status flashc_check_input(const char *name, const void *data, int64_t rows, int64_t cols, int64_t row_stride,
                                 size_t element_size)
{
    if (rows == 0)
        return FLASHC_OK;
    /* The last element's distance from the first must be countable in bytes, that of an empty row too:
     * callers multiply. */
    uint64_t limit = (uint64_t)PTRDIFF_MAX / element_size;
    bool fits = (uint64_t)cols <= limit;
    if (fits && rows > 1)
        fits = flashc_magnitude(row_stride) <= (limit - (uint64_t)cols) / (uint64_t)(rows - 1);
    if (!fits)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "%s: expected an array that fits in memory, found %" PRId64 " x %" PRId64
                           " elements with row stride %" PRId64,
                           name, rows, cols, row_stride);
    return cols > 0 ? flashc_check_pointer(name, data) : FLASHC_OK;
}

flashc_status flashc_check_output(const char *name, const void *data, int64_t rows, int64_t cols, int64_t row_stride,
                                  size_t element_size)
{
    if (rows > 1 && flashc_magnitude(row_stride) < (uint64_t)cols)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "%s: expected rows that do not overlap, |row stride| >= %" PRId64
                           ", found row stride %" PRId64,
                           name, cols, row_stride);
    return flashc_check_input(name, data, rows, cols, row_stride, element_size);
}

/* [n] and [m] f32. */
static bool overlap(const void *a, int64_t n, const void *b, int64_t m)
{
    const uintptr_t first = (uintptr_t)a, second = (uintptr_t)b;
    return n > 0 && m > 0 && (first < second ? second - first < (uint64_t)n * sizeof(float)
                                             : first - second < (uint64_t)m * sizeof(float));
}

flashc_status flashc_check_apart(const char *name, const void *a, int64_t n, const char *other, const void *b,
                                 int64_t m)
{
    if (overlap(a, n, b, m))
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s: expected memory of its own, found %p, which overlaps %s (%p)",
                           name, a, other, b);
    return FLASHC_OK;
}

flashc_status flashc_check_no_overlap(const char *name, const void *a, const char *other, const void *b, int64_t n)
{
    if (a != b && overlap(a, n, b, n))
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s: expected %s itself or no overlap with it, found a part of it",
                           name, other);
    return FLASHC_OK;
}
