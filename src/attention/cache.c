#include "attention/cache.h"

#include <limits.h>

bool flashc_cache_in_place(const flashc_tensor *tensor, const flashc_kernel_row *kernel, int64_t n_cols)
{
    const int64_t row_stride = tensor->stride[2];
    if (tensor->stride[3] != 1 && n_cols != 1)
        return false;
    if (kernel->reads_halves) /* whole vectors, at any distance */
        return n_cols % kernel->vector->col_multiple == 0;
    /* GEMM's conventions: a leading dimension that is a positive int and no less than the row's length. */
    return tensor->dtype == FLASHC_F32 && row_stride >= n_cols && row_stride <= INT_MAX;
}

flashc_kv_tile flashc_cache_load(const flashc_tensor *tensor, const flashc_kernel_row *kernel, int64_t batch,
                                 int64_t head, int64_t first_row, int64_t n_rows, int64_t n_cols, float *scratch)
{
    const void *data = flashc_element(tensor, batch, head, first_row, 0);
    if (flashc_cache_in_place(tensor, kernel, n_cols))
        return (flashc_kv_tile){.data = data, .dtype = tensor->dtype, .row_stride = tensor->stride[2]};
    const flashc_tile tile = {.data = data,
                              .dtype = tensor->dtype,
                              .row_stride = tensor->stride[2],
                              .col_stride = tensor->stride[3]};
    const int64_t ld = flashc_round_up(n_cols, kernel->vector->col_multiple);
    kernel->vector->load(scratch, ld, tile, n_rows, n_cols);
    return (flashc_kv_tile){.data = scratch, .dtype = FLASHC_F32, .row_stride = ld};
}
