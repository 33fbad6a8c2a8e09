/* Argument checks that the functions of this directory share. Each returns FLASHC_OK, or sets the
 * message "name: expected ..., found ..." and returns FLASHC_ERR_ARGUMENT. */
#ifndef FLASHC_SOFTMAX_CHECK_H
#define FLASHC_SOFTMAX_CHECK_H

#include "common.h"

flashc_status flashc_check_pointer(const char *name, const void *pointer);
flashc_status flashc_check_size(const char *name, int64_t size);

/* f32, f16 or bf16 */
flashc_status flashc_check_float_dtype(const char *name, flashc_dtype dtype);

/* data: [rows, cols] with contiguous rows, any row stride. NULL is fine if it has no elements. */
flashc_status flashc_check_input(const char *name, const void *data, int64_t rows, int64_t cols, int64_t row_stride,
                                 size_t element_size);

/* The same, and no two rows may share elements. */
flashc_status flashc_check_output(const char *name, const void *data, int64_t rows, int64_t cols, int64_t row_stride,
                                  size_t element_size);

/* name: [n], other: [m] f32. They share no element. */
flashc_status flashc_check_apart(const char *name, const void *a, int64_t n, const char *other, const void *b,
                                 int64_t m);

/* name and other: [n] f32 each. They are the same array or share no element. */
flashc_status flashc_check_no_overlap(const char *name, const void *a, const char *other, const void *b, int64_t n);

#endif
