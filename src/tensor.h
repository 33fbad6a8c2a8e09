/* Tensor arguments: their elements, and the checks that every call makes of them. */
#ifndef FLASHC_TENSOR_H
#define FLASHC_TENSOR_H

#include "common.h"

typedef enum flashc_direction { FLASHC_INPUT, FLASHC_OUTPUT } flashc_direction;

/* Element types that an argument may have. */
typedef enum flashc_types { FLASHC_TYPES_FLOAT, FLASHC_TYPES_F32, FLASHC_TYPES_BOOL, FLASHC_TYPES_CACHE } flashc_types;

/* One tensor argument with its place in the call, for checks and messages. */
typedef struct flashc_tensor_argument {
    const char *name;
    const flashc_tensor *tensor;
    int64_t size[4]; /* the last in columns */
    flashc_direction direction;
    flashc_types types;
} flashc_tensor_argument;

/* Has it no elements? Then it need not be anywhere either. */
bool flashc_tensor_is_empty(const flashc_tensor_argument *a);

/* Type, pointer, alignment; every element at a 64-bit distance; an output does not overlap itself. Of a tensor without
 * elements the type alone. */
flashc_status flashc_tensor_check(const flashc_tensor_argument *a);

/* An output and another argument must not begin at the same address. */
flashc_status flashc_tensor_check_apart(const flashc_tensor_argument *output, const flashc_tensor_argument *other);

/* Do two valid tensors certainly share an element: do they begin at one address, or has one that is without gaps the
 * first or the last byte of the other? (Views that interleave may share some all the same.) */
bool flashc_tensors_overlap(const flashc_tensor_argument *a, const flashc_tensor_argument *b);

/* Address of element [i0][i1][i2][i3]. */
static inline char *flashc_element(const flashc_tensor *t, int64_t i0, int64_t i1, int64_t i2, int64_t i3)
{
    int64_t index = i0 * t->stride[0] + i1 * t->stride[1] + i2 * t->stride[2] + i3 * t->stride[3];
    return (char *)t->data + index * (int64_t)flashc_element_size(t->dtype);
}

#endif
