/* One row of K, V or Q on its way into a cache: converted, and turned by its position. */
#ifndef FLASHC_CACHE_ROTARY_H
#define FLASHC_CACHE_ROTARY_H

#include "common.h"

/* Column i is element i * stride. */
typedef struct flashc_row {
    void *data;
    flashc_dtype dtype;
    int64_t stride;
} flashc_row;

/* Rotary embedding at one position: cos and sin of [dim / 2] angles. */
typedef struct flashc_rotation {
    flashc_row cos, sin;
    int64_t dim;
    bool interleaved;
} flashc_rotation;

/* dst = src in dst's type, columns begin .. end - 1. Of one type the bits are kept. */
void flashc_row_copy(flashc_row dst, flashc_row src, int64_t begin, int64_t end);

/* dst = src turned, columns 0 .. dim - 1. dst may be src. */
void flashc_row_rotate(flashc_row dst, flashc_row src, const flashc_rotation *rotation);

#endif
