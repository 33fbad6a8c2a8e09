/*
 * A kernel is one row of the table in kernel_table.c: what it needs, its tile sizes, its functions.
 *
 * All of them work on tiles that lie "lanes across": a block of query rows is the fast axis, so one
 * vector lane is one query row. Max, exp and sum then run down the keys without any reduction
 * across a vector, and scaling a row of the output is a plain vector product:
 *
 *     qt     [head_dim,   ld]  queries, transposed and scaled once per block
 *     scores [n_keys,     ld]  S^T = K Q^T, then exp(S^T - max) in place
 *     acc    [head_dim_v, ld]  O^T += V^T P^T
 *
 * ld (floats) is the kernel's block_m; `lanes` <= ld is the row count rounded up to the kernel's
 * vector length. Lanes beyond the row count hold zeros in qt, anything elsewhere, and are never stored.
 */
#ifndef FLASHC_KERNEL_H
#define FLASHC_KERNEL_H

#include "common.h"

/* No kernel's block_m may be larger: arrays of this size stand on the stack. */
#define FLASHC_MAX_BLOCK_M 128

/* Rows of some tensor that are not evenly spaced (the heads of a group are stacked): one pointer a row. */
typedef struct flashc_rows {
    const void *const *row;
    flashc_dtype dtype;
    int64_t col_stride; /* elements */
} flashc_rows;

/* Rows x columns of one tensor, evenly spaced: a tile of K or V. */
typedef struct flashc_tile {
    const void *data;
    flashc_dtype dtype;
    int64_t row_stride, col_stride; /* elements */
} flashc_tile;

/* Rows of memory that will be needed soon; none if n_rows is 0. */
typedef struct flashc_upcoming {
    const char *row;
    int64_t n_rows, row_stride, row_bytes; /* bytes */
} flashc_upcoming;

/* The tile in f32 with contiguous rows, as the GEMM takes it. A GEMM may spread prefetches of the upcoming rows
 * between its own loads. */
typedef struct flashc_f32_tile {
    const float *data;
    int64_t ld;
    flashc_upcoming upcoming;
} flashc_f32_tile;

/* Vector functions of one instruction set. */
typedef struct flashc_vector_ops {
    int vector_length; /* floats */

    /* dst[col*ld + row] = factor * src[row][col]; rows n_rows .. round_up(n_rows) become 0.
     * FLASHC_BOOL loads as a bias: 0 where true, -inf where false. */
    void (*load_transposed)(float *dst, int64_t ld, flashc_rows src, int64_t n_rows, int64_t n_cols, float factor);

    /* dst[row*n_cols + col] = src[row][col]. */
    void (*load)(float *dst, flashc_tile src, int64_t n_rows, int64_t n_cols);

    /* scores = bias == -inf ? -inf : scores + bias (a hidden key stays hidden, also where NaN). */
    void (*add_bias)(float *scores, const float *bias, int64_t ld, int64_t n_keys, int64_t lanes);

    /* scores[key][lane] = -inf unless first[lane] <= key < last[lane]. */
    void (*hide)(float *scores, int64_t ld, int64_t n_keys, int64_t lanes, const int32_t *first, const int32_t *last);

    /* One step of the online softmax over a tile of scores (natural units, -inf = hidden):
     * row_max' = max(row_max, scores), scores = exp(scores - row_max'),
     * correction = exp(row_max - row_max'), row_sum = row_sum * correction + sum of the new scores.
     * The caller multiplies acc by correction. */
    void (*softmax)(float *scores, int64_t ld, int64_t n_keys, int64_t lanes, float *row_max, float *row_sum,
                    float *correction);

    /* True if acc[0 .. n_cols)[0 .. n_rows) holds neither NaN nor infinity. */
    bool (*all_finite)(const float *acc, int64_t ld, int64_t n_rows, int64_t n_cols);

    /* dst[row][col] = acc[col*ld + row] * factor[row], + 0 so that no -0 comes out, rounded to dtype. */
    void (*store_transposed)(void *const *dst, flashc_dtype dtype, int64_t col_stride, const float *acc, int64_t ld,
                             int64_t n_rows, int64_t n_cols, const float *factor);
} flashc_vector_ops;

/*
 * Q K^T is summed in pieces of this many elements of head_dim, and the pieces are added. That holds the
 * rounding error of a dot product near the 4 u A of the stated bound for any head_dim, also where all terms are
 * alike and their errors too (one chain of 192 equal terms was off by 17 u A), for about 2 % of the
 * speed at head_dim 128.
 */
enum { FLASHC_QK_DEPTH = 64 };

/* The two matrix products of a tile. */
typedef struct flashc_gemm_ops {
    /* scores[n_keys, lanes] = K [n_keys, head_dim] * qt [head_dim, lanes] */
    void (*qk)(float *scores, flashc_f32_tile k, const float *qt, int64_t ld, int64_t n_keys, int64_t lanes,
               int64_t head_dim);
    /* acc[head_dim_v, lanes] = acc * correction[lane] + V^T [head_dim_v, n_keys] * p [n_keys, lanes] */
    void (*pv)(float *acc, flashc_f32_tile v, const float *p, int64_t ld, int64_t n_keys, int64_t lanes,
               int64_t head_dim_v, const float *correction);
} flashc_gemm_ops;

/* What an instruction set's file exports. */
typedef struct flashc_isa {
    flashc_vector_ops vector;
    flashc_gemm_ops gemm;
} flashc_isa;

extern const flashc_isa flashc_f32_generic, flashc_f32_avx2, flashc_f32_avx512, flashc_f32_neon;

typedef struct flashc_block_shape {
    int64_t block_m; /* query rows per tile, a multiple of vector_length, at most FLASHC_MAX_BLOCK_M */
    int64_t block_n; /* keys per tile */
} flashc_block_shape;

typedef struct flashc_kernel_row {
    const char *name, *description;
    unsigned cpu_features; /* FLASHC_CPU_* it needs */
    bool uses_openblas;
    const flashc_vector_ops *vector;
    const flashc_gemm_ops *gemm;
    flashc_block_shape (*block_shape)(int64_t head_dim, int64_t head_dim_v);
} flashc_kernel_row;

/* The table, best first. */
int flashc_kernel_rows(void);
const flashc_kernel_row *flashc_kernel_row_at(int index);

/* Why this machine cannot run the row at all; NULL if it can. Loads OpenBLAS for a row that uses it. */
const char *flashc_kernel_unavailable(const flashc_kernel_row *row);

/* Why the row is not taken unless it is named: it cannot run, or would be slow here; NULL if it may be. Pure: CPU,
 * OpenBLAS build and shape decide, never a timing. OpenBLAS is loaded only if the others do not decide. */
const char *flashc_kernel_not_preferred(const flashc_kernel_row *row, int64_t head_dim, int64_t head_dim_v);

/* The OpenBLAS that is loaded, "none: " and why it could not be, or "none" in a build without it. */
const char *flashc_kernel_blas_name(void);

/* What multiplies the row's tiles, for explain. */
const char *flashc_kernel_gemm_name(const flashc_kernel_row *row);

#endif
