/* Q K^T and P V on one tile, over the primitives that f32_tile.h lists. Part of f32_tile.h. */
#ifndef FLASHC_F32_GEMM_H
#define FLASHC_F32_GEMM_H

#include "kernels/kernel.h"

typedef enum { GEMM_SET, GEMM_ADD, GEMM_SCALE_ADD } gemm_mode;

/*
 * c[r][lane] = (mode) + sum over k of a[r*a_row + k*a_depth] * b[k*ldb + lane]
 *
 * for `rows` rows and `vecs` vectors, both compile-time constants after inlining. One of a_row and
 * a_depth is 1: qk walks K along its rows, pv walks V across them. The sum starts at zero and meets
 * c only at the end: the rescale is one FMA there, and rounding chains stay short.
 */
V_INLINE void gemm_registers(int rows, int vecs, gemm_mode mode, int64_t depth, const float *a, int64_t a_row,
                                  int64_t a_depth, const float *b, int64_t ldb, float *c, int64_t ldc,
                                  const float *correction)
{
    vec sum[GEMM_ROWS][GEMM_VECS];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < vecs; j++)
            sum[r][j] = v_set1(0.0f);
#ifdef FLASHC_OWN_GEMM_SUMS
    gemm_sums(sum, rows, vecs, depth, a, a_row, a_depth, b, ldb);
#else
    for (int64_t k = 0; k < depth; k++) {
        vec bk[GEMM_VECS];
        for (int j = 0; j < vecs; j++)
            bk[j] = v_load(b + k * ldb + j * VL);
        for (int r = 0; r < rows; r++) {
            vec ar = v_set1(a[r * a_row + k * a_depth]);
            for (int j = 0; j < vecs; j++)
                sum[r][j] = v_fma(ar, bk[j], sum[r][j]);
        }
    }
#endif
    for (int j = 0; j < vecs; j++) {
        vec scale = mode == GEMM_SCALE_ADD ? v_load(correction + j * VL) : v_set1(1.0f);
        for (int r = 0; r < rows; r++) {
            float *cr = c + r * ldc + j * VL;
            if (mode == GEMM_ADD)
                sum[r][j] = v_add(v_load(cr), sum[r][j]);
            else if (mode == GEMM_SCALE_ADD)
                sum[r][j] = v_fma(v_load(cr), scale, sum[r][j]);
            v_store(cr, sum[r][j]);
        }
    }
}

/* The upcoming rows that are left, and how many to prefetch into L2 before each register block. In one burst they
 * would wait for the dozen or so fill buffers of L1, and the FMAs with them. */
typedef struct prefetcher {
    flashc_upcoming left;
    int64_t rows_per_step;
} prefetcher;

V_INLINE void prefetch_step(prefetcher *p)
{
    const int64_t rows = flashc_min(p->rows_per_step, p->left.n_rows);
    p->left.n_rows -= rows;
    for (int64_t i = 0; i < rows; i++, p->left.row += p->left.row_stride)
        for (int64_t byte = 0; byte < p->left.row_bytes; byte += 64)
            __builtin_prefetch(p->left.row + byte, 0, 2);
}

static prefetcher prefetch_over(flashc_upcoming rows, int64_t steps)
{
    return (prefetcher){rows, flashc_ceil_div(rows.n_rows, flashc_max(1, steps))};
}

/* All rows of one panel of `vecs` vectors. */
V_INLINE void gemm_panel(int vecs, gemm_mode mode, int64_t n_rows, int64_t depth, const float *a, int64_t a_row,
                              int64_t a_depth, const float *b, int64_t ldb, float *c, int64_t ldc,
                              const float *correction, prefetcher *upcoming)
{
    int64_t r = 0;
    for (; r + GEMM_ROWS <= n_rows; r += GEMM_ROWS) {
        prefetch_step(upcoming);
        gemm_registers(GEMM_ROWS, vecs, mode, depth, a + r * a_row, a_row, a_depth, b, ldb, c + r * ldc, ldc,
                       correction);
    }
    for (; r + 2 <= n_rows; r += 2)
        gemm_registers(2, vecs, mode, depth, a + r * a_row, a_row, a_depth, b, ldb, c + r * ldc, ldc, correction);
    if (r < n_rows)
        gemm_registers(1, vecs, mode, depth, a + r * a_row, a_row, a_depth, b, ldb, c + r * ldc, ldc, correction);
}

/* Panels of GEMM_VECS vectors, then the rest. Every element is its own chain over depth, so its bits
 * do not depend on the panel it falls into. */
V_INLINE void gemm(gemm_mode mode, int64_t n_rows, int64_t lanes, int64_t depth, const float *a, int64_t a_row,
                        int64_t a_depth, const float *b, float *c, int64_t ld, const float *correction,
                        prefetcher *upcoming)
{
    int64_t lane = 0;
    for (; lane + GEMM_VECS * VL <= lanes; lane += GEMM_VECS * VL)
        gemm_panel(GEMM_VECS, mode, n_rows, depth, a, a_row, a_depth, b + lane, ld, c + lane, ld, correction + lane,
                   upcoming);
    for (; lane + 2 * VL <= lanes; lane += 2 * VL)
        gemm_panel(2, mode, n_rows, depth, a, a_row, a_depth, b + lane, ld, c + lane, ld, correction + lane,
                   upcoming);
    for (; lane < lanes; lane += VL)
        gemm_panel(1, mode, n_rows, depth, a, a_row, a_depth, b + lane, ld, c + lane, ld, correction + lane,
                   upcoming);
}

static void tile_qk(float *scores, flashc_kv_tile k, const void *queries, int64_t ld, int64_t n_keys, int64_t lanes,
                    int64_t head_dim, float factor)
{
    (void)factor;
    const float *data = k.data, *qt = queries;
    prefetcher upcoming = prefetch_over(k.upcoming, n_keys / GEMM_ROWS);
    gemm(GEMM_SET, n_keys, lanes, flashc_min(head_dim, FLASHC_QK_DEPTH), data, k.row_stride, 1, qt, scores, ld, scores,
         &upcoming);
    for (int64_t d = FLASHC_QK_DEPTH; d < head_dim; d += FLASHC_QK_DEPTH)
        gemm(GEMM_ADD, n_keys, lanes, flashc_min(head_dim - d, FLASHC_QK_DEPTH), data + d, k.row_stride, 1, qt + d * ld,
             scores, ld, scores, &upcoming);
}

static void tile_pv(float *acc, flashc_kv_tile v, const void *p, int64_t ld, int64_t n_keys, int64_t lanes,
                    int64_t head_dim_v, const float *correction)
{
    prefetcher upcoming = prefetch_over(v.upcoming, head_dim_v / GEMM_ROWS);
    gemm(GEMM_SCALE_ADD, head_dim_v, lanes, n_keys, v.data, 1, v.row_stride, p, acc, ld, correction, &upcoming);
}

#endif
