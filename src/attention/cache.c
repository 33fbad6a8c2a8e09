#include "attention/cache.h"

#include <limits.h>

bool flashc_cache_in_place(const flashc_tensor *tensor, int64_t n_cols)
{
    /* GEMM's conventions: contiguous rows, a leading dimension that is a positive int and no less than
     * the row's length. */
    const int64_t row_stride = tensor->stride[2];
    return tensor->dtype == FLASHC_F32 && (tensor->stride[3] == 1 || n_cols == 1) && row_stride >= n_cols &&
           row_stride <= INT_MAX;
}

flashc_f32_tile flashc_cache_load(const flashc_tensor *tensor, const flashc_vector_ops *vector, int64_t batch,
                                  int64_t head, int64_t first_row, int64_t n_rows, int64_t n_cols, float *scratch)
{
    const void *data = flashc_element(tensor, batch, head, first_row, 0);
    if (flashc_cache_in_place(tensor, n_cols))
        return (flashc_f32_tile){.data = data, .ld = tensor->stride[2]};
    const flashc_tile tile = {.data = data,
                              .dtype = tensor->dtype,
                              .row_stride = tensor->stride[2],
                              .col_stride = tensor->stride[3]};
    vector->load(scratch, tile, n_rows, n_cols);
    return (flashc_f32_tile){.data = scratch, .ld = n_cols};
}
