#include "tensor.h"

#include <inttypes.h>

/* Elements of an axis: columns are several to an element of Q8_0. */
static int64_t elements(const flashc_tensor_argument *a, int axis)
{
    return axis == 3 ? a->size[3] / flashc_dtype_columns(a->tensor->dtype) : a->size[axis];
}

bool flashc_tensor_is_empty(const flashc_tensor_argument *a)
{
    return a->size[0] == 0 || a->size[1] == 0 || a->size[2] == 0 || a->size[3] == 0;
}

/* Every byte offset of the view must fit, with its sign, in int64. */
static flashc_status check_strides(const flashc_tensor_argument *a)
{
    int64_t low = 0, high = 0, bytes = (int64_t)flashc_dtype_size(a->tensor->dtype);
    for (int axis = 0; axis < 4; axis++) {
        int64_t extent;
        bool overflow = __builtin_mul_overflow(elements(a, axis) - 1, a->tensor->stride[axis], &extent) ||
                        __builtin_mul_overflow(extent, bytes, &extent);
        int64_t *end = !overflow && extent >= 0 ? &high : &low;
        overflow = overflow || __builtin_add_overflow(*end, extent, end);
        if (overflow)
            return flashc_fail(FLASHC_ERR_ARGUMENT,
                               "%s.stride[%d]: %" PRId64 " elements times size %" PRId64
                               " leaves the 64-bit address range",
                               a->name, axis, a->tensor->stride[axis], elements(a, axis));
    }
    return FLASHC_OK;
}

/* An output whose elements share memory. Axes sorted by stride must each step over all that the
 * shorter ones span; the rare interleavings that fail this test without overlapping are refused too. */
static flashc_status check_no_self_overlap(const flashc_tensor_argument *a)
{
    int axes[4], n = 0;
    for (int axis = 0; axis < 4; axis++)
        if (elements(a, axis) > 1)
            axes[n++] = axis;
    const int64_t *stride = a->tensor->stride;
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && flashc_magnitude(stride[axes[j]]) < flashc_magnitude(stride[axes[j - 1]]); j--) {
            int swap = axes[j];
            axes[j] = axes[j - 1];
            axes[j - 1] = swap;
        }
    uint64_t span = 0; /* up to the way from the lowest element to the highest, each within 63 bits of the first */
    for (int i = 0; i < n; i++) {
        const uint64_t step = flashc_magnitude(stride[axes[i]]);
        if (step <= span)
            return flashc_fail(FLASHC_ERR_ARGUMENT,
                               "%s.stride[%d]: the output overlaps itself: found a stride of %" PRId64
                               ", expected more than the %" PRIu64 " elements that faster axes span",
                               a->name, axes[i], stride[axes[i]], span);
        span += step * (uint64_t)(elements(a, axes[i]) - 1);
    }
    return FLASHC_OK;
}

static bool has_type(const flashc_tensor_argument *a)
{
    const flashc_dtype dtype = a->tensor->dtype;
    switch (a->types) {
    case FLASHC_TYPES_BOOL: return dtype == FLASHC_BOOL;
    case FLASHC_TYPES_F32: return dtype == FLASHC_F32;
    case FLASHC_TYPES_FLOAT: return dtype == FLASHC_F32 || dtype == FLASHC_F16 || dtype == FLASHC_BF16;
    case FLASHC_TYPES_CACHE: return dtype != FLASHC_BOOL && flashc_dtype_size(dtype) > 0;
    }
    return false;
}

/* Blocks of Q8_0: whole ones, in the order of their columns. */
static flashc_status check_blocks(const flashc_tensor_argument *a)
{
    if (a->size[3] % FLASHC_Q8_0_COLUMNS != 0)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "%s: expected rows of whole blocks of %d columns for q8_0, found %" PRId64 " columns",
                           a->name, FLASHC_Q8_0_COLUMNS, a->size[3]);
    if (elements(a, 3) > 1 && a->tensor->stride[3] != 1)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "%s.stride[3]: expected 1 for q8_0, the blocks of a row being contiguous, found %" PRId64,
                           a->name, a->tensor->stride[3]);
    return FLASHC_OK;
}

flashc_status flashc_tensor_check(const flashc_tensor_argument *a)
{
    static const char *const types[] = {
        [FLASHC_TYPES_FLOAT] = "f32, f16 or bf16",
        [FLASHC_TYPES_F32] = "f32",
        [FLASHC_TYPES_BOOL] = "bool",
        [FLASHC_TYPES_CACHE] = "f32, f16, bf16, i8, f8_e4m3, f8_e5m2 or q8_0"};
    const flashc_tensor *t = a->tensor;
    if (!has_type(a) && (int)t->dtype == 0)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s.dtype: expected %s, found none", a->name, types[a->types]);
    if (!has_type(a))
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s.dtype: expected %s, found %s (%d)", a->name, types[a->types],
                           flashc_dtype_name(t->dtype), (int)t->dtype);
    if (flashc_tensor_is_empty(a))
        return FLASHC_OK;
    if (!t->data)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "%s.data: expected a pointer to [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                           "] elements, found NULL",
                           a->name, a->size[0], a->size[1], a->size[2], a->size[3]);
    const size_t alignment = t->dtype == FLASHC_Q8_0 ? sizeof(uint16_t) : flashc_dtype_size(t->dtype);
    if ((uintptr_t)t->data % alignment != 0)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s.data: expected an address aligned to %zu bytes, found %p", a->name,
                           alignment, t->data);
    flashc_status status = t->dtype == FLASHC_Q8_0 ? check_blocks(a) : FLASHC_OK;
    if (status == FLASHC_OK)
        status = check_strides(a);
    if (status == FLASHC_OK && a->direction == FLASHC_OUTPUT)
        status = check_no_self_overlap(a);
    return status;
}

flashc_status flashc_tensor_check_apart(const flashc_tensor_argument *output, const flashc_tensor_argument *other)
{
    const bool somewhere = !flashc_tensor_is_empty(output) && !flashc_tensor_is_empty(other);
    if (output->tensor->data == other->tensor->data && somewhere)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "%s.data: expected memory of its own, found the address of %s (%p)", output->name,
                           other->name, output->tensor->data);
    return FLASHC_OK;
}

/* The first and the last byte of a tensor that has elements, all of them at 64-bit distances. */
typedef struct byte_span {
    uintptr_t first, last;
} byte_span;

static byte_span span_of(const flashc_tensor_argument *a)
{
    const uint64_t bytes = flashc_dtype_size(a->tensor->dtype);
    byte_span s = {.first = (uintptr_t)a->tensor->data, .last = (uintptr_t)a->tensor->data + bytes - 1};
    for (int axis = 0; axis < 4; axis++) {
        const int64_t stride = a->tensor->stride[axis];
        const uint64_t extent = flashc_magnitude(stride) * (uint64_t)(elements(a, axis) - 1) * bytes;
        if (stride < 0)
            s.first -= extent;
        else
            s.last += extent;
    }
    return s;
}

/* Is each byte of its span an element's? */
static bool has_no_gaps(const flashc_tensor_argument *a, byte_span s)
{
    uint64_t run = 1; /* elements side by side; an axis whose step is within them makes them more, in any order */
    for (int again = 0; again < 4; again++)
        for (int axis = 0; axis < 4; axis++) {
            const uint64_t step = flashc_magnitude(a->tensor->stride[axis]);
            const uint64_t reach = step * (uint64_t)(elements(a, axis) - 1);
            run += step <= run && reach >= run ? reach : 0;
        }
    return run > (s.last - s.first) / flashc_dtype_size(a->tensor->dtype);
}

static bool holds_end_of(byte_span a, byte_span b)
{
    return (a.first <= b.first && b.first <= a.last) || (a.first <= b.last && b.last <= a.last);
}

bool flashc_tensors_overlap(const flashc_tensor_argument *a, const flashc_tensor_argument *b)
{
    if (flashc_tensor_is_empty(a) || flashc_tensor_is_empty(b))
        return false;
    const byte_span of_a = span_of(a), of_b = span_of(b);
    if (of_a.last < of_b.first || of_b.last < of_a.first)
        return false;
    return a->tensor->data == b->tensor->data || (holds_end_of(of_a, of_b) && has_no_gaps(a, of_a)) ||
           (holds_end_of(of_b, of_a) && has_no_gaps(b, of_b));
}
