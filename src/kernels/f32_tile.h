/*
 * The f32 tile functions, written once over a handful of vector primitives. An instruction set's
 * file defines the primitives below, includes this file, and exports one const struct, nothing else:
 *
 *   vec, VL              vector of VL floats
 *   GEMM_ROWS, GEMM_VECS rows and vectors of the register block; ROWS*VECS accumulators plus VECS
 *                        loads plus one broadcast must fit the register file
 *   v_load v_store v_set1 v_add v_sub v_mul
 *   v_fma(a, b, c)       a*b + c
 *   v_max(a, b)          the larger; b if either is NaN
 *   v_exp(x)             e^x to about 1 ulp for x <= 0; exactly 0 below FLASHC_EXP_MIN; NaN stays NaN
 *   v_zero_if_neg_inf(x) 0 where x is -inf, x elsewhere
 *   v_hide_if_neg_inf(s, b)        -inf where b is -inf, s elsewhere
 *   v_hide_outside(s, t, first, last)  -inf unless first[lane] <= t < last[lane]
 *   v_load_f16 v_load_bf16 v_load_bool (0 / -inf), v_store_f16 v_store_bf16
 *   v_transpose(vec r[VL])  in place
 */
#ifndef FLASHC_F32_TILE_H
#define FLASHC_F32_TILE_H

#include "kernels/kernel.h"
#include "numerics.h"

#define FLASHC_INLINE static inline __attribute__((always_inline))

typedef enum { GEMM_SET, GEMM_ADD, GEMM_SCALE_ADD } gemm_mode;

/*
 * c[r][lane] = (mode) + sum over k of a[r*a_row + k*a_depth] * b[k*ldb + lane]
 *
 * for `rows` rows and `vecs` vectors, both compile-time constants after inlining. One of a_row and
 * a_depth is 1: qk walks K along its rows, pv walks V across them. The sum starts at zero and meets
 * c only at the end: the rescale is one FMA there, and rounding chains stay short.
 */
FLASHC_INLINE void gemm_registers(int rows, int vecs, gemm_mode mode, int64_t depth, const float *a, int64_t a_row,
                                  int64_t a_depth, const float *b, int64_t ldb, float *c, int64_t ldc,
                                  const float *correction)
{
    vec sum[GEMM_ROWS][GEMM_VECS];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < vecs; j++)
            sum[r][j] = v_set1(0.0f);
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

/* Rows to prefetch into L2, some before each register block. In one burst they would wait for the dozen or so
 * fill buffers of L1 and the FMAs with them. */
typedef struct prefetcher {
    const char *row;
    int64_t rows_left, rows_per_step, row_stride, row_bytes;
} prefetcher;

FLASHC_INLINE void prefetch_step(prefetcher *p)
{
    const int64_t rows = flashc_min(p->rows_per_step, p->rows_left);
    p->rows_left -= rows;
    for (int64_t i = 0; i < rows; i++, p->row += p->row_stride)
        for (int64_t byte = 0; byte < p->row_bytes; byte += 64)
            __builtin_prefetch(p->row + byte, 0, 2);
}

static prefetcher prefetch_upcoming(flashc_f32_tile tile, int64_t row_floats, int64_t n_rows)
{
    return (prefetcher){
        .row = (const char *)tile.upcoming,
        .rows_left = tile.upcoming ? tile.upcoming_rows : 0,
        .rows_per_step = flashc_ceil_div(tile.upcoming_rows, flashc_max(1, n_rows / GEMM_ROWS)),
        .row_stride = tile.ld * (int64_t)sizeof(float),
        .row_bytes = row_floats * (int64_t)sizeof(float),
    };
}

/* All rows of one panel of `vecs` vectors. */
FLASHC_INLINE void gemm_panel(int vecs, gemm_mode mode, int64_t n_rows, int64_t depth, const float *a, int64_t a_row,
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
FLASHC_INLINE void gemm(gemm_mode mode, int64_t n_rows, int64_t lanes, int64_t depth, const float *a, int64_t a_row,
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

static void tile_qk(float *scores, flashc_f32_tile k, const float *qt, int64_t ld, int64_t n_keys, int64_t lanes,
                    int64_t head_dim)
{
    prefetcher upcoming = prefetch_upcoming(k, head_dim, n_keys);
    gemm(GEMM_SET, n_keys, lanes, flashc_min(head_dim, FLASHC_QK_DEPTH), k.data, k.ld, 1, qt, scores, ld, scores,
         &upcoming);
    for (int64_t d = FLASHC_QK_DEPTH; d < head_dim; d += FLASHC_QK_DEPTH)
        gemm(GEMM_ADD, n_keys, lanes, flashc_min(head_dim - d, FLASHC_QK_DEPTH), k.data + d, k.ld, 1, qt + d * ld,
             scores, ld, scores, &upcoming);
}

static void tile_pv(float *acc, flashc_f32_tile v, const float *p, int64_t ld, int64_t n_keys, int64_t lanes,
                    int64_t head_dim_v, const float *correction)
{
    prefetcher upcoming = prefetch_upcoming(v, head_dim_v, head_dim_v);
    gemm(GEMM_SCALE_ADD, head_dim_v, lanes, n_keys, v.data, 1, v.ld, p, acc, ld, correction, &upcoming);
}

static void tile_softmax(float *scores, int64_t ld, int64_t n_keys, int64_t lanes, float *row_max, float *row_sum,
                         float *correction)
{
    for (int64_t lane = 0; lane < lanes; lane += VL) {
        float *column = scores + lane;
        const vec old_max = v_load(row_max + lane);
        /* v_max ignores NaN scores here; they come through exp into the sum. Four chains hide its latency. */
        vec chain[4] = {old_max, old_max, old_max, old_max};
        int64_t key = 0;
        for (; key + 4 <= n_keys; key += 4)
            for (int64_t i = 0; i < 4; i++)
                chain[i] = v_max(v_load(column + (key + i) * ld), chain[i]);
        for (; key < n_keys; key++)
            chain[0] = v_max(v_load(column + key * ld), chain[0]);
        const vec new_max = v_max(v_max(chain[0], chain[1]), v_max(chain[2], chain[3]));
        /* While no key is visible the max is -inf, and 0 stands in for it, so that scores of -inf give
         * exp(-inf) = 0 and not NaN. */
        const vec max = v_zero_if_neg_inf(new_max);
        vec sum = v_set1(0.0f);
        for (key = 0; key < n_keys; key++) {
            const vec p = v_exp(v_sub(v_load(column + key * ld), max));
            v_store(column + key * ld, p);
            sum = v_add(sum, p);
        }
        const vec rescale = v_exp(v_sub(old_max, max));
        v_store(row_max + lane, new_max);
        v_store(row_sum + lane, v_fma(v_load(row_sum + lane), rescale, sum));
        v_store(correction + lane, rescale);
    }
}

static void tile_add_bias(float *scores, const float *bias, int64_t ld, int64_t n_keys, int64_t lanes)
{
    for (int64_t key = 0; key < n_keys; key++)
        for (int64_t lane = 0; lane < lanes; lane += VL) {
            float *s = scores + key * ld + lane;
            vec b = v_load(bias + key * ld + lane);
            v_store(s, v_hide_if_neg_inf(v_add(v_load(s), b), b));
        }
}

static bool tile_all_finite(const float *acc, int64_t ld, int64_t n_rows, int64_t n_cols)
{
    /* 0 * x is 0 for finite x and NaN otherwise, and NaN stays in the sum. */
    float found[VL];
    for (int64_t lane = 0; lane < n_rows; lane += VL) {
        vec sum = v_set1(0.0f);
        for (int64_t col = 0; col < n_cols; col++)
            sum = v_fma(v_load(acc + col * ld + lane), v_set1(0.0f), sum);
        v_store(found, sum);
        for (int64_t i = 0; i < flashc_min(VL, n_rows - lane); i++)
            if (found[i] != 0.0f)
                return false;
    }
    return true;
}

/* VL contiguous elements. */
FLASHC_INLINE vec load_vector(const void *src, flashc_dtype dtype, int64_t index)
{
    switch (dtype) {
    case FLASHC_F32: return v_load((const float *)src + index);
    case FLASHC_F16: return v_load_f16((const uint16_t *)src + index);
    case FLASHC_BF16: return v_load_bf16((const uint16_t *)src + index);
    case FLASHC_BOOL: return v_load_bool((const uint8_t *)src + index);
    }
    return v_set1(0.0f);
}

/* count <= VL elements from src, spaced by stride; the rest of the vector is 0. */
FLASHC_INLINE vec load_elements(const void *src, flashc_dtype dtype, int64_t index, int64_t stride, int64_t count)
{
    float element[VL] = {0};
    for (int64_t i = 0; i < count; i++)
        element[i] = dtype == FLASHC_BOOL
                         ? (((const uint8_t *)src)[index + i * stride] ? 0.0f : -(float)INFINITY)
                         : flashc_load_f32(src, dtype, index + i * stride);
    return v_load(element);
}

static void tile_load(float *dst, flashc_tile src, int64_t n_rows, int64_t n_cols)
{
    for (int64_t row = 0; row < n_rows; row++) {
        int64_t start = row * src.row_stride;
        float *out = dst + row * n_cols;
        int64_t col = 0;
        if (src.col_stride == 1)
            for (; col + VL <= n_cols; col += VL)
                v_store(out + col, load_vector(src.data, src.dtype, start + col));
        for (; col < n_cols; col++)
            out[col] = flashc_load_f32(src.data, src.dtype, start + col * src.col_stride);
    }
}

/* A full block of VL rows, contiguous columns col .. col + VL; dtype is a constant after inlining. */
FLASHC_INLINE void load_full_block(vec block[VL], const void *const *row, flashc_dtype dtype, int64_t col)
{
    for (int64_t i = 0; i < VL; i++)
        block[i] = load_vector(row[i], dtype, col);
}

FLASHC_INLINE void load_block(vec block[VL], flashc_rows src, int64_t row, int64_t rows, int64_t col, int64_t cols)
{
    const void *const *first = src.row + row;
    if (rows == VL && cols == VL && src.col_stride == 1) {
        switch (src.dtype) {
        case FLASHC_F32: load_full_block(block, first, FLASHC_F32, col); return;
        case FLASHC_F16: load_full_block(block, first, FLASHC_F16, col); return;
        case FLASHC_BF16: load_full_block(block, first, FLASHC_BF16, col); return;
        case FLASHC_BOOL: load_full_block(block, first, FLASHC_BOOL, col); return;
        }
    }
    for (int64_t i = 0; i < VL; i++)
        block[i] = i < rows ? load_elements(first[i], src.dtype, col * src.col_stride, src.col_stride, cols)
                            : v_set1(0.0f);
}

static void tile_load_transposed(float *dst, int64_t ld, flashc_rows src, int64_t n_rows, int64_t n_cols, float factor)
{
    const vec scale = v_set1(factor);
    for (int64_t row = 0; row < n_rows; row += VL)
        for (int64_t col = 0; col < n_cols; col += VL) {
            const int64_t cols = flashc_min(VL, n_cols - col);
            vec block[VL];
            load_block(block, src, row, flashc_min(VL, n_rows - row), col, cols);
            v_transpose(block);
            float *out = dst + col * ld + row;
            if (cols == VL)
                for (int64_t i = 0; i < VL; i++)
                    v_store(out + i * ld, v_mul(block[i], scale));
            else
                for (int64_t i = 0; i < cols; i++)
                    v_store(out + i * ld, v_mul(block[i], scale));
        }
}

FLASHC_INLINE void store_vector(void *dst, flashc_dtype dtype, int64_t index, vec x)
{
    if (dtype == FLASHC_F32)
        v_store((float *)dst + index, x);
    else if (dtype == FLASHC_F16)
        v_store_f16((uint16_t *)dst + index, x);
    else
        v_store_bf16((uint16_t *)dst + index, x);
}

FLASHC_INLINE void store_elements(void *dst, flashc_dtype dtype, int64_t index, int64_t stride, int64_t count, vec x)
{
    float element[VL];
    v_store(element, x);
    for (int64_t i = 0; i < count; i++)
        flashc_store_f32(dst, dtype, index + i * stride, element[i]);
}

/* + 0: -0 becomes +0 */
FLASHC_INLINE vec scaled(const float *acc, vec scale)
{
    return v_add(v_mul(v_load(acc), scale), v_set1(0.0f));
}

static void tile_store_transposed(void *const *dst, flashc_dtype dtype, int64_t col_stride, const float *acc,
                                  int64_t ld, int64_t n_rows, int64_t n_cols, const float *factor)
{
    for (int64_t row = 0; row < n_rows; row += VL) {
        const int64_t rows = flashc_min(VL, n_rows - row);
        const vec scale = v_load(factor + row);
        for (int64_t col = 0; col < n_cols; col += VL) {
            const int64_t cols = flashc_min(VL, n_cols - col);
            const float *in = acc + col * ld + row;
            vec block[VL];
            if (cols == VL)
                for (int64_t i = 0; i < VL; i++)
                    block[i] = scaled(in + i * ld, scale);
            else
                for (int64_t i = 0; i < VL; i++)
                    block[i] = i < cols ? scaled(in + i * ld, scale) : v_set1(0.0f);
            v_transpose(block);
            if (rows == VL && cols == VL && col_stride == 1)
                for (int64_t i = 0; i < VL; i++)
                    store_vector(dst[row + i], dtype, col, block[i]);
            else
                for (int64_t i = 0; i < rows; i++)
                    store_elements(dst[row + i], dtype, col * col_stride, col_stride, cols, block[i]);
        }
    }
}

static void tile_hide(float *scores, int64_t ld, int64_t n_keys, int64_t lanes, const int32_t *first,
                      const int32_t *last)
{
    for (int64_t key = 0; key < n_keys; key++)
        for (int64_t lane = 0; lane < lanes; lane += VL) {
            float *s = scores + key * ld + lane;
            v_store(s, v_hide_outside(v_load(s), (int32_t)key, first + lane, last + lane));
        }
}

#define FLASHC_F32_TILE_ISA                                                                                            \
    {                                                                                                                  \
        .vector = {.vector_length = VL,                                                                                \
                   .load_transposed = tile_load_transposed,                                                            \
                   .load = tile_load,                                                                                  \
                   .add_bias = tile_add_bias,                                                                          \
                   .hide = tile_hide,                                                                                  \
                   .softmax = tile_softmax,                                                                            \
                   .all_finite = tile_all_finite,                                                                      \
                   .store_transposed = tile_store_transposed},                                                         \
        .gemm = {.qk = tile_qk, .pv = tile_pv},                                                                        \
    }

#endif
