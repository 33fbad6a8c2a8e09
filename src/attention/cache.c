#include "attention/cache.h"

#include <limits.h>

bool flashc_cache_in_place(const flashc_tensor *tensor, const flashc_operand *operand, int64_t n_cols)
{
    const int64_t row_stride = tensor->stride[2];
    return (operand->in_place & FLASHC_DTYPE_BIT(tensor->dtype)) && (tensor->stride[3] == 1 || n_cols == 1) &&
           n_cols % operand->col_multiple == 0 &&
           (!operand->blas_rows || (row_stride >= n_cols && row_stride <= INT_MAX));
}

int64_t flashc_cache_copy_floats(const flashc_operand *operand, int64_t n_rows, int64_t n_cols)
{
    return n_rows * flashc_round_up(n_cols, operand->col_multiple);
}

static flashc_tile tile_of(const flashc_tensor *tensor, int64_t batch, int64_t head, int64_t first_row)
{
    return (flashc_tile){.data = flashc_element(tensor, batch, head, first_row, 0),
                         .dtype = tensor->dtype,
                         .row_stride = tensor->stride[2],
                         .col_stride = tensor->stride[3]};
}

flashc_kv_tile flashc_cache_load(const flashc_tensor *tensor, const flashc_kernel_row *kernel,
                                 const flashc_operand *operand, int64_t batch, int64_t head, int64_t first_row,
                                 int64_t n_rows, int64_t n_cols, float *scratch)
{
    const flashc_tile tile = tile_of(tensor, batch, head, first_row);
    if (flashc_cache_in_place(tensor, operand, n_cols))
        return (flashc_kv_tile){.data = tile.data, .dtype = tile.dtype, .row_stride = tile.row_stride};
    if (operand->pack)
        return operand->pack(scratch, tile, n_rows, n_cols);
    const int64_t ld = flashc_round_up(n_cols, operand->col_multiple);
    kernel->vector->load(scratch, ld, tile, n_rows, n_cols);
    return (flashc_kv_tile){.data = scratch, .dtype = FLASHC_F32, .row_stride = ld};
}

void flashc_cache_load_f32(const flashc_tensor *tensor, const flashc_kernel_row *kernel, int64_t batch, int64_t head,
                           int64_t first_row, int64_t n_rows, int64_t n_cols, float *dst, int64_t ld)
{
    kernel->vector->load(dst, ld, tile_of(tensor, batch, head, first_row), n_rows, n_cols);
}
