/* Q K^T and P V on one tile of f32. Part of f32_tile.h. */
#ifndef FLASHC_F32_GEMM_H
#define FLASHC_F32_GEMM_H

#include "kernels/kernel.h"
#include "kernels/tile_gemm.h"

static void tile_qk(float *scores, flashc_kv_tile k, const void *queries, int64_t ld, int64_t n_keys, int64_t lanes,
                    int64_t head_dim, float factor)
{
    (void)factor; /* 1: see scales_scores */
    const float *data = k.data, *qt = queries;
    prefetcher upcoming = prefetch_over(k.upcoming, n_keys, lanes, head_dim);
    gemm_product piece = {.depth = flashc_min(head_dim, FLASHC_QK_DEPTH), .a = data, .a_row = k.row_stride,
                          .a_depth = 1, .b = qt, .ldb = ld, .c = scores, .ldc = ld};
    gemm(GEMM_SET, n_keys, lanes, piece, &upcoming);
    for (int64_t d = FLASHC_QK_DEPTH; d < head_dim; d += FLASHC_QK_DEPTH) {
        piece.depth = flashc_min(head_dim - d, FLASHC_QK_DEPTH);
        piece.a = data + d;
        piece.b = qt + d * ld;
        gemm(GEMM_ADD, n_keys, lanes, piece, &upcoming);
    }
}

static void tile_pv(float *acc, flashc_kv_tile v, const void *p, int64_t ld, int64_t n_keys, int64_t lanes,
                    int64_t head_dim_v, const float *correction)
{
    prefetcher upcoming = prefetch_over(v.upcoming, head_dim_v, lanes, n_keys);
    const gemm_product product = {.depth = n_keys, .a = v.data, .a_row = 1, .a_depth = v.row_stride, .b = p,
                                  .ldb = ld, .c = acc, .ldc = ld, .scale = correction};
    gemm(GEMM_SCALE_ADD, head_dim_v, lanes, product, &upcoming);
}

#endif
