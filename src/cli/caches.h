/* K and V of the types of caches: codes as files hold them, and their scales. */
#ifndef FLASHC_CLI_CACHES_H
#define FLASHC_CLI_CACHES_H

#include "cli/array.h"

#include <flashc.h>

/* Columns of an element. */
int64_t flashc_cli_dtype_columns(flashc_dtype dtype);

/* Of K or V: takes i8 as it is and u8 as dtype says, q8_0 in rows of 34 bytes a block, whose last axis then counts
 * blocks; everything else as flashc_cli_array_to_float() does, floats being converted to dtype. */
int flashc_cli_array_to_cache(flashc_cli_array *array, int dtype);

/* Such an array in C order, as files hold it: the last axis of q8_0 counts bytes again. */
void flashc_cli_array_to_file(flashc_cli_array *array);

/* Reads the scales of such an array, which `option` names: f32, in C order, of its axes but the last one, sizes of 1
 * repeat. path is NULL where the option is missing: an error with i8, nothing to do otherwise. */
int flashc_cli_scales_read(const char *option, const char *path, int plan_only, const flashc_cli_array *of, int bshd,
                           flashc_cli_array *scales, flashc_tensor *view);

/* Makes them, for K and V made of shapes; none where the type needs none. */
int flashc_cli_scales_make(const char *name, int plan_only, const flashc_cli_array *of, int bshd,
                           flashc_cli_array *scales, flashc_tensor *view);

/* Fills K or V with standard normal numbers, as far as the type holds them, and the scales that go with them. */
void flashc_cli_cache_fill(flashc_cli_array *array, flashc_cli_array *scales, const float *normals, int64_t first,
                           int64_t n);

#endif
