/* Values for tests: random numbers, 16-bit types and views, each written from its definition and
 * sharing nothing with the library. */
#ifndef FLASHC_TESTS_VALUES_H
#define FLASHC_TESTS_VALUES_H

#include "flashc.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* splitmix64 (Steele, Lea and Flood, 2014): any seed is good, also 0 and consecutive ones. */
typedef struct test_rng {
    uint64_t state;
} test_rng;

uint64_t test_rng_next(test_rng *rng);
/* Uniform in low .. high, both included. */
int64_t test_rng_int(test_rng *rng, int64_t low, int64_t high);
/* True in percent of 100 draws. */
bool test_rng_chance(test_rng *rng, int percent);
/* Uniform in [0, 1). */
double test_rng_uniform(test_rng *rng);
/* Mean 0, deviation 1, near enough to normal; never beyond 3.47. */
double test_rng_normal(test_rng *rng);

/* The value of a type's bit pattern. FLASHC_BOOL gives 0 or 1. */
double test_decode(flashc_dtype dtype, uint32_t bits);
/* The bit pattern nearest to value (ties to even; overflow gives infinity, NaN stays NaN). */
uint32_t test_encode(flashc_dtype dtype, double value);
/* Half the distance between neighbours of the type at magnitude |value|. */
double test_half_ulp(flashc_dtype dtype, double value);

/* The address of an element of a view; element size from the view's type. */
unsigned char *test_at(const flashc_tensor *view, int64_t i0, int64_t i1, int64_t i2, int64_t i3);
uint32_t test_get_bits(const flashc_tensor *view, int64_t i0, int64_t i1, int64_t i2, int64_t i3);
/* Of types with scales in a tensor of their own, the code. */
double test_get(const flashc_tensor *view, int64_t i0, int64_t i1, int64_t i2, int64_t i3);
/* FLASHC_Q8_0: value becomes the block's scale, and the element's code 1. */
void test_set(const flashc_tensor *view, int64_t i0, int64_t i1, int64_t i2, int64_t i3, double value);

#endif
