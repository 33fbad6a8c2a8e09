#include "common.h"

#include <stdarg.h>
#include <stdio.h>

#define FLASHC_STRINGIFY_(x) #x
#define FLASHC_STRINGIFY(x) FLASHC_STRINGIFY_(x)

static _Thread_local char last_error[512];

flashc_status flashc_fail(flashc_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(last_error, sizeof last_error, format, args);
    va_end(args);
    return status;
}

const char *flashc_last_error(void)
{
    return last_error;
}

const char *flashc_status_string(flashc_status status)
{
    switch (status) {
    case FLASHC_OK: return "ok";
    case FLASHC_ERR_ARGUMENT: return "invalid argument";
    case FLASHC_ERR_UNSUPPORTED: return "not supported";
    case FLASHC_ERR_MEMORY: return "out of memory";
    case FLASHC_ERR_WORKSPACE: return "workspace not usable";
    case FLASHC_ERR_CANCELLED: return "cancelled";
    }
    return "unknown status";
}

const char *flashc_version(void)
{
    return FLASHC_STRINGIFY(FLASHC_VERSION_MAJOR) "." FLASHC_STRINGIFY(FLASHC_VERSION_MINOR) "." FLASHC_STRINGIFY(
        FLASHC_VERSION_PATCH);
}

size_t flashc_dtype_size(flashc_dtype dtype)
{
    return flashc_element_size(dtype);
}

const char *flashc_dtype_name(flashc_dtype dtype)
{
    switch (dtype) {
    case FLASHC_F32: return "f32";
    case FLASHC_F16: return "f16";
    case FLASHC_BF16: return "bf16";
    case FLASHC_BOOL: return "bool";
    case FLASHC_I8: return "i8";
    case FLASHC_F8_E4M3: return "f8_e4m3";
    case FLASHC_F8_E5M2: return "f8_e5m2";
    case FLASHC_Q8_0: return "q8_0";
    }
    return "?";
}

/* The const is dropped as in strchr(): a view of an input is never written through. */
static flashc_tensor make_view(const void *data, flashc_dtype dtype, int64_t s0, int64_t s1, int64_t s2)
{
    flashc_tensor view = {.data = (void *)(uintptr_t)data, .dtype = dtype, .stride = {s0, s1, s2, 1}};
    return view;
}

/* INT64_MAX where the product has more than 64 bits: a stride that the call's check refuses wherever it
 * matters. (Wrapped around, it might pass.) */
static int64_t multiply(int64_t a, int64_t b)
{
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

flashc_tensor flashc_tensor_bhsd(const void *data, flashc_dtype dtype, int64_t heads, int64_t seqlen, int64_t dim)
{
    const int64_t row = dim / flashc_dtype_columns(dtype);
    return make_view(data, dtype, multiply(multiply(heads, seqlen), row), multiply(seqlen, row), row);
}

flashc_tensor flashc_tensor_bshd(const void *data, flashc_dtype dtype, int64_t heads, int64_t seqlen, int64_t dim)
{
    const int64_t row = dim / flashc_dtype_columns(dtype);
    return make_view(data, dtype, multiply(multiply(seqlen, heads), row), row, multiply(heads, row));
}
