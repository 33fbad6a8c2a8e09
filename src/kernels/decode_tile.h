/*
 * The tile functions for few query rows, "rows along" (see kernel.h), over the primitives that f32_tile.h lists;
 * include it after that. The matrix products are in decode_gemm.h.
 */
#ifndef FLASHC_DECODE_TILE_H
#define FLASHC_DECODE_TILE_H

#include "kernels/decode_gemm.h"
#include "kernels/f32_copy.h"
#include "kernels/f32_stages.h"
#include "kernels/kernel.h"

static void row_store_rows(void *const *dst, flashc_dtype dtype, int64_t col_stride, const float *acc, int64_t ld,
                           int64_t n_rows, int64_t n_cols, const float *factor)
{
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t col = 0; col < n_cols; col += VL) {
            const int64_t cols = flashc_min(VL, n_cols - col);
            const vec x = scaled(acc + row * ld + col, v_set1(factor[row]));
            if (cols == VL && col_stride == 1)
                store_vector(dst[row], dtype, col, x);
            else
                store_elements(dst[row], dtype, col * col_stride, col_stride, cols, x);
        }
}

static void row_add_rows(float *scores, int64_t ld, flashc_rows bias, int64_t n_rows, int64_t n_keys)
{
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t key = 0; key < n_keys; key += VL)
            add_vector(scores + row * ld + key, load_row(bias, row, key, flashc_min(VL, n_keys - key)));
}

static void row_softcap(float *scores, int64_t ld, int64_t n_keys, int64_t n_rows, float softcap)
{
    for (int64_t row = 0; row < n_rows; row++)
        cap_floats(scores + row * ld, n_keys, softcap);
}

static void row_alibi(float *scores, int64_t ld, int64_t n_keys, int64_t n_rows, const float *slope,
                      const float *distance)
{
    float index[VL];
    for (int i = 0; i < VL; i++)
        index[i] = (float)i;
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t key = 0; key < n_keys; key += VL) {
            float *s = scores + row * ld + key;
            const vec keys = v_add(v_load(index), v_set1((float)key));
            v_store(s, v_alibi(v_load(s), v_set1(slope[row]), v_sub(v_set1(distance[row]), keys)));
        }
}

static void row_hide(float *scores, int64_t ld, int64_t n_keys, int64_t n_rows, const int32_t *first,
                     const int32_t *last)
{
    for (int64_t row = 0; row < n_rows; row++) {
        for (int64_t key = 0; key < flashc_min(first[row], n_keys); key++)
            scores[row * ld + key] = -(float)INFINITY;
        for (int64_t key = flashc_max(0, last[row]); key < n_keys; key++)
            scores[row * ld + key] = -(float)INFINITY;
    }
}

static void row_scale_keys(float *scores, int64_t ld, int64_t n_keys, int64_t n_rows, const float *scale)
{
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t key = 0; key < n_keys; key += VL) {
            float *s = scores + row * ld + key;
            v_store(s, v_mul(v_load(s), v_load(scale + key)));
        }
}

static void row_softmax(float *scores, int64_t ld, int64_t n_keys, int64_t n_rows, float *row_max, float *row_sum,
                        float *correction)
{
    for (int64_t row = 0; row < n_rows; row++) {
        float *s = scores + row * ld;
        for (int64_t key = n_keys; key % VL != 0; key++)
            s[key] = -(float)INFINITY;
        /* v_max ignores NaN scores here; they come through exp into the sum. */
        vec chain[2] = {v_set1(row_max[row]), v_set1(row_max[row])};
        for (int64_t key = 0; key < n_keys; key += 2 * VL) {
            chain[0] = v_max(v_load(s + key), chain[0]);
            if (key + VL < n_keys)
                chain[1] = v_max(v_load(s + key + VL), chain[1]);
        }
        const float new_max = v_max_across(v_max(chain[0], chain[1]));
        /* While no key is visible the max is -inf, and 0 stands in for it; see tile_softmax(). */
        const float shift = new_max == -(float)INFINITY ? 0.0f : new_max;
        const vec max = v_set1(shift);
        vec sum = v_set1(0.0f);
        for (int64_t key = 0; key < n_keys; key += VL) {
            const vec p = v_exp(v_sub(v_load(s + key), max));
            v_store(s + key, p);
            sum = v_add(sum, p);
        }
        float rescale[VL];
        v_store(rescale, v_exp(v_sub(v_set1(row_max[row]), max)));
        row_max[row] = new_max;
        row_sum[row] = row_sum[row] * rescale[0] + v_sum_across(sum);
        correction[row] = rescale[0];
    }
}

static bool row_all_finite(const float *acc, int64_t ld, int64_t n_rows, int64_t n_cols)
{
    /* 0 * x is 0 for finite x and NaN otherwise, and NaN stays in the sum. */
    for (int64_t row = 0; row < n_rows; row++) {
        vec sum = v_set1(0.0f);
        int64_t col = 0;
        for (; col + VL <= n_cols; col += VL)
            sum = v_fma(v_load(acc + row * ld + col), v_set1(0.0f), sum);
        float total = v_sum_across(sum);
        for (; col < n_cols; col++)
            total += acc[row * ld + col] * 0.0f;
        if (total != 0.0f)
            return false;
    }
    return true;
}

static void row_point(const void **row, const void *first, int64_t stride, int64_t n)
{
    const char *at = first;
    for (int64_t i = 0; i < n; i++, at += stride) /* no product of 64 bits, which AVX-512F lacks */
        row[i] = at;
}

/* Whole vectors, of rows that lie anywhere. */
#define DECODE_OPERAND                                                                                                 \
    {                                                                                                                  \
        .in_place = FLASHC_CACHE_TYPES,                                                                                \
        .col_multiple = COLUMNS,                                                                                       \
        .by_row = true,                                                                                                \
    }

/* load_queries: load_rows; scaled: the products scale the scores, not load_queries the queries. */
#define FLASHC_DECODE_TILE_ISA(load_queries, scaled)                                                                   \
    {                                                                                                                  \
        .vector = {.rows_along = true,                                                                                 \
                   .row_multiple = 1,                                                                                  \
                   .col_multiple = COLUMNS,                                                                            \
                   .load_rows = load_queries,                                                                          \
                   .load = tile_load,                                                                                  \
                   .softcap = row_softcap,                                                                             \
                   .add_rows = row_add_rows,                                                                           \
                   .scale_keys = row_scale_keys,                                                                       \
                   .alibi = row_alibi,                                                                                 \
                   .hide = row_hide,                                                                                   \
                   .softmax = row_softmax,                                                                             \
                   .point = row_point,                                                                                 \
                   .all_finite = row_all_finite,                                                                       \
                   .store_rows = row_store_rows},                                                                      \
        .gemm = {.k = DECODE_OPERAND, .v = DECODE_OPERAND, .scales_scores = scaled, .qk = row_qk, .pv = row_pv},       \
    }

#endif
