/* The register block of Q K^T and P V on one tile, and its walk over the tile, over the primitives that f32_tile.h
 * lists. What is multiplied is f32, or pairs of 16-bit numbers where a file has defined gemm_element as those. */
#ifndef FLASHC_TILE_GEMM_H
#define FLASHC_TILE_GEMM_H

#include "kernels/kernel.h"

#ifndef FLASHC_GEMM_PAIRS
typedef float gemm_element;
enum { GEMM_PER_LANE = 1 }; /* elements in 32 bits, which a lane holds and one multiply-add takes */
V_INLINE vec v_broadcast(const gemm_element *p) { return v_set1(*p); }
V_INLINE vec v_load_elements(const gemm_element *p) { return v_load(p); }
V_INLINE vec v_dot(vec a, vec b, vec c) { return v_fma(a, b, c); }
#endif

/* What becomes of the sum: c = sum, c += sum, c = c * scale[lane] + sum; c = sum * scale, c += sum * scale. */
typedef enum { GEMM_SET, GEMM_ADD, GEMM_SCALE_ADD, GEMM_SET_SCALED, GEMM_ADD_SCALED } gemm_mode;

/*
 * c[r][lane] = (mode) sum over k of a[r*a_row + k*a_depth] * b[k*ldb + lane*GEMM_PER_LANE]
 *
 * for `rows` rows and `vecs` vectors, both compile-time constants after inlining; depth counts k. qk walks K along its
 * rows, pv walks V across them. The sum starts at zero and meets c only at the end: the rescale is one FMA there, and
 * rounding chains stay short.
 */
V_INLINE void gemm_registers(int rows, int vecs, gemm_mode mode, int64_t depth, const gemm_element *a, int64_t a_row,
                             int64_t a_depth, const gemm_element *b, int64_t ldb, float *c, int64_t ldc,
                             const float *scale)
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
            bk[j] = v_load_elements(b + k * ldb + j * VL * GEMM_PER_LANE);
        for (int r = 0; r < rows; r++) {
            vec ar = v_broadcast(a + r * a_row + k * a_depth);
            for (int j = 0; j < vecs; j++)
                sum[r][j] = v_dot(ar, bk[j], sum[r][j]);
        }
    }
#endif
    for (int j = 0; j < vecs; j++) {
        const bool each_lane = mode == GEMM_SCALE_ADD, all_alike = mode == GEMM_SET_SCALED || mode == GEMM_ADD_SCALED;
        const vec factor = each_lane ? v_load(scale + j * VL) : v_set1(all_alike ? *scale : 1.0f);
        for (int r = 0; r < rows; r++) {
            float *cr = c + r * ldc + j * VL;
            if (mode == GEMM_ADD)
                sum[r][j] = v_add(v_load(cr), sum[r][j]);
            else if (mode == GEMM_SCALE_ADD)
                sum[r][j] = v_fma(v_load(cr), factor, sum[r][j]);
            else if (mode == GEMM_SET_SCALED)
                sum[r][j] = v_mul(sum[r][j], factor);
            else if (mode == GEMM_ADD_SCALED)
                sum[r][j] = v_fma(sum[r][j], factor, v_load(cr));
            v_store(cr, sum[r][j]);
        }
    }
}

/* The upcoming rows that are left, and how many to prefetch into L2 before each register block. In one burst they
 * would wait for the dozen or so fill buffers of L1, and the FMAs with them. */
typedef struct prefetcher {
    flashc_upcoming left[FLASHC_UPCOMING];
    int64_t rows_per_step[FLASHC_UPCOMING];
} prefetcher;

/* Not into L1: tiles fill it. */
V_INLINE void prefetch_step(prefetcher *p)
{
    for (int list = 0; list < FLASHC_UPCOMING; list++) {
        flashc_upcoming *left = &p->left[list];
        const int64_t rows = flashc_min(p->rows_per_step[list], left->n_rows);
        left->n_rows -= rows;
        for (int64_t i = 0; i < rows; i++) {
            for (int64_t byte = 0; byte < left->row_bytes; byte += 64)
                __builtin_prefetch(left->row + byte, 0, 2);
            left->row += left->row_stride;
        }
    }
}

static prefetcher prefetch_over(const flashc_upcoming *upcoming, int64_t steps)
{
    prefetcher p;
    for (int list = 0; list < FLASHC_UPCOMING; list++) {
        p.left[list] = upcoming[list];
        p.rows_per_step[list] = flashc_ceil_div(upcoming[list].n_rows, flashc_max(1, steps));
    }
    return p;
}

/* All rows of one panel of `vecs` vectors. */
V_INLINE void gemm_panel(int vecs, gemm_mode mode, int64_t n_rows, int64_t depth, const gemm_element *a, int64_t a_row,
                         int64_t a_depth, const gemm_element *b, int64_t ldb, float *c, int64_t ldc,
                         const float *scale, prefetcher *upcoming)
{
    int64_t r = 0;
    for (; r + GEMM_ROWS <= n_rows; r += GEMM_ROWS) {
        prefetch_step(upcoming);
        gemm_registers(GEMM_ROWS, vecs, mode, depth, a + r * a_row, a_row, a_depth, b, ldb, c + r * ldc, ldc, scale);
    }
    for (; r + 2 <= n_rows; r += 2)
        gemm_registers(2, vecs, mode, depth, a + r * a_row, a_row, a_depth, b, ldb, c + r * ldc, ldc, scale);
    if (r < n_rows)
        gemm_registers(1, vecs, mode, depth, a + r * a_row, a_row, a_depth, b, ldb, c + r * ldc, ldc, scale);
}

/* Panels of GEMM_VECS vectors, then the rest. Every element is its own chain over depth, so its bits
 * do not depend on the panel it falls into. b is [depth, ld] lanes. */
V_INLINE void gemm(gemm_mode mode, int64_t n_rows, int64_t lanes, int64_t depth, const gemm_element *a, int64_t a_row,
                   int64_t a_depth, const gemm_element *b, float *c, int64_t ld, const float *scale,
                   prefetcher *upcoming)
{
    const int64_t ldb = ld * GEMM_PER_LANE;
    for (int64_t lane = 0, vecs; lane < lanes; lane += vecs * VL) {
        const int64_t left = (lanes - lane) / VL;
        /* Four are two and two, not three and one: one alone would wait for its broadcasts. */
        const bool in_halves = GEMM_VECS == 3 && left == 4;
        vecs = left >= GEMM_VECS && !in_halves ? GEMM_VECS : left >= 2 ? 2 : 1;
        const gemm_element *panel = b + lane * GEMM_PER_LANE;
        const float *factor = mode == GEMM_SCALE_ADD ? scale + lane : scale;
        if (vecs == GEMM_VECS)
            gemm_panel(GEMM_VECS, mode, n_rows, depth, a, a_row, a_depth, panel, ldb, c + lane, ld, factor, upcoming);
        else if (vecs == 2)
            gemm_panel(2, mode, n_rows, depth, a, a_row, a_depth, panel, ldb, c + lane, ld, factor, upcoming);
        else
            gemm_panel(1, mode, n_rows, depth, a, a_row, a_depth, panel, ldb, c + lane, ld, factor, upcoming);
    }
}

#endif
