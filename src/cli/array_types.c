/* The type of an array's file as one that flashc knows. */
#include "cli/array.h"

#include "cli/cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A float from which rounding to 16 bits gives what rounding x itself would: not the nearest one, but an
 * inexact x cut towards zero with the last bit set, so that no x comes to lie halfway between two. */
static float round_to_odd(double x)
{
    float nearest = (float)x;
    if ((double)nearest == x || isnan(x))
        return nearest;
    uint32_t bits;
    memcpy(&bits, &nearest, sizeof bits);
    bits = (bits - (fabs((double)nearest) > fabs(x))) | 1;
    memcpy(&nearest, &bits, sizeof bits);
    return nearest;
}

/* To f32, on the way to dtype. */
static int narrow_f64(flashc_cli_array *array, flashc_dtype dtype)
{
    const double *from = array->data;
    float *to = flashc_cli_array_allocate(array, sizeof *to);
    if (!to)
        return FLASHC_CLI_FAILED;
    for (int64_t i = 0; i < array->count; i++)
        to[i] = dtype == FLASHC_F32 ? (float)from[i] : round_to_odd(from[i]);
    flashc_cli_array_replace(array, to);
    return FLASHC_CLI_OK;
}

int flashc_cli_array_convert(flashc_cli_array *array, flashc_dtype dtype)
{
    if (array->dtype == dtype)
        return FLASHC_CLI_OK;
    void *to = flashc_cli_array_allocate(array, flashc_dtype_size(dtype));
    if (!to)
        return FLASHC_CLI_FAILED;
    if (flashc_convert(to, dtype, array->data, array->dtype, array->count) != FLASHC_OK) {
        free(to);
        return flashc_cli_error("%s: %s", array->name, flashc_last_error());
    }
    flashc_cli_array_replace(array, to);
    array->dtype = dtype;
    return FLASHC_CLI_OK;
}

double flashc_cli_array_element(const flashc_cli_array *array, int64_t i)
{
    float value = 0;
    flashc_convert(&value, FLASHC_F32, (const char *)array->data + (size_t)i * flashc_dtype_size(array->dtype),
                   array->dtype, 1);
    return isnan(value) ? (double)NAN : (double)value;
}

int flashc_cli_array_to_float(flashc_cli_array *array, int dtype)
{
    const char *found = flashc_npy_type_name(array->file_type);
    int is_f64 = 0;
    switch (array->file_type) {
    case FLASHC_NPY_F32: array->dtype = FLASHC_F32; break;
    case FLASHC_NPY_F16: array->dtype = FLASHC_F16; break;
    case FLASHC_NPY_F64:
        if (!dtype)
            return flashc_cli_error("%s: expected f32 or f16, found %s (--dtype f32, f16 or bf16 converts it)",
                                    array->name, found);
        is_f64 = 1;
        array->dtype = FLASHC_F32;
        break;
    case FLASHC_NPY_U16:
    case FLASHC_NPY_V2:
        if (dtype != FLASHC_BF16)
            return flashc_cli_error("%s: expected %s, found %s (--dtype bf16 reads two raw bytes as bf16)",
                                    array->name, dtype ? "f32, f16 or f64" : "f32 or f16", found);
        array->dtype = FLASHC_BF16;
        break;
    default:
        return flashc_cli_error("%s: expected %s, found %s", array->name,
                                !dtype                 ? "f32 or f16 (f64, or bf16 as two raw bytes, with --dtype)"
                                : dtype == FLASHC_BF16 ? "f32, f16, f64, or bf16 as two raw bytes"
                                                       : "f32, f16 or f64",
                                found);
    }
    const flashc_dtype wanted = dtype ? (flashc_dtype)dtype : array->dtype;
    if (array->reserved) {
        array->dtype = wanted;
        return FLASHC_CLI_OK;
    }
    if (is_f64 && narrow_f64(array, wanted))
        return FLASHC_CLI_FAILED;
    return flashc_cli_array_convert(array, wanted);
}

int flashc_cli_array_to_mask(flashc_cli_array *array)
{
    if (array->file_type != FLASHC_NPY_BOOL && array->file_type != FLASHC_NPY_U8 && array->file_type != FLASHC_NPY_I8)
        return flashc_cli_error("%s: expected a mask of type bool, u8 or i8, found %s", array->name,
                                flashc_npy_type_name(array->file_type));
    array->dtype = FLASHC_BOOL;
    return FLASHC_CLI_OK;
}
