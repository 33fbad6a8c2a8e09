#include "cli/integers.h"

#include "cli/array.h"
#include "cli/cli.h"

#include <stdlib.h>

int flashc_cli_integers_read(const char *path, int rank, flashc_cli_integers *out)
{
    flashc_cli_array array;
    char found[FLASHC_CLI_SHAPE_TEXT];
    int exit_code = flashc_cli_array_read(path, 0, &array);
    *out = (flashc_cli_integers){.name = array.name};
    if (exit_code == FLASHC_CLI_OK && array.file_type != FLASHC_NPY_I32 && array.file_type != FLASHC_NPY_I64)
        exit_code = flashc_cli_error("%s: expected i32 or i64, found %s", array.name,
                                     flashc_npy_type_name(array.file_type));
    if (exit_code == FLASHC_CLI_OK && array.rank != rank)
        exit_code = flashc_cli_error("%s: expected rank %d, found rank %d %s", array.name, rank, array.rank,
                                     flashc_cli_shape_text(array.rank, array.shape, found));
    if (exit_code == FLASHC_CLI_OK) {
        out->shape[0] = array.shape[0];
        out->shape[1] = rank == 2 ? array.shape[1] : 1;
        out->values = calloc((size_t)array.count + 1, sizeof *out->values);
        if (!out->values)
            exit_code = flashc_cli_error("%s: no memory for %lld numbers", array.name, (long long)array.count);
    }
    for (int64_t i = 0; exit_code == FLASHC_CLI_OK && i < array.count; i++) {
        const int64_t column = rank == 2 ? i % out->shape[1] * array.strides[1] : 0;
        const int64_t at = i / out->shape[1] * array.strides[0] + column;
        out->values[i] = array.file_type == FLASHC_NPY_I32 ? ((const int32_t *)array.data)[at]
                                                           : ((const int64_t *)array.data)[at];
    }
    flashc_cli_array_free(&array);
    return exit_code;
}

int flashc_cli_integers_narrow(flashc_cli_integers *integers)
{
    const int64_t count = integers->shape[0] * integers->shape[1];
    integers->narrow = calloc((size_t)count + 1, sizeof *integers->narrow);
    if (!integers->narrow)
        return flashc_cli_error("%s: no memory for %lld numbers", integers->name, (long long)count);
    for (int64_t i = 0; i < count; i++) {
        if (integers->values[i] < INT32_MIN || integers->values[i] > INT32_MAX)
            return flashc_cli_error("%s: expected page numbers of 32 bits, found %lld at [%lld, %lld]", integers->name,
                                    (long long)integers->values[i], (long long)(i / integers->shape[1]),
                                    (long long)(i % integers->shape[1]));
        integers->narrow[i] = (int32_t)integers->values[i];
    }
    return FLASHC_CLI_OK;
}

int flashc_cli_integers_check_count(const flashc_cli_integers *integers, int64_t count, const char *what)
{
    char text[FLASHC_CLI_SIZE_TEXT];
    if (integers->shape[0] == count)
        return FLASHC_CLI_OK;
    return flashc_cli_error("%s has %s: expected %lld, %s", integers->name,
                            flashc_cli_size_text("numbers", integers->shape[0], text), (long long)count, what);
}

void flashc_cli_integers_free(flashc_cli_integers *integers)
{
    free(integers->values);
    free(integers->narrow);
    *integers = (flashc_cli_integers){0};
}
