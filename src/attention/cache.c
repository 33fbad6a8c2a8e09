#include "attention/cache.h"

#include <limits.h>
#include <string.h>

/* Rows that are evenly spaced. */
static bool reads_in_place(const flashc_tensor *tensor, const flashc_operand *operand, int64_t n_cols)
{
    const int64_t row_stride = tensor->stride[2];
    return (operand->in_place & FLASHC_DTYPE_BIT(tensor->dtype)) && (tensor->stride[3] == 1 || n_cols == 1) &&
           n_cols % operand->col_multiple == 0 &&
           (!operand->blas_rows || (row_stride >= n_cols && row_stride <= INT_MAX));
}

bool flashc_cache_in_place(const flashc_cache_rows *rows, const flashc_operand *operand, int64_t n_cols)
{
    return !rows->table.pages && reads_in_place(&rows->tensor, operand, n_cols);
}

int64_t flashc_cache_copy_floats(const flashc_operand *operand, int64_t n_rows, int64_t n_cols)
{
    return n_rows * flashc_round_up(n_cols, operand->col_multiple);
}

int64_t flashc_cache_gathered_bytes(const flashc_cache_rows *rows, const flashc_operand *operand, int64_t n_rows,
                                    int64_t n_cols)
{
    return rows->table.pages && operand->pack ? n_rows * n_cols * (int64_t)flashc_dtype_size(rows->tensor.dtype) : 0;
}

static flashc_tile tile_at(const flashc_cache_rows *rows, int64_t sequence, int64_t head, int64_t row)
{
    return (flashc_tile){.data = flashc_cache_row(rows, sequence, head, row),
                         .dtype = rows->tensor.dtype,
                         .row_stride = rows->tensor.stride[2],
                         .col_stride = rows->tensor.stride[3]};
}

/* The rows side by side, in their own type. */
static flashc_tile gather(const flashc_cache_rows *rows, int64_t sequence, int64_t head, int64_t first_row,
                          int64_t n_rows, int64_t n_cols, char *gathered)
{
    const int64_t col_stride = rows->tensor.stride[3];
    const size_t size = flashc_dtype_size(rows->tensor.dtype);
    char *to = gathered;
    for (int64_t row = first_row; row < first_row + n_rows; row++) {
        const char *from = flashc_cache_row(rows, sequence, head, row);
        if (col_stride == 1)
            memcpy(to, from, (size_t)n_cols * size);
        else
            for (int64_t col = 0; col < n_cols; col++)
                memcpy(to + col * (int64_t)size, from + col * col_stride * (int64_t)size, size);
        to += n_cols * (int64_t)size;
    }
    return (flashc_tile){.data = gathered, .dtype = rows->tensor.dtype, .row_stride = n_cols, .col_stride = 1};
}

flashc_kv_tile flashc_cache_load(const flashc_cache_rows *rows, const flashc_kernel_row *kernel,
                                 const flashc_operand *operand, int64_t sequence, int64_t head, int64_t first_row,
                                 int64_t n_rows, int64_t n_cols, float *scratch, void *gathered)
{
    const bool evenly_spaced = flashc_cache_run(rows, sequence, first_row, n_rows) == n_rows;
    if (evenly_spaced && reads_in_place(&rows->tensor, operand, n_cols)) {
        const flashc_tile tile = tile_at(rows, sequence, head, first_row);
        return (flashc_kv_tile){.data = tile.data, .dtype = tile.dtype, .row_stride = tile.row_stride};
    }
    if (operand->pack)
        return operand->pack(scratch,
                             evenly_spaced ? tile_at(rows, sequence, head, first_row)
                                           : gather(rows, sequence, head, first_row, n_rows, n_cols, gathered),
                             n_rows, n_cols);
    const int64_t ld = flashc_round_up(n_cols, operand->col_multiple);
    flashc_cache_load_f32(rows, kernel, sequence, head, first_row, n_rows, n_cols, scratch, ld);
    return (flashc_kv_tile){.data = scratch, .dtype = FLASHC_F32, .row_stride = ld};
}

void flashc_cache_load_f32(const flashc_cache_rows *rows, const flashc_kernel_row *kernel, int64_t sequence,
                           int64_t head, int64_t first_row, int64_t n_rows, int64_t n_cols, float *dst, int64_t ld)
{
    for (int64_t done = 0, n; done < n_rows; done += n) {
        n = flashc_cache_run(rows, sequence, first_row + done, n_rows - done);
        kernel->vector->load(dst + done * ld, ld, tile_at(rows, sequence, head, first_row + done), n, n_cols);
    }
}
