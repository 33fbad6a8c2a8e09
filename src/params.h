/* What all params structs share: their versions, and the arrays that describe sequences. */
#ifndef FLASHC_PARAMS_H
#define FLASHC_PARAMS_H

#include "common.h"

/* Sizes are at most this: large enough for anything that fits in memory, small enough that sums of a few sizes and
 * products with block sizes stay in int64. */
#define FLASHC_SIZE_LIMIT (INT64_C(1) << 48)

/* low <= value <= FLASHC_SIZE_LIMIT. */
flashc_status flashc_params_check_size(const char *name, int64_t value, int64_t low);

/* The body of an init function: the defaults (of our_size bytes, struct_size set) into the caller's struct of
 * struct_size bytes, which may be of another version. */
void flashc_params_fill(void *params, size_t struct_size, const void *defaults, size_t our_size);

/* Copies what the caller's version of a params struct has over the defaults in ours. Both begin with struct_size;
 * nothing shorter than first_size was ever compiled. init: the name of the function that sets it. */
flashc_status flashc_params_read(void *ours, size_t our_size, const void *params, size_t first_size, const char *init);

/* cu[0 .. batch] of packed sequences: from 0 to total, never falling. */
flashc_status flashc_params_check_cu_seqlens(const char *name, const int64_t *cu, int64_t batch, int64_t total,
                                             const char *total_name);

#endif
