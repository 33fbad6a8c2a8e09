/*
 * Q K^T and P V for few query rows, over the primitives that f32_tile.h lists. Part of decode_tile.h. What is
 * multiplied is f32, as decode_f32.h has it, or pairs of bf16; the including file has defined, of either,
 *
 *   gemm_element v_load_elements v_dot  as in tile_gemm.h
 *   load_products(dtype, row, col)      COLUMNS columns of a row of K as v_dot takes them; row, col as in load_vector()
 *   decode_weights pv_keys              see decode_f32.h
 *
 * Decode is bound by reading K and V, so each of their elements is loaded once for up to four query rows, in its own
 * type, and from L1 for the rows beyond. Q K^T keeps VL dot products in VL registers (4 rows x VL/4 keys, 2 x VL/2 or
 * 1 x VL) and sums them across lanes together, 45 operations for 16 products with AVX-512. P V keeps ROW_ACCUMULATORS
 * registers of O while it runs down PV_KEYS keys, strip by strip. Per key and four rows at head_dim 128, f32, AVX-512:
 * 64 FMAs, 7.4 ns on Zen 5, which takes 11 with the sums and loads (the inner loops unrolled twice and four times;
 * not unrolled 13 to 15), 0.9 for the softmax, 0.8 for where rows are. One core reads the key's 1 KiB in 24 ns. bf16
 * has 16 shifts more and half the bytes; int8 has 32 conversions (q8_0 and 8 scales with 16 products) and a quarter:
 * there the instructions are the limit. Pairs of bf16 take half the multiply-adds.
 *
 * Zen 4 has one multiply-add of 64 bytes a cycle, 17.4 ns for those of a key and four rows; from L2 a key takes 27 ns
 * in f32, 16-bit types and int8. So two cores read int8 at 19 GB/s at most, half the bandwidth of 35. A conversion of
 * int8 with its multiply-add takes 1.9 cycles (counted alone; 1.5 if ports were even): two rows of int8 take 17 ns, of
 * q8_0, with another product and 1.3 cycles a scale, 22, which is 24 GB/s at most, 70 %. 16 rows take 93 ns in f32
 * where the multiply-adds take 70: 75 % of the peak, 68 % with keys from memory; the sums across lanes are the rest.
 */
#ifndef FLASHC_DECODE_GEMM_H
#define FLASHC_DECODE_GEMM_H

#include "kernels/decode_rows.h"
#include "kernels/kernel.h"

#include <string.h>

/* Sums of Q K^T that are made together, in registers: rows x keys. Constants after inlining. */
typedef struct dot_shape {
    int rows, keys;
    flashc_dtype dtype; /* of K */
} dot_shape;

/* sum[r*keys + j] += q[r] . k[j] over `vecs` vectors from d on. */
V_INLINE void dot_vectors(dot_shape s, int vecs, const char *const k[4], const gemm_element *q, int64_t ld, int64_t d,
                          vec *sum)
{
    for (int i = 0; i < vecs; i++) {
        vec kd[4];
        for (int j = 0; j < s.keys; j++)
            kd[j] = load_products(s.dtype, at_column(s.dtype, k[j], d), i * COLUMNS);
        for (int r = 0; r < s.rows; r++) {
            const vec qd = v_load_elements(q + r * ld + d + i * COLUMNS);
            for (int j = 0; j < s.keys; j++)
                sum[r * s.keys + j] = v_dot(qd, kd[j], sum[r * s.keys + j]);
        }
    }
}

/* One chain for each sum, over `depth` columns from `column` on of the rows of K, and of q, which begins there;
 * sum[r*stride + j] = q[r] . k[j] */
V_INLINE void dot_registers(dot_shape s, const void *const *row, int64_t column, const gemm_element *q, int64_t ld,
                            int64_t depth, vec *sum, int stride)
{
    /* Vectors that are multiplied together; of Q8_0 those that share a scale. */
    const int vecs = s.dtype == FLASHC_Q8_0 ? FLASHC_Q8_0_COLUMNS / COLUMNS : 2;
    const char *k[4];
    for (int j = 0; j < s.keys; j++)
        k[j] = at_column(s.dtype, row[j], column);
    const int64_t together = s.dtype == FLASHC_Q8_0 ? depth : depth / (vecs * COLUMNS) * (vecs * COLUMNS);
    vec chain[VL];
    for (int i = 0; i < s.rows * s.keys; i++)
        chain[i] = v_set1(0.0f);
    int64_t d = 0;
    for (; d < together; d += vecs * COLUMNS)
        dot_vectors(s, vecs, k, q, ld, d, chain);
    for (; d < depth; d += COLUMNS)
        dot_vectors(s, 1, k, q, ld, d, chain);
    for (int r = 0; r < s.rows; r++)
        for (int j = 0; j < s.keys; j++)
            sum[r * stride + j] = chain[r * s.keys + j];
}

/* Keys of a step: as many rows of K are in registers. */
V_INLINE int step_keys(int rows)
{
    return VL / rows < 4 ? VL / rows : 4;
}

/* The rows of K that are to be prefetched with those of a tile. */
typedef struct key_prefetcher {
    int64_t ahead, row_bytes; /* rows from those that are multiplied on; of each row */
    const flashc_start *start;
    bool into_l2, loads; /* see prefetches_into_l2(), loads_lines() */
} key_prefetcher;

/* Scores of all rows over a strip of columns. Beside it rows of queries and of K stay arguments of their own. */
typedef struct dot_strip {
    flashc_dtype dtype; /* of K */
    int64_t column, depth; /* the first one, and how many */
    const gemm_element *q; /* of that column */
    int64_t ld; /* lanes from row to row of q, and of scores */
    float *scores, factor; /* scores are set, times the factor, by the strip that begins at column 0, else added to */
} dot_strip;

/* VL scores: `rows` rows from `row` on by VL / rows keys from `key` on, k[key] being where the first one lies. rows is
 * 1, 2 or 4, a constant after inlining. coming: NULL, or prefetches. */
V_INLINE void dot_block(int rows, dot_strip s, int64_t row, const void *const *k, int64_t key, key_prefetcher *coming)
{
    const int keys = VL / rows, step = step_keys(rows);
    const int64_t ldq = s.ld * GEMM_PER_LANE;
    float *scores = s.scores + row * s.ld + key;
    if (coming && coming->start)
        coming->start = prefetch_starts(coming->start, key + keys, coming->into_l2);
    vec sum[VL];
#pragma GCC unroll 4 /* or sums wait in memory: on Zen 4 a store of 64 bytes takes two cycles (int8, two rows: 4 %) */
    for (int first = 0; first < keys; first += step) {
        const void *const *at = k + key + first;
        if (coming) {
            prefetch_rows(step, at + coming->ahead, coming->row_bytes, coming->into_l2);
            if (coming->loads)
                load_lines(step, at, coming->row_bytes);
        }
        dot_registers((dot_shape){rows, step, s.dtype}, at, s.column, s.q + row * ldq, ldq, s.depth, sum + first, keys);
    }
    float out[VL];
    v_store(out, v_mul(v_sum_each(sum), v_set1(s.factor)));
    for (int r = 0; r < rows; r++)
        if (s.column == 0)
            memcpy(scores + r * s.ld, out + r * keys, (size_t)keys * sizeof(float));
        else
            for (int j = 0; j < keys; j++)
                scores[r * s.ld + j] += out[r * keys + j];
}

/* Scores of VL keys from `first` on and all rows: four rows at a time, then two, then one. The first prefetch. */
V_INLINE void dot_keys(dot_strip s, int64_t n_rows, const void *const *k, int64_t first, key_prefetcher *coming)
{
    int64_t row = 0;
    for (; row + 4 <= n_rows; row += 4, coming = NULL)
        for (int key = 0; key < VL; key += VL / 4)
            dot_block(4, s, row, k, first + key, coming);
    for (; row + 2 <= n_rows; row += 2, coming = NULL)
        for (int key = 0; key < VL; key += VL / 2)
            dot_block(2, s, row, k, first + key, coming);
    if (row < n_rows)
        dot_block(1, s, row, k, first, coming);
}

V_INLINE void qk_typed(flashc_dtype dtype, float *scores, flashc_kv_tile k, const gemm_element *q, int64_t ld,
                       int64_t n_keys, int64_t n_rows, int64_t head_dim, float factor)
{
    const int64_t columns = flashc_round_up(head_dim, COLUMNS), row_bytes = flashc_row_bytes(dtype, head_dim);
    const bool into_l2 = prefetches_into_l2(dtype, n_rows);
    key_prefetcher coming = {rows_ahead(row_bytes, into_l2), row_bytes, k.start, into_l2,
                             loads_lines(dtype, n_rows, into_l2)};
    for (int64_t first = 0; first < n_keys; first += VL)
        for (int64_t column = 0; column < columns; column += FLASHC_QK_DEPTH * VL) {
            const int64_t depth = flashc_min(columns - column, FLASHC_QK_DEPTH * VL);
            dot_keys((dot_strip){dtype, column, depth, q + column, ld, scores, factor}, n_rows, k.row, first,
                     column == 0 ? &coming : NULL);
        }
}

static void row_qk(float *scores, flashc_kv_tile k, const void *q, int64_t ld, int64_t n_keys, int64_t n_rows,
                   int64_t head_dim, float factor)
{
    FLASHC_OF_CACHE_TYPE(k.dtype, qk_typed, scores, k, q, ld, n_keys, n_rows, head_dim, factor);
}

/* Query rows that are multiplied together, and their sums: acc[r] = acc * factor[r] + the sum over keys of
 * p[r][key] * V[key] */
typedef struct pv_group {
    const float *p;
    float *acc;
    int64_t ld; /* from row to row of both */
    const float *factor;
} pv_group;

/* Of a group whose weights are at p, ldp apart, `vecs` vectors of columns from `column` on, over n keys. rows, vecs
 * (their product at most ROW_ACCUMULATORS) and dtype are constants after inlining. These and v stay arguments of their
 * own: in a struct, as dot_shape, gcc 12 allots the registers of these loops otherwise. */
V_INLINE void pv_registers(int rows, int vecs, flashc_dtype dtype, const void *const *v, int64_t column, int64_t n,
                           const gemm_element *p, int64_t ldp, pv_group group, row_prefetcher *coming)
{
    vec sum[ROW_ACCUMULATORS];
    for (int i = 0; i < rows * vecs; i++)
        sum[i] = v_set1(0.0f);
    int64_t key = 0;
    for (; key + PV_STEP <= n; key += PV_STEP) {
        if (coming) {
            prefetch_step_rows(coming);
            if (coming->loads && column == 0)
                load_lines(PV_STEP, v + key, coming->row_bytes);
        }
        for (int i = 0; i < PV_STEP; i += GEMM_PER_LANE)
            pv_keys(rows, vecs, dtype, v + key + i, GEMM_PER_LANE, column, p + key + i, ldp, sum);
    }
    for (; key < n; key += GEMM_PER_LANE)
        pv_keys(rows, vecs, dtype, v + key, n - key, column, p + key, ldp, sum);
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < vecs; j++) {
            float *a = group.acc + r * group.ld + column + j * VL;
            v_store(a, v_fma(v_load(a), v_set1(group.factor[r]), sum[r * vecs + j]));
        }
}

/* Strips of as many vectors as the registers hold, then as narrow ones as can be. */
V_INLINE void pv_rows(int rows, flashc_dtype dtype, const void *const *v, int64_t columns, int64_t n, pv_group group,
                      row_prefetcher *coming)
{
    const int vecs = ROW_ACCUMULATORS / rows < 8 ? ROW_ACCUMULATORS / rows : 8;
    gemm_element room[4][PV_KEYS];
    int64_t ldp = group.ld;
    const gemm_element *weights = decode_weights(rows, group.p, &ldp, room);
    if (coming)
        coming->per_step = flashc_ceil_div(PV_STEP, columns / (vecs * VL) + columns % (vecs * VL) / COLUMNS);
    int64_t column = 0;
    for (; column + vecs * VL <= columns; column += vecs * VL)
        pv_registers(rows, vecs, dtype, v, column, n, weights, ldp, group, coming);
    for (; column < columns; column += COLUMNS)
        pv_registers(rows, GEMM_PER_LANE, dtype, v, column, n, weights, ldp, group, coming);
}

/* The group's rows from `row` on, and keys from `first` on: what acc has of the keys before stays. */
V_INLINE pv_group from_row_and_key(pv_group group, int64_t row, int64_t first)
{
    static const float ones[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    return (pv_group){group.p + row * group.ld + first, group.acc + row * group.ld, group.ld,
                      first ? ones : group.factor + row};
}

V_INLINE void pv_typed(flashc_dtype dtype, pv_group all, flashc_kv_tile v, int64_t n_keys, int64_t n_rows,
                       int64_t head_dim_v)
{
    const int64_t columns = flashc_round_up(head_dim_v, COLUMNS), row_bytes = flashc_row_bytes(dtype, head_dim_v);
    const bool into_l2 = prefetches_into_l2(dtype, n_rows);
    const flashc_start *start = v.start;
    for (int64_t first = 0; first < n_keys; first += PV_KEYS) {
        if (start)
            start = prefetch_starts(start, first + PV_KEYS, into_l2);
        const int64_t n = flashc_min(PV_KEYS, n_keys - first);
        row_prefetcher rows = {v.row + first + rows_ahead(row_bytes, into_l2), n, 0, row_bytes, into_l2,
                               loads_lines(dtype, n_rows, into_l2)};
        row_prefetcher *coming = &rows;
        int64_t row = 0;
        for (; row + 4 <= n_rows; row += 4, coming = NULL)
            pv_rows(4, dtype, v.row + first, columns, n, from_row_and_key(all, row, first), coming);
        for (; row + 2 <= n_rows; row += 2, coming = NULL)
            pv_rows(2, dtype, v.row + first, columns, n, from_row_and_key(all, row, first), coming);
        if (row < n_rows)
            pv_rows(1, dtype, v.row + first, columns, n, from_row_and_key(all, row, first), coming);
    }
}

static void row_pv(float *acc, flashc_kv_tile v, const void *p, int64_t ld, int64_t n_keys, int64_t n_rows,
                   int64_t head_dim_v, const float *correction)
{
    const pv_group all = {p, acc, ld, correction};
    FLASHC_OF_CACHE_TYPE(v.dtype, pv_typed, all, v, n_keys, n_rows, head_dim_v);
}

#endif
