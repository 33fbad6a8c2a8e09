#ifndef FLASHC_CLI_ARITHMETIC_H
#define FLASHC_CLI_ARITHMETIC_H

#include <stdint.h>

/* Of anything that is counted, as many as the library takes: sums of a few fit. */
#define FLASHC_CLI_MOST (INT64_C(1) << 48)

static inline int64_t flashc_cli_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t flashc_cli_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Of sizes, 0 or more; INT64_MAX where the product is beyond 64 bits: more than there can be of anything. */
static inline int64_t flashc_cli_multiply(int64_t a, int64_t b)
{
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

#endif
