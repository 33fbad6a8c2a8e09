#include "numerics.h"

#include "cpu.h"

#include <inttypes.h>
#include <math.h>

static flashc_status check_array(const char *name, const void *data, flashc_dtype dtype, int64_t n, bool may_be_f8)
{
    const bool f8 = may_be_f8 && (dtype == FLASHC_F8_E4M3 || dtype == FLASHC_F8_E5M2);
    if (!f8 && dtype != FLASHC_F32 && dtype != FLASHC_F16 && dtype != FLASHC_BF16)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s_dtype: expected %s, found %s (%d)", name,
                           may_be_f8 ? "f32, f16, bf16, f8_e4m3 or f8_e5m2" : "f32, f16 or bf16",
                           flashc_dtype_name(dtype), (int)dtype);
    if (n < 0 || (uint64_t)n > (uint64_t)PTRDIFF_MAX / flashc_dtype_size(dtype))
        return flashc_fail(FLASHC_ERR_ARGUMENT, "n: expected an array that fits in memory, found %" PRId64 " elements",
                           n);
    if (n > 0 && !data)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s: expected a pointer, found NULL", name);
    return FLASHC_OK;
}

/* Element by element from the first on, dst may be src if both types have the same size. */
static flashc_status check_overlap(const void *dst, flashc_dtype dst_dtype, const void *src, flashc_dtype src_dtype,
                                   int64_t n)
{
    size_t dst_size = flashc_dtype_size(dst_dtype), src_size = flashc_dtype_size(src_dtype);
    uintptr_t dst_begin = (uintptr_t)dst, dst_end = dst_begin + (uintptr_t)n * dst_size;
    uintptr_t src_begin = (uintptr_t)src, src_end = src_begin + (uintptr_t)n * src_size;
    bool in_place = dst == src && dst_size == src_size;
    if (!in_place && dst_begin < src_end && src_begin < dst_end)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "dst: expected no overlap with src (or src itself, types of one size), "
                           "found an overlap of %s and %s",
                           flashc_dtype_name(dst_dtype), flashc_dtype_name(src_dtype));
    return FLASHC_OK;
}

flashc_status flashc_convert(void *dst, flashc_dtype dst_dtype, const void *src, flashc_dtype src_dtype, int64_t n)
{
    flashc_status status = check_array("dst", dst, dst_dtype, n, true);
    if (status == FLASHC_OK)
        status = check_array("src", src, src_dtype, n, true);
    if (status == FLASHC_OK && n > 0)
        status = check_overlap(dst, dst_dtype, src, src_dtype, n);
    if (status != FLASHC_OK || n == 0)
        return status;
    if (dst_dtype == src_dtype) {
        memmove(dst, src, (size_t)n * flashc_dtype_size(dst_dtype));
        return FLASHC_OK;
    }
    /* All types go through f32, which holds each exactly: one rounding, whatever the pair. */
    for (int64_t i = 0; i < n; i++)
        flashc_store_f32(dst, dst_dtype, i, flashc_load_f32(src, src_dtype, i));
    return FLASHC_OK;
}

/* |a - b| - (atol + rtol*|b|): positive is a mismatch. Values that are not finite in both are as far
 * inside or outside as can be. */
static double excess(double a, double b, double rtol, double atol)
{
    if (isfinite(a) && isfinite(b))
        return fabs(a - b) - (atol + rtol * fabs(b));
    bool same = (isnan(a) && isnan(b)) || a == b;
    return same ? -(double)INFINITY : (double)INFINITY;
}

static flashc_status check_tolerance(const char *name, double tolerance)
{
    if (!(tolerance >= 0.0) || isinf(tolerance))
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s: expected a finite value, 0 or more, found %g", name, tolerance);
    return FLASHC_OK;
}

flashc_status flashc_compare(int64_t n, const void *a, flashc_dtype a_dtype, const void *b, flashc_dtype b_dtype,
                             double rtol, double atol, flashc_compare_report *out)
{
    FLASHC_IN_DEFAULT_FLOAT_MODE; /* for the tolerances too */
    flashc_status status = check_array("a", a, a_dtype, n, false);
    if (status == FLASHC_OK)
        status = check_array("b", b, b_dtype, n, false);
    if (status == FLASHC_OK)
        status = check_tolerance("rtol", rtol);
    if (status == FLASHC_OK)
        status = check_tolerance("atol", atol);
    if (status == FLASHC_OK && !out)
        status = flashc_fail(FLASHC_ERR_ARGUMENT, "out: expected a pointer, found NULL");
    if (status != FLASHC_OK)
        return status;

    flashc_compare_report report = {.worst = -1, .max_abs_index = -1};
    double worst_excess = 0.0;
    for (int64_t i = 0; i < n; i++) {
        double x = (double)flashc_load_f32(a, a_dtype, i), y = (double)flashc_load_f32(b, b_dtype, i);
        double over = excess(x, y, rtol, atol);
        report.mismatches += over > 0.0;
        if (i == 0 || over > worst_excess) {
            worst_excess = over;
            report.worst = i;
        }
        if (!isfinite(x) || !isfinite(y))
            continue;
        if (report.max_abs_index < 0 || fabs(x - y) > report.max_abs_error) {
            report.max_abs_error = fabs(x - y);
            report.max_abs_index = i;
        }
    }
    report.equal = report.mismatches == 0;
    *out = report;
    return FLASHC_OK;
}
