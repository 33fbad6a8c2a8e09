#ifndef FLASHC_CLI_ARITHMETIC_H
#define FLASHC_CLI_ARITHMETIC_H

#include <stdint.h>

static inline int64_t flashc_cli_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t flashc_cli_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

#endif
