/* One row of f32 into codes and scale. */
#ifndef FLASHC_CACHE_QUANTISE_H
#define FLASHC_CACHE_QUANTISE_H

#include "cache/rotary.h"

/* dst, of a type of codes, = x[0 .. n - 1]. *scale: of i8 the scale is written there; of the 8-bit floats it is read,
 * NULL being 1; of q8_0 it is not used. */
void flashc_row_quantise(flashc_row dst, const float *x, int64_t n, float *scale);

#endif
