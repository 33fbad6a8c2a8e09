/*
 * Q K^T and P V for few query rows, over the primitives that f32_tile.h lists. Part of decode_tile.h.
 *
 * Decode is bound by reading K and V, so each of their elements is loaded once for up to four query rows, in its own
 * type, and from L1 or L2 for the rows beyond. Q K^T keeps VL dot products in VL registers (4 rows x VL/4
 * keys, 2 x VL/2 or 1 x VL) and sums them across lanes together, 45 operations for 16 products with AVX-512. P V
 * keeps ROW_ACCUMULATORS registers of O while it runs down the keys. Per key and four rows at head_dim 128, f32,
 * AVX-512: 64 FMAs, in loops of 54 and 56 instructions (27 and 28 for 16 FMAs), some 15 for that sum, 4 of exp, and
 * 48 that prefetch 1 KiB: 180 in all, about 60 cycles, where one core's share of the memory's bandwidth takes 100
 * or more. bf16 has 16 shifts more and half the bytes; int8 has 32 conversions (q8_0 and 8 scales with 16 products) and
 * a quarter: there the instructions are the limit. Zen 5, 16,384 keys of 8 heads, two threads, 54 GB/s of reads: groups
 * of 1, 2 and 4 queries read int8 with 43, 35 and 30 GB/s, q8_0 with 43, 37 and 29.
 *
 * The prefetches stand between blocks of four keys: in bursts of 64 lines they held up the loads of K and V themselves
 * (16,384 keys of 8 heads, one Zen 5 core: f32 6.3 -> 5.0 ms, bf16 2.3 -> 2.0 ms, bf16 in pages of 4 KiB 4.8 -> 2.7 ms).
 * They ask for L1, though the next tile only fits in L2: see prefetch_step() (f32 5.4 -> 4.8 ms, bf16 2.7 -> 2.3 ms that
 * day; without any 11 and 5.8). One prefetch a line between the loads of the same line of the tile before was no faster,
 * nor were tiles of half or a quarter of the keys.
 */
#ifndef FLASHC_DECODE_GEMM_H
#define FLASHC_DECODE_GEMM_H

#include "kernels/f32_copy.h"
#include "kernels/kernel.h"
#include "kernels/tile_gemm.h"

/* Row number row of a tile. */
V_INLINE const char *tile_row(flashc_dtype dtype, flashc_kv_tile tile, int64_t row)
{
    return tile.row ? tile.row[row]
                    : (const char *)tile.data + row * tile.row_stride * (int64_t)flashc_element_size(dtype);
}

/* Where a column lies, of Q8_0 the block that has it. Beside a variable address the compiler wants constant indices. */
V_INLINE const char *at_column(flashc_dtype dtype, const char *row, int64_t column)
{
    return row + column / flashc_dtype_columns(dtype) * (int64_t)flashc_element_size(dtype);
}

/* One chain each for `rows` queries and `keys` keys; sum[r*stride + j] += q[r] . k[j] */
V_INLINE void dot_registers(int rows, int keys, int stride, flashc_dtype dtype, const char *const k[4], int64_t column,
                            const float *q, int64_t ld, int64_t depth, vec *sum)
{
    const int vecs = dtype == FLASHC_Q8_0 ? FLASHC_Q8_0_COLUMNS / VL : 1; /* those that share a scale */
    for (int64_t d = 0; d < depth; d += vecs * VL)
        for (int i = 0; i < vecs; i++) {
            vec kd[4];
            for (int j = 0; j < keys; j++)
                kd[j] = load_vector(at_column(dtype, k[j], column + d), dtype, i * VL);
            for (int r = 0; r < rows; r++) {
                const vec qd = v_load(q + r * ld + d + i * VL);
                for (int j = 0; j < keys; j++)
                    sum[r * stride + j] = v_fma(qd, kd[j], sum[r * stride + j]);
            }
        }
}

/* The step-th `keys` of the keys from first on; those beyond the last are the last again, and not used. */
V_INLINE void dot_step(int rows, int keys, int step, flashc_dtype dtype, flashc_kv_tile k, int64_t column,
                       int64_t first, int64_t n_keys, const float *q, int64_t ld, int64_t depth, vec sum[VL],
                       prefetcher *upcoming)
{
    prefetch_step(upcoming, PREFETCH_TO_L1);
    const char *row[4];
    for (int j = 0; j < keys; j++)
        row[j] = tile_row(dtype, k, flashc_min(first + step * keys + j, n_keys - 1));
    dot_registers(rows, keys, VL / rows, dtype, row, column, q, ld, depth, sum + step * keys);
}

/* Keys of a step: as many rows of K are in registers. */
V_INLINE int step_keys(int rows)
{
    return VL / rows < 4 ? VL / rows : 4;
}

/* VL scores: `rows` rows by VL / rows keys from first on. rows is 1, 2 or 4; all constants after inlining. */
V_INLINE void dot_block(int rows, flashc_dtype dtype, flashc_kv_tile k, int64_t column, int64_t first, int64_t n_keys,
                        const float *q, int64_t ld, int64_t depth, float *scores, prefetcher *upcoming)
{
    const int keys = step_keys(rows), steps = VL / rows / keys;
    vec sum[VL];
    for (int i = 0; i < VL; i++)
        sum[i] = v_set1(0.0f);
    dot_step(rows, keys, 0, dtype, k, column, first, n_keys, q, ld, depth, sum, upcoming);
    if (steps > 1)
        dot_step(rows, keys, 1, dtype, k, column, first, n_keys, q, ld, depth, sum, upcoming);
    if (steps > 2) {
        dot_step(rows, keys, 2, dtype, k, column, first, n_keys, q, ld, depth, sum, upcoming);
        dot_step(rows, keys, 3, dtype, k, column, first, n_keys, q, ld, depth, sum, upcoming);
    }
    float out[VL];
    v_store(out, v_sum_each(sum));
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < VL / rows; j++) {
            float *s = scores + r * ld + first + j;
            *s = column == 0 ? out[r * (VL / rows) + j] : *s + out[r * (VL / rows) + j];
        }
}

/* Scores of VL keys from first on and all rows: four rows at a time, then two, then one. */
V_INLINE void dot_keys(flashc_dtype dtype, flashc_kv_tile k, int64_t column, int64_t first, int64_t n_keys,
                       const float *q, int64_t ld, int64_t n_rows, int64_t depth, float *scores, prefetcher *upcoming)
{
    int64_t row = 0;
    for (; row + 4 <= n_rows; row += 4)
        for (int64_t key = first; key < flashc_min(first + VL, n_keys); key += VL / 4)
            dot_block(4, dtype, k, column, key, n_keys, q + row * ld, ld, depth, scores + row * ld, upcoming);
    for (; row + 2 <= n_rows; row += 2)
        for (int64_t key = first; key < flashc_min(first + VL, n_keys); key += VL / 2)
            dot_block(2, dtype, k, column, key, n_keys, q + row * ld, ld, depth, scores + row * ld, upcoming);
    if (row < n_rows)
        dot_block(1, dtype, k, column, first, n_keys, q + row * ld, ld, depth, scores + row * ld, upcoming);
}

V_INLINE void qk_typed(flashc_dtype dtype, float *scores, flashc_kv_tile k, const float *q, int64_t ld,
                       int64_t n_keys, int64_t n_rows, int64_t head_dim)
{
    const int64_t columns = flashc_round_up(head_dim, VL);
    /* Steps with VL keys, of the first one, two or all groups of four rows. */
    const int64_t steps = n_rows >= 4 ? n_rows / 4 * 4 : VL / step_keys(n_rows >= 2 ? 2 : 1);
    prefetcher upcoming = prefetch_over(k.upcoming, n_keys / VL * steps);
    for (int64_t first = 0; first < n_keys; first += VL)
        for (int64_t column = 0; column < columns; column += FLASHC_QK_DEPTH * VL)
            dot_keys(dtype, k, column, first, n_keys, q + column, ld, n_rows,
                     flashc_min(columns - column, FLASHC_QK_DEPTH * VL), scores, &upcoming);
}

static void row_qk(float *scores, flashc_kv_tile k, const void *q, int64_t ld, int64_t n_keys, int64_t n_rows,
                   int64_t head_dim, float factor)
{
    (void)factor;
    FLASHC_OF_CACHE_TYPE(k.dtype, qk_typed, scores, k, q, ld, n_keys, n_rows, head_dim);
}

/* Keys of V between two steps of the prefetcher. */
enum { KEYS_PER_PREFETCH = 4 };

/* acc[r][0 .. vecs) = acc * correction[r] + sum over keys of p[r][key] * V[key]; constants after inlining: rows and
 * vecs, their product at most ROW_ACCUMULATORS, and dtype. */
V_INLINE void pv_registers(int rows, int vecs, flashc_dtype dtype, flashc_kv_tile v, int64_t column, int64_t n_keys,
                           const float *p, int64_t ld, float *acc, const float *correction, prefetcher *upcoming)
{
    vec sum[4][8];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < vecs; j++)
            sum[r][j] = v_set1(0.0f);
    /* Strips are of whole blocks, or divide one. */
    const int64_t in_block = vecs * VL % flashc_dtype_columns(dtype) ? column % flashc_dtype_columns(dtype) : 0;
    for (int64_t first = 0; first < n_keys; first += KEYS_PER_PREFETCH) {
        prefetch_step(upcoming, PREFETCH_TO_L1);
        const int64_t end = flashc_min(first + KEYS_PER_PREFETCH, n_keys);
        for (int64_t key = first; key < end; key++) {
            const char *row = at_column(dtype, tile_row(dtype, v, key), column);
            vec pr[4];
            for (int r = 0; r < rows; r++)
                pr[r] = v_set1(p[r * ld + key]);
            for (int j = 0; j < vecs; j++) {
                const vec x = load_vector(row, dtype, in_block + j * VL);
                for (int r = 0; r < rows; r++)
                    sum[r][j] = v_fma(pr[r], x, sum[r][j]);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < vecs; j++) {
            float *a = acc + r * ld + column + j * VL;
            v_store(a, v_fma(v_load(a), v_set1(correction[r]), sum[r][j]));
        }
}

/* Vectors of a strip: as many as the registers hold. */
V_INLINE int strip_vecs(int rows)
{
    return ROW_ACCUMULATORS / rows < 8 ? ROW_ACCUMULATORS / rows : 8;
}

/* Such strips, then vector by vector. */
V_INLINE void pv_rows(int rows, flashc_dtype dtype, flashc_kv_tile v, int64_t columns, int64_t n_keys, const float *p,
                      int64_t ld, float *acc, const float *correction, prefetcher *upcoming)
{
    const int vecs = strip_vecs(rows);
    int64_t column = 0;
    for (; column + vecs * VL <= columns; column += vecs * VL)
        pv_registers(rows, vecs, dtype, v, column, n_keys, p, ld, acc, correction, upcoming);
    for (; column < columns; column += VL)
        pv_registers(rows, 1, dtype, v, column, n_keys, p, ld, acc, correction, upcoming);
}

V_INLINE void pv_typed(flashc_dtype dtype, float *acc, flashc_kv_tile v, const float *p, int64_t ld, int64_t n_keys,
                       int64_t n_rows, int64_t head_dim_v, const float *correction)
{
    const int64_t columns = flashc_round_up(head_dim_v, VL);
    /* Over the strips of the first rows: later ones find V in L1 or L2. */
    const int64_t strips = columns / (strip_vecs(n_rows >= 4 ? 4 : n_rows >= 2 ? 2 : 1) * VL);
    prefetcher upcoming = prefetch_over(v.upcoming, flashc_max(1, strips) * flashc_ceil_div(n_keys, KEYS_PER_PREFETCH));
    int64_t row = 0;
    for (; row + 4 <= n_rows; row += 4)
        pv_rows(4, dtype, v, columns, n_keys, p + row * ld, ld, acc + row * ld, correction + row, &upcoming);
    for (; row + 2 <= n_rows; row += 2)
        pv_rows(2, dtype, v, columns, n_keys, p + row * ld, ld, acc + row * ld, correction + row, &upcoming);
    if (row < n_rows)
        pv_rows(1, dtype, v, columns, n_keys, p + row * ld, ld, acc + row * ld, correction + row, &upcoming);
}

static void row_pv(float *acc, flashc_kv_tile v, const void *p, int64_t ld, int64_t n_keys, int64_t n_rows,
                   int64_t head_dim_v, const float *correction)
{
    FLASHC_OF_CACHE_TYPE(v.dtype, pv_typed, acc, v, p, ld, n_keys, n_rows, head_dim_v, correction);
}

#endif
