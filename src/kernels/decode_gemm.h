/*
 * Q K^T and P V for few query rows, over the primitives that f32_tile.h lists. Part of decode_tile.h.
 *
 * Decode is bound by reading K and V, so each of their elements is loaded once for up to four query rows, in its own
 * type, and from L1 for the rows beyond. Q K^T keeps VL dot products in VL registers (4 rows x VL/4 keys, 2 x VL/2 or
 * 1 x VL) and sums them across lanes together, 45 operations for 16 products with AVX-512. P V keeps ROW_ACCUMULATORS
 * registers of O while it runs down PV_KEYS keys, strip by strip. Per key and four rows at head_dim 128, f32, AVX-512:
 * 64 FMAs, 7.4 ns on Zen 5, which takes 11 with the sums and loads (the inner loops unrolled twice and four times;
 * not unrolled 13 to 15), 0.9 for the softmax, 0.8 for where rows are. One core reads the key's 1 KiB in 24 ns. bf16
 * has 16 shifts more and half the bytes; int8 has 32 conversions (q8_0 and 8 scales with 16 products) and a quarter:
 * there the instructions are the limit.
 *
 * Memory is kept busy by prefetches some rows ahead of those being multiplied. What mattered (16,384 keys of 8 heads,
 * f32, one Zen 5 core; without any 8 ms): bursts of 2 KiB between steps of four keys, in order of address, from one
 * instruction in one loop (3.4 ms for the loops alone; the same lines by two, eight or 32 instructions in turn 4.1 to
 * 5.0; by 8 KiB, or line by line between the loads, 3.9 to 4.6), 8 to 12 KiB ahead into L1 (4 KiB 4.5 ms; a whole tile
 * ahead, which only fits in L2, 4.9). Tiles of other sizes made no difference, huge pages 8 %.
 *
 * In pages of a cache this alone took 1.7 times as long (16 rows of 8 KiB, in random order): the hardware fetches along
 * a run of rows only after some lines of it, and not over its end, and each run waited for that and for its address to
 * be translated. So the first KiB of each run, and of each page of memory in it, is prefetched twice as far ahead: see
 * find_starts(), and prefetch_starts() below; then 1.25 times (a loop of reads alone: from 25 to 36 GB/s, of 44 in one
 * array). Distances from 4 to 64 KiB, two to four runs in turn, every second line, other instructions: none of these
 * alone came under 1.5, nor did huge pages.
 */
#ifndef FLASHC_DECODE_GEMM_H
#define FLASHC_DECODE_GEMM_H

#include "kernels/f32_copy.h"
#include "kernels/kernel.h"

#include <string.h>

/* Where a column lies, of Q8_0 the block that has it. Beside a variable address the compiler wants constant indices. */
V_INLINE const char *at_column(flashc_dtype dtype, const void *row, int64_t column)
{
    return (const char *)row + column / flashc_dtype_columns(dtype) * (int64_t)flashc_element_size(dtype);
}

/* How far ahead to prefetch: bytes that stay in L1, and take longer to multiply than memory to answer. */
enum { PREFETCH_AHEAD = 8192 };

/* The same in rows. */
V_INLINE int64_t rows_ahead(int64_t row_bytes)
{
    return flashc_min(PREFETCH_AHEAD / flashc_max(1, row_bytes), FLASHC_ROWS_AHEAD);
}

V_INLINE void prefetch_bytes(const char *first, int64_t n)
{
    for (int64_t byte = 0; byte < n; byte += 64)
        __builtin_prefetch(first + byte, 0, 3);
}

/* Rows that are one run of memory, in one loop: its instruction is then seen to go through memory evenly. */
V_INLINE void prefetch_rows(int64_t n, const void *const *row, int64_t row_bytes)
{
    const char *first = row[0], *last = row[n - 1];
    if (last - first == (n - 1) * row_bytes)
        prefetch_bytes(first, n * row_bytes);
    else
        for (int64_t i = 0; i < n; i++)
            prefetch_bytes(row[i], row_bytes);
}

/* Of a tile's starts from `next` on those due before a row; returns the first that is not. Not inlined, and called when
 * no sums are in registers: the loops around it are compiled as they were (in each step of them: 5 to 10 % more time
 * for all caches, pages or not). */
static __attribute__((noinline)) const flashc_start *prefetch_starts(const flashc_start *next, int64_t row)
{
    for (; next->row < row; next++)
        prefetch_bytes(next->first, next->n);
    return next;
}

/* sum[r*stride + j] += q[r] . k[j] over `vecs` vectors from d on. */
V_INLINE void dot_vectors(int rows, int keys, int stride, int vecs, flashc_dtype dtype, const char *const k[4],
                          const float *q, int64_t ld, int64_t d, vec *sum)
{
    for (int i = 0; i < vecs; i++) {
        vec kd[4];
        for (int j = 0; j < keys; j++)
            kd[j] = load_vector(at_column(dtype, k[j], d), dtype, i * VL);
        for (int r = 0; r < rows; r++) {
            const vec qd = v_load(q + r * ld + d + i * VL);
            for (int j = 0; j < keys; j++)
                sum[r * stride + j] = v_fma(qd, kd[j], sum[r * stride + j]);
        }
    }
}

/* One chain each for `rows` queries and `keys` keys; sum[r*stride + j] += q[r] . k[j] */
V_INLINE void dot_registers(int rows, int keys, int stride, flashc_dtype dtype, const void *const *row, int64_t column,
                            const float *q, int64_t ld, int64_t depth, vec *sum)
{
    const int vecs = dtype == FLASHC_Q8_0 ? FLASHC_Q8_0_COLUMNS / VL : 2; /* of Q8_0 those that share a scale */
    const char *k[4];
    for (int j = 0; j < keys; j++)
        k[j] = at_column(dtype, row[j], column);
    const int64_t together = dtype == FLASHC_Q8_0 ? depth : depth / (vecs * VL) * (vecs * VL);
    int64_t d = 0;
    for (; d < together; d += vecs * VL)
        dot_vectors(rows, keys, stride, vecs, dtype, k, q, ld, d, sum);
    for (; d < depth; d += VL)
        dot_vectors(rows, keys, stride, 1, dtype, k, q, ld, d, sum);
}

/* Keys of a step: as many rows of K are in registers. */
V_INLINE int step_keys(int rows)
{
    return VL / rows < 4 ? VL / rows : 4;
}

/* VL scores: `rows` rows by VL / rows keys, k being where these lie. rows is 1, 2 or 4; all constants after inlining.
 * ahead: rows from k on to those that are to be prefetched, 0: none; key: k's number in the tile, start: its next. */
V_INLINE void dot_block(int rows, flashc_dtype dtype, const void *const *k, int64_t column, const float *q, int64_t ld,
                        int64_t depth, float *scores, int64_t ahead, int64_t row_bytes, int64_t key,
                        const flashc_start **start)
{
    const int keys = VL / rows, step = step_keys(rows);
    if (ahead && *start)
        *start = prefetch_starts(*start, key + keys);
    vec sum[VL];
    for (int i = 0; i < VL; i++)
        sum[i] = v_set1(0.0f);
    for (int first = 0; first < keys; first += step) {
        if (ahead)
            prefetch_rows(step, k + ahead + first, row_bytes);
        dot_registers(rows, step, keys, dtype, k + first, column, q, ld, depth, sum + first);
    }
    float out[VL];
    v_store(out, v_sum_each(sum));
    for (int r = 0; r < rows; r++)
        if (column == 0)
            memcpy(scores + r * ld, out + r * keys, (size_t)keys * sizeof(float));
        else
            for (int j = 0; j < keys; j++)
                scores[r * ld + j] += out[r * keys + j];
}

/* Scores of VL keys and all rows: four rows at a time, then two, then one. The first to come prefetch. */
V_INLINE void dot_keys(flashc_dtype dtype, const void *const *k, int64_t column, const float *q, int64_t ld,
                       int64_t n_rows, int64_t depth, float *scores, int64_t ahead, int64_t row_bytes, int64_t first,
                       const flashc_start **start)
{
    int64_t row = 0;
    for (; row + 4 <= n_rows; row += 4, ahead = 0)
        for (int key = 0; key < VL; key += VL / 4)
            dot_block(4, dtype, k + key, column, q + row * ld, ld, depth, scores + row * ld + key, ahead,
                      row_bytes, first + key, start);
    for (; row + 2 <= n_rows; row += 2, ahead = 0)
        for (int key = 0; key < VL; key += VL / 2)
            dot_block(2, dtype, k + key, column, q + row * ld, ld, depth, scores + row * ld + key, ahead,
                      row_bytes, first + key, start);
    if (row < n_rows)
        dot_block(1, dtype, k, column, q + row * ld, ld, depth, scores + row * ld, ahead, row_bytes, first, start);
}

V_INLINE void qk_typed(flashc_dtype dtype, float *scores, flashc_kv_tile k, const float *q, int64_t ld,
                       int64_t n_keys, int64_t n_rows, int64_t head_dim)
{
    const int64_t columns = flashc_round_up(head_dim, VL), row_bytes = flashc_row_bytes(dtype, head_dim);
    const flashc_start *start = k.start;
    for (int64_t first = 0; first < n_keys; first += VL)
        for (int64_t column = 0; column < columns; column += FLASHC_QK_DEPTH * VL)
            dot_keys(dtype, k.row + first, column, q + column, ld, n_rows,
                     flashc_min(columns - column, FLASHC_QK_DEPTH * VL), scores + first,
                     column == 0 ? rows_ahead(row_bytes) : 0, row_bytes, first, &start);
}

static void row_qk(float *scores, flashc_kv_tile k, const void *q, int64_t ld, int64_t n_keys, int64_t n_rows,
                   int64_t head_dim, float factor)
{
    (void)factor;
    FLASHC_OF_CACHE_TYPE(k.dtype, qk_typed, scores, k, q, ld, n_keys, n_rows, head_dim);
}

/* Keys of V whose rows are multiplied strip by strip: they stay in L1 meanwhile. And as many at a time, between
 * prefetches. */
enum { PV_KEYS = 16, PV_STEP = 4 };

/* Rows that are to be prefetched meanwhile, some at each step. */
typedef struct row_prefetcher {
    const void *const *row;
    int64_t left, per_step, row_bytes;
} row_prefetcher;

V_INLINE void prefetch_step_rows(row_prefetcher *p)
{
    const int64_t n = flashc_min(p->per_step, p->left);
    if (n > 0)
        prefetch_rows(n, p->row, p->row_bytes);
    p->row += n;
    p->left -= n;
}

/* sum[r*vecs + j] += p[r][key] * V[key]; weight is room for the p. */
V_INLINE void pv_key(int rows, int vecs, flashc_dtype dtype, const void *v, int64_t column, const float *p, int64_t ld,
                     vec weight[4], vec *sum)
{
    /* Strips are of whole blocks, or divide one. */
    const int64_t in_block = vecs * VL % flashc_dtype_columns(dtype) ? column % flashc_dtype_columns(dtype) : 0;
    const char *row = at_column(dtype, v, column);
    for (int r = 0; r < rows; r++)
        weight[r] = v_set1(p[r * ld]);
    for (int j = 0; j < vecs; j++) {
        const vec x = load_vector(row, dtype, in_block + j * VL);
        for (int r = 0; r < rows; r++)
            sum[r * vecs + j] = v_fma(weight[r], x, sum[r * vecs + j]);
    }
}

/* acc[r][0 .. vecs) = acc * factor[r] + sum over n keys of p[r][key] * V[key]; constants after inlining: rows and
 * vecs, their product at most ROW_ACCUMULATORS, and dtype. */
V_INLINE void pv_registers(int rows, int vecs, flashc_dtype dtype, const void *const *v, int64_t column, int64_t n,
                           const float *p, int64_t ld, float *acc, const float *factor, row_prefetcher *coming)
{
    vec sum[ROW_ACCUMULATORS], weight[4];
    for (int i = 0; i < rows * vecs; i++)
        sum[i] = v_set1(0.0f);
    int64_t key = 0;
    for (; key + PV_STEP <= n; key += PV_STEP) {
        if (coming)
            prefetch_step_rows(coming);
        for (int i = 0; i < PV_STEP; i++)
            pv_key(rows, vecs, dtype, v[key + i], column, p + key + i, ld, weight, sum);
    }
    for (; key < n; key++)
        pv_key(rows, vecs, dtype, v[key], column, p + key, ld, weight, sum);
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < vecs; j++) {
            float *a = acc + r * ld + column + j * VL;
            v_store(a, v_fma(v_load(a), v_set1(factor[r]), sum[r * vecs + j]));
        }
}

/* Strips of as many vectors as the registers hold, then vector by vector. */
V_INLINE void pv_rows(int rows, flashc_dtype dtype, const void *const *v, int64_t columns, int64_t n, const float *p,
                      int64_t ld, float *acc, const float *factor, row_prefetcher *coming)
{
    const int vecs = ROW_ACCUMULATORS / rows < 8 ? ROW_ACCUMULATORS / rows : 8;
    if (coming)
        coming->per_step = flashc_ceil_div(PV_STEP, columns / (vecs * VL) + columns / VL % vecs);
    int64_t column = 0;
    for (; column + vecs * VL <= columns; column += vecs * VL)
        pv_registers(rows, vecs, dtype, v, column, n, p, ld, acc, factor, coming);
    for (; column < columns; column += VL)
        pv_registers(rows, 1, dtype, v, column, n, p, ld, acc, factor, coming);
}

V_INLINE void pv_typed(flashc_dtype dtype, float *acc, flashc_kv_tile v, const float *p, int64_t ld, int64_t n_keys,
                       int64_t n_rows, int64_t head_dim_v, const float *correction)
{
    static const float ones[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    const int64_t columns = flashc_round_up(head_dim_v, VL), row_bytes = flashc_row_bytes(dtype, head_dim_v);
    const flashc_start *start = v.start;
    for (int64_t first = 0; first < n_keys; first += PV_KEYS) {
        if (start)
            start = prefetch_starts(start, first + PV_KEYS);
        const int64_t n = flashc_min(PV_KEYS, n_keys - first);
        row_prefetcher rows = {v.row + first + rows_ahead(row_bytes), n, 0, row_bytes}, *coming = &rows;
        int64_t row = 0;
        for (; row + 4 <= n_rows; row += 4, coming = NULL)
            pv_rows(4, dtype, v.row + first, columns, n, p + row * ld + first, ld, acc + row * ld,
                    first ? ones : correction + row, coming);
        for (; row + 2 <= n_rows; row += 2, coming = NULL)
            pv_rows(2, dtype, v.row + first, columns, n, p + row * ld + first, ld, acc + row * ld,
                    first ? ones : correction + row, coming);
        if (row < n_rows)
            pv_rows(1, dtype, v.row + first, columns, n, p + row * ld + first, ld, acc + row * ld,
                    first ? ones : correction + row, coming);
    }
}

static void row_pv(float *acc, flashc_kv_tile v, const void *p, int64_t ld, int64_t n_keys, int64_t n_rows,
                   int64_t head_dim_v, const float *correction)
{
    FLASHC_OF_CACHE_TYPE(v.dtype, pv_typed, acc, v, p, ld, n_keys, n_rows, head_dim_v, correction);
}

#endif
