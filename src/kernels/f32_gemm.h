/* Q K^T and P V on one tile of f32. Part of f32_tile.h. */
#ifndef FLASHC_F32_GEMM_H
#define FLASHC_F32_GEMM_H

#include "kernels/kernel.h"
#include "kernels/tile_gemm.h"

static void tile_qk(float *scores, flashc_kv_tile k, const void *queries, int64_t ld, int64_t n_keys, int64_t lanes,
                    int64_t head_dim, float factor)
{
    (void)factor;
    const float *data = k.data, *qt = queries;
    prefetcher upcoming = prefetch_over(k.upcoming, n_keys, lanes, head_dim);
    gemm(GEMM_SET, n_keys, lanes, flashc_min(head_dim, FLASHC_QK_DEPTH), data, k.row_stride, 1, qt, scores, ld, scores,
         &upcoming);
    for (int64_t d = FLASHC_QK_DEPTH; d < head_dim; d += FLASHC_QK_DEPTH)
        gemm(GEMM_ADD, n_keys, lanes, flashc_min(head_dim - d, FLASHC_QK_DEPTH), data + d, k.row_stride, 1, qt + d * ld,
             scores, ld, scores, &upcoming);
}

static void tile_pv(float *acc, flashc_kv_tile v, const void *p, int64_t ld, int64_t n_keys, int64_t lanes,
                    int64_t head_dim_v, const float *correction)
{
    prefetcher upcoming = prefetch_over(v.upcoming, head_dim_v, lanes, n_keys);
    gemm(GEMM_SCALE_ADD, head_dim_v, lanes, n_keys, v.data, 1, v.row_stride, p, acc, ld, correction, &upcoming);
}

#endif
