/*
 * What kernels with products of bf16 share. An instruction multiplies groups of BF16_GROUP elements along head_dim (Q
 * K^T) or keys (P V) and sums them in f32. K is taken as its rows lie; queries, P and V in groups, and a group that is
 * not full holds zeros. The file has included f32_tile.h, and defined:
 *
 *   BF16_GROUP          elements of a group; of V, they lie side by side, column after column
 *   store_columns(dst, x, count)  the first count numbers of a vector, rounded to bf16
 *   group_load_rows     see flashc_vector_ops' load_rows
 *   pack_row_groups     V's pack; row_stride: from group to group
 */
#ifndef FLASHC_BF16_TILE_H
#define FLASHC_BF16_TILE_H

#include "kernels/f32_tile.h"
#include "kernels/kernel.h"
#include "kernels/tile_gemm.h"

/* Rows of bf16, of whole groups of columns. */
static flashc_kv_tile bf16_pack_rows(void *dst, flashc_tile src, int64_t n_rows, int64_t n_cols)
{
    const int64_t ld = flashc_round_up(n_cols, BF16_GROUP);
    uint16_t *out = dst;
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t col = 0; col < n_cols; col += VL)
            store_columns(out + row * ld + col, load_columns(src, row, col, n_cols), flashc_min(VL, ld - col));
    return (flashc_kv_tile){.data = dst, .dtype = FLASHC_BF16, .row_stride = ld};
}

/* Elements of head_dim in a piece: FLASHC_QK_DEPTH groups, as many steps of a chain as in f32. Each piece loads and
 * stores the scores (AVX-512, head_dim 128, pieces of 32 groups: 2 % slower). */
enum { BF16_QK_DEPTH = FLASHC_QK_DEPTH * BF16_GROUP };

static void bf16_qk(float *scores, flashc_kv_tile k, const void *queries, int64_t ld, int64_t n_keys, int64_t lanes,
                    int64_t head_dim, float factor)
{
    const uint16_t *data = k.data, *qt = queries;
    prefetcher upcoming = prefetch_over(k.upcoming, n_keys, lanes, flashc_ceil_div(head_dim, BF16_GROUP));
    for (int64_t d = 0; d < head_dim; d += BF16_QK_DEPTH) {
        const gemm_product piece = {.depth = flashc_ceil_div(flashc_min(head_dim - d, BF16_QK_DEPTH), BF16_GROUP),
                                    .a = data + d, .a_row = k.row_stride, .a_depth = BF16_GROUP,
                                    .b = qt + d * ld, .ldb = ld * GEMM_PER_LANE, .c = scores, .ldc = ld,
                                    .scale = &factor};
        if (d == 0)
            gemm(GEMM_SET_SCALED, n_keys, lanes, piece, &upcoming);
        else
            gemm(GEMM_ADD_SCALED, n_keys, lanes, piece, &upcoming);
    }
}

static void bf16_pv(float *acc, flashc_kv_tile v, const void *p, int64_t ld, int64_t n_keys, int64_t lanes,
                    int64_t head_dim_v, const float *correction)
{
    prefetcher upcoming = prefetch_over(v.upcoming, head_dim_v, lanes, flashc_ceil_div(n_keys, BF16_GROUP));
    const gemm_product product = {.depth = flashc_ceil_div(n_keys, BF16_GROUP), .a = v.data, .a_row = BF16_GROUP,
                                  .a_depth = v.row_stride, .b = p, .ldb = ld * GEMM_PER_LANE, .c = acc, .ldc = ld,
                                  .scale = correction};
    gemm(GEMM_SCALE_ADD, head_dim_v, lanes, product, &upcoming);
}

#define FLASHC_BF16_TILE_ISA                                                                                           \
    {                                                                                                                  \
        .vector = FLASHC_TILE_VECTOR_OPS(BF16_GROUP, group_load_rows),                                                 \
        .gemm = {.k = {.in_place = FLASHC_DTYPE_BIT(FLASHC_BF16), .col_multiple = BF16_GROUP, .pack = bf16_pack_rows}, \
                 .v = {.col_multiple = 1, .pack = pack_row_groups},                                                    \
                 .scales_scores = true,                                                                                \
                 .qk = bf16_qk,                                                                                        \
                 .pv = bf16_pv},                                                                                       \
    }

#endif
