#include "cli/caches.h"

#include "cli/cli.h"
#include "cli/layout.h"

#include <string.h>

enum { BLOCK_COLUMNS = 32, BLOCK_BYTES = 34 };

/* A normal number is so many codes of i8 and q8_0: the largest of a row of 128 uses most of them. The scale is 1 over
 * it, as f32 and as f16. */
#define CODES_OF_ONE 32.0f
static const unsigned char block_scale[2] = {0x00, 0x28};

int64_t flashc_cli_dtype_columns(flashc_dtype dtype)
{
    return dtype == FLASHC_Q8_0 ? BLOCK_COLUMNS : 1;
}

static int to_blocks(flashc_cli_array *array)
{
    const int last = array->rank - 1;
    char text[FLASHC_CLI_SHAPE_TEXT];
    if (array->rank < 1 || array->shape[last] % BLOCK_BYTES != 0)
        return flashc_cli_error("%s: expected rows of whole blocks of %d bytes for q8_0, found %s", array->name,
                                BLOCK_BYTES, flashc_cli_shape_text(array->rank, array->shape, text));
    array->dtype = FLASHC_I8; /* bytes, to be brought into order */
    if (!array->reserved && flashc_cli_array_pack(array))
        return FLASHC_CLI_FAILED;
    array->dtype = FLASHC_Q8_0;
    array->shape[last] /= BLOCK_BYTES;
    array->count /= BLOCK_BYTES;
    array->strides[last] = 1;
    for (int axis = last; axis > 0; axis--)
        array->strides[axis - 1] = array->strides[axis] * array->shape[axis];
    return FLASHC_CLI_OK;
}

int flashc_cli_array_to_cache(flashc_cli_array *array, int dtype)
{
    if (!dtype && array->file_type == FLASHC_NPY_U8)
        return flashc_cli_error("%s: u8 data are codes of f8_e4m3, f8_e5m2 or q8_0: --cache-dtype says which",
                                array->name);
    if (dtype == FLASHC_F32 || dtype == FLASHC_F16 || dtype == FLASHC_BF16 ||
        (!dtype && array->file_type != FLASHC_NPY_I8))
        return flashc_cli_array_to_float(array, dtype);
    const flashc_dtype wanted = dtype ? (flashc_dtype)dtype : FLASHC_I8;
    const flashc_npy_type type = wanted == FLASHC_I8 ? FLASHC_NPY_I8 : FLASHC_NPY_U8;
    if (array->file_type != type)
        return flashc_cli_error("%s: expected %s data for %s, found %s", array->name, flashc_npy_type_name(type),
                                flashc_dtype_name(wanted), flashc_npy_type_name(array->file_type));
    if (wanted == FLASHC_Q8_0)
        return to_blocks(array);
    array->dtype = wanted;
    return FLASHC_CLI_OK;
}

void flashc_cli_array_to_file(flashc_cli_array *array)
{
    if (array->dtype == FLASHC_Q8_0)
        array->shape[array->rank - 1] *= BLOCK_BYTES;
}

/* Scales as [batch, head, row]. */
static flashc_tensor view_of(const flashc_cli_array *scales, int rank, int bshd)
{
    int axes[4];
    flashc_tensor view = {.data = scales->data, .dtype = FLASHC_F32};
    flashc_cli_layout_axes(rank, bshd, axes);
    for (int i = 0; i < 3; i++)
        view.stride[i] = axes[i] < 0 || scales->shape[axes[i]] == 1 ? 0 : scales->strides[axes[i]];
    return view;
}

int flashc_cli_scales_read(const char *option, const char *path, int plan_only, const flashc_cli_array *of, int bshd,
                           flashc_cli_array *scales, flashc_tensor *view)
{
    char found[FLASHC_CLI_SHAPE_TEXT], expected[FLASHC_CLI_SHAPE_TEXT];
    const int is_float8 = of->dtype == FLASHC_F8_E4M3 || of->dtype == FLASHC_F8_E5M2;
    if (!path && of->dtype == FLASHC_I8)
        return flashc_cli_error("%s is of type i8, which needs scales: %s FILE is missing", of->name, option);
    if (!path)
        return FLASHC_CLI_OK;
    if (of->dtype != FLASHC_I8 && !is_float8)
        return flashc_cli_error("%s: expected %s of type i8, f8_e4m3 or f8_e5m2 (see --cache-dtype), found %s", option,
                                of->name, flashc_dtype_name(of->dtype));
    if (flashc_cli_array_read(path, plan_only, scales) || flashc_cli_array_to_float(scales, FLASHC_F32) ||
        (!scales->reserved && flashc_cli_array_pack(scales)))
        return FLASHC_CLI_FAILED;
    int fits = scales->rank == of->rank - 1;
    for (int i = 0; fits && i < scales->rank; i++)
        fits = scales->shape[i] == 1 || scales->shape[i] == of->shape[i];
    if (!fits)
        return flashc_cli_error("%s has shape %s: expected %s, that of %s without its last axis, or 1 for any of them",
                                scales->name, flashc_cli_shape_text(scales->rank, scales->shape, found),
                                flashc_cli_shape_text(of->rank - 1, of->shape, expected), of->name);
    *view = view_of(scales, of->rank, bshd);
    return FLASHC_CLI_OK;
}

int flashc_cli_scales_make(const char *name, int plan_only, const flashc_cli_array *of, int bshd,
                           flashc_cli_array *scales, flashc_tensor *view)
{
    if (of->dtype != FLASHC_I8)
        return FLASHC_CLI_OK;
    if (flashc_cli_array_make(name, FLASHC_F32, of->rank - 1, of->shape, plan_only, scales))
        return FLASHC_CLI_FAILED;
    *view = view_of(scales, of->rank, bshd);
    return FLASHC_CLI_OK;
}

static signed char code_of(float x)
{
    const float code = x * CODES_OF_ONE;
    return (signed char)(code > 127.0f ? 127.0f : code < -127.0f ? -127.0f : code);
}

void flashc_cli_cache_fill(flashc_cli_array *array, flashc_cli_array *scales, const float *normals, int64_t first,
                           int64_t n)
{
    unsigned char *bytes = array->data;
    if (array->dtype == FLASHC_I8) {
        for (int64_t i = 0; i < n; i++)
            bytes[first + i] = (unsigned char)code_of(normals[i]);
        for (int64_t i = 0; i < scales->count && first == 0; i++)
            ((float *)scales->data)[i] = 1.0f / CODES_OF_ONE;
    } else if (array->dtype == FLASHC_Q8_0) {
        for (int64_t i = 0; i < n; i++) {
            unsigned char *block = bytes + (first + i) / BLOCK_COLUMNS * BLOCK_BYTES;
            memcpy(block, block_scale, sizeof block_scale);
            block[2 + (first + i) % BLOCK_COLUMNS] = (unsigned char)code_of(normals[i]);
        }
    } else {
        flashc_convert(bytes + (size_t)first * flashc_dtype_size(array->dtype), array->dtype, normals, FLASHC_F32, n);
    }
}
