/*
 * The f32 tile functions, written once over a handful of vector primitives. An instruction set's
 * file defines the primitives below, includes this file, and exports one const struct, nothing else:
 *
 *   V_INLINE             static inline, always
 *   vec, VL              vector of VL floats
 *   GEMM_ROWS, GEMM_VECS rows and vectors of the register block; ROWS*VECS accumulators plus VECS
 *                        loads plus one broadcast must fit the register file
 *   FLASHC_OWN_GEMM_SUMS, PREFETCH_STEPS and gemm_sums, all or none: an inner loop of its own for the register block,
 *                        sum[r][j] += a[r*a_row + k*a_depth] * b[k*ldb + j*VL ..] for k = 0 .. depth in this order,
 *                        and the steps of k after which it must let tile_gemm.h prefetch
 *   FLASHC_OWN_DOT and v_dot, both or neither: v_fma for the sums of products of queries and keys
 *   v_load v_store v_set1 v_add v_sub v_mul v_div
 *   v_fma(a, b, c)       a*b + c
 *   v_max(a, b) v_min(a, b)  the larger, the smaller; b if either is NaN
 *   v_exp(x)             e^x to about 1 ulp for x <= 0; exactly 0 below FLASHC_EXP_MIN; NaN stays NaN
 *   v_zero_if_neg_inf(x) 0 where x is -inf, x elsewhere
 *   v_hide_if_neg_inf(s, b)        -inf where b is -inf, s elsewhere
 *   v_hide_outside(s, t, first, last)  -inf unless first[lane] <= t < last[lane]
 *   v_load_f16 v_load_bf16 v_load_bool (0 / -inf), v_store_f16 v_store_bf16
 *   v_load_i8 v_load_e4m3 v_load_e5m2, v_set1_f16(two bytes at any address)
 *   v_transpose(vec r[VL])  in place
 *   v_sum_each(vec r[VL])   the sums of r[0], r[1], ..., one a lane
 *   v_max_across(x) v_sum_across(x)  of the lanes of x; of the max none is NaN
 *   ROW_ACCUMULATORS     registers for P V rows along
 */
#ifndef FLASHC_F32_TILE_H
#define FLASHC_F32_TILE_H

#include "kernels/f32_bias.h"
#include "kernels/f32_copy.h"
#include "kernels/f32_stages.h"
#include "kernels/kernel.h"

#ifndef FLASHC_GEMM_PAIRS
/* The weights of keys key and key + 1, or of the last one alone, in place of their scores. */
V_INLINE void store_weights(float *column, int64_t ld, int64_t key, vec p0, vec p1)
{
    v_store(column + key * ld, p0);
    v_store(column + (key + 1) * ld, p1);
}

V_INLINE void store_last_weight(float *column, int64_t ld, int64_t key, vec p)
{
    v_store(column + key * ld, p);
}
#endif

V_INLINE vec weight(const float *column, int64_t ld, int64_t key, vec max)
{
    return v_exp(v_sub(v_load(column + key * ld), max));
}

/* The online softmax, lane by lane; see flashc_vector_ops in kernel.h. */
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
        vec sum = v_set1(0.0f), sum1 = v_set1(0.0f);
        for (key = 0; key + 2 <= n_keys; key += 2) {
            const vec p = weight(column, ld, key, max), p1 = weight(column, ld, key + 1, max);
            store_weights(column, ld, key, p, p1);
            sum = v_add(sum, p);
            sum1 = v_add(sum1, p1);
        }
        if (key < n_keys) {
            const vec p = weight(column, ld, key, max);
            store_last_weight(column, ld, key, p);
            sum = v_add(sum, p);
        }
        sum = v_add(sum, sum1);
        const vec rescale = v_exp(v_sub(old_max, max));
        v_store(row_max + lane, new_max);
        v_store(row_sum + lane, v_fma(v_load(row_sum + lane), rescale, sum));
        v_store(correction + lane, rescale);
    }
}

static bool tile_all_finite(const float *acc, int64_t ld, int64_t n_rows, int64_t n_cols)
{
    /* 0 * x is 0 for finite x and NaN otherwise, and NaN stays in the sum. */
    float found[VL];
    for (int64_t lane = 0; lane < n_rows; lane += VL) {
        vec chain[4] = {v_set1(0.0f), v_set1(0.0f), v_set1(0.0f), v_set1(0.0f)}; /* hide the latency */
        int64_t col = 0;
        for (; col + 4 <= n_cols; col += 4)
            for (int64_t i = 0; i < 4; i++)
                chain[i] = v_fma(v_load(acc + (col + i) * ld + lane), v_set1(0.0f), chain[i]);
        for (; col < n_cols; col++)
            chain[0] = v_fma(v_load(acc + col * ld + lane), v_set1(0.0f), chain[0]);
        v_store(found, v_add(v_add(chain[0], chain[1]), v_add(chain[2], chain[3])));
        for (int64_t i = 0; i < flashc_min(VL, n_rows - lane); i++)
            if (found[i] != 0.0f)
                return false;
    }
    return true;
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

static void tile_scale_keys(float *scores, int64_t ld, int64_t n_keys, int64_t lanes, const float *scale)
{
    for (int64_t key = 0; key < n_keys; key++)
        for (int64_t lane = 0; lane < lanes; lane += VL) {
            float *s = scores + key * ld + lane;
            v_store(s, v_mul(v_load(s), v_set1(scale[key])));
        }
}

/* col_multiple and load_rows of queries as the products take them. */
#define FLASHC_TILE_VECTOR_OPS(query_columns, load_queries)                                                            \
    {                                                                                                                  \
        .rows_along = false, .row_multiple = VL, .col_multiple = query_columns,                                        \
        .groups_weights = (query_columns) > 1, .load_rows = load_queries,                                              \
        .load = tile_load, .softcap = tile_softcap, .add_rows = tile_add_rows, .scale_keys = tile_scale_keys,          \
        .alibi = tile_alibi, .hide = tile_hide,                                                                        \
        .softmax = tile_softmax, .all_finite = tile_all_finite, .store_rows = tile_store_rows,                         \
    }

#define FLASHC_F32_TILE_ISA                                                                                            \
    {                                                                                                                  \
        .vector = FLASHC_TILE_VECTOR_OPS(1, tile_load_rows),                                                           \
        .gemm = {.k = FLASHC_F32_OPERAND, .v = FLASHC_F32_OPERAND, .qk = tile_qk, .pv = tile_pv},                      \
    }

#endif
