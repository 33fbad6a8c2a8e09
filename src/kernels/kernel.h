/*
 * A kernel is one row of the table in kernel_table.c: what it needs, its tile sizes, its functions.
 *
 * For many query rows tiles lie "lanes across": a block of query rows is the fast axis, so one
 * vector lane is one query row. Max, exp and sum then run down the keys without any reduction
 * across a vector, and scaling a row of the output is a plain vector product:
 *
 *     qt     [head_dim,   ld]  queries, transposed and scaled once per block
 *     scores [n_keys,     ld]  S^T = K Q^T, then exp(S^T - max) in place
 *     acc    [head_dim_v, ld]  O^T += V^T P^T
 *
 * ld (floats) is block_m; `lanes` <= ld is the row count rounded up to the vector length. Lanes beyond the row
 * count hold zeros in qt, anything elsewhere, and are never stored.
 *
 * For few query rows (decode) that leaves lanes empty, and tiles lie "rows along": one vector holds columns of
 * one row, K and V are read in their own type where they lie, and every element of them once for all rows:
 *
 *     qt     [rows, ld]  queries, scaled
 *     scores [rows, ld]  S = Q K^T, then exp(S - max)
 *     acc    [rows, ld]  O += P V
 *
 * ld is at least the largest of head_dim, head_dim_v and block_n, rounded up to FLASHC_COLUMN_MULTIPLE.
 * Columns up to the next multiple of the vector length are 0 in qt, anything elsewhere.
 */
#ifndef FLASHC_KERNEL_H
#define FLASHC_KERNEL_H

#include "common.h"

/* No kernel's block_m may be larger: arrays of this size stand on the stack. */
#define FLASHC_MAX_BLOCK_M 128

/* Columns of tiles that lie rows along: no vector takes more. */
#define FLASHC_COLUMN_MULTIPLE 32

/* An operand by_row is told the addresses of this many rows beyond its tile: of the rows that will be asked for next,
 * or, where there are none, of the last row again. All may be prefetched. Those that fill the tile's rows up to a
 * multiple of FLASHC_COLUMN_MULTIPLE may even be multiplied: their products are not used. */
#define FLASHC_ROWS_AHEAD 96

/* Rows of some tensor that are not evenly spaced (the heads of a group are stacked): one pointer a row. */
typedef struct flashc_rows {
    const void *const *row;
    flashc_dtype dtype;
    int64_t col_stride; /* elements */
} flashc_rows;

/* Rows x columns of one tensor, evenly spaced: a tile of K or V, or of its codes. */
typedef struct flashc_tile {
    const void *data;
    flashc_dtype dtype;
    int64_t row_stride, col_stride; /* elements; of Q8_0, whose columns are contiguous, blocks and 1 */
} flashc_tile;

/* Bytes of a cache line and of a page of memory, as prefetches count them. */
enum { FLASHC_CACHE_LINE = 64, FLASHC_MEMORY_PAGE = 4096 };

/* Rows of memory that will be needed soon; none if n_rows is 0. */
typedef struct flashc_upcoming {
    const char *row; /* the first; the others follow by row_stride */
    int64_t n_rows, row_stride, row_bytes; /* bytes */
} flashc_upcoming;

/* How many such lists a tile carries; the first is needed first. */
enum { FLASHC_UPCOMING = 2 };

/* Bytes that may be prefetched when row number `row` of a tile is multiplied. */
typedef struct flashc_start {
    int64_t row;
    const char *first;
    int64_t n;
} flashc_start;

/* A tile of K or V as the matrix products take it (see flashc_operand). They may spread prefetches of the upcoming
 * rows between their own loads. */
typedef struct flashc_kv_tile {
    const void *data;
    flashc_dtype dtype;
    int64_t row_stride;     /* elements */
    const void *const *row; /* for operands by_row, instead of data: where each row is, and FLASHC_ROWS_AHEAD more */
    const float *scale;     /* of each row; NULL: 1. The products do not use it: see scale_keys */
    const flashc_start *start; /* beside row: NULL, or in order of rows, the last with row INT64_MAX */
    flashc_upcoming upcoming[FLASHC_UPCOMING];
} flashc_kv_tile;

/* Vector functions of one instruction set and layout. [row][col] is an element of a tile in that layout, `lanes` the
 * number of its rows rounded up to row_multiple. */
typedef struct flashc_vector_ops {
    bool rows_along;  /* which layout */
    int row_multiple; /* lanes across: the vector length; rows along: 1 */
    int col_multiple; /* of qt's columns. Lanes across: 1, or elements of a group (bf16); rows along: a vector's */
    bool groups_weights; /* softmax leaves the weights rounded to bf16, in groups of keys; else they are f32 */

    /* Queries: dst[row][col] = factor * src[row][col] of a float type; rows up to the next multiple of row_multiple,
     * and columns up to col_multiple's, become 0. */
    void (*load_rows)(void *dst, int64_t ld, flashc_rows src, int64_t n_rows, int64_t n_cols, float factor);

    /* A plain array, whatever the layout: dst[row*ld + col] = src[row][col], 0 for n_cols <= col < ld. */
    void (*load)(float *dst, int64_t ld, flashc_tile src, int64_t n_rows, int64_t n_cols);

    /* scores = softcap tanh(scores / softcap), to about 6 u of each. */
    void (*softcap)(float *scores, int64_t ld, int64_t n_keys, int64_t lanes, float softcap);

    /* scores = bias == -inf ? -inf : scores + bias (a hidden key is hidden also where its score is NaN), the bias
     * straight from its own rows. FLASHC_BOOL is a bias of 0 where true, -inf where false. */
    void (*add_rows)(float *scores, int64_t ld, flashc_rows bias, int64_t n_rows, int64_t n_keys);

    /* scores[row][key] *= scale[key], in f32: of K's rows after qk; of V's on P before pv, unless V is packed. The
     * array goes on to a whole number of vectors. */
    void (*scale_keys)(float *scores, int64_t ld, int64_t n_keys, int64_t lanes, const float *scale);

    /* scores[row][key] -= slope[row] |distance[row] - key|; both arrays have lanes elements. */
    void (*alibi)(float *scores, int64_t ld, int64_t n_keys, int64_t lanes, const float *slope, const float *distance);

    /* scores[row][key] = -inf unless first[row] <= key < last[row]. */
    void (*hide)(float *scores, int64_t ld, int64_t n_keys, int64_t lanes, const int32_t *first, const int32_t *last);

    /* One step of the online softmax over a tile of scores (natural units, -inf = hidden):
     * row_max' = max(row_max, scores), scores = exp(scores - row_max') as pv takes it,
     * correction = exp(row_max - row_max'), row_sum = row_sum * correction + sum of the new scores.
     * The caller multiplies acc by correction. */
    void (*softmax)(float *scores, int64_t ld, int64_t n_keys, int64_t lanes, float *row_max, float *row_sum,
                    float *correction);

    /* row[i] = first + i * stride, n addresses; of rows along alone. */
    void (*point)(const void **row, const void *first, int64_t stride, int64_t n);

    /* True if rows 0 .. n_rows and columns 0 .. n_cols of acc hold neither NaN nor infinity. */
    bool (*all_finite)(const float *acc, int64_t ld, int64_t n_rows, int64_t n_cols);

    /* dst[row][col] = acc[row][col] * factor[row], + 0 so that no -0 comes out, rounded to dtype. */
    void (*store_rows)(void *const *dst, flashc_dtype dtype, int64_t col_stride, const float *acc, int64_t ld,
                             int64_t n_rows, int64_t n_cols, const float *factor);
} flashc_vector_ops;

/* Floats from a tile's row, or column, to the next. */
static inline int64_t flashc_row_step(const flashc_vector_ops *vector, int64_t ld)
{
    return vector->rows_along ? ld : 1;
}

static inline int64_t flashc_col_step(const flashc_vector_ops *vector, int64_t ld)
{
    return vector->rows_along ? 1 : ld;
}

/*
 * Q K^T is summed in pieces of this many elements of head_dim (bf16: groups), and the pieces are added. Of that comes
 * min(head_dim, 64) + head_dim/64 in flashc.h's bound: each step of a sum may round by u A. (Where all terms are
 * alike, one chain of 192 was off by 17 u A.) It costs about 2 % of the speed at head_dim 128. Rows along, a chain is
 * head_dim through the vector length: so many elements a lane.
 */
enum { FLASHC_QK_DEPTH = 64 };

#define FLASHC_DTYPE_BIT(dtype) (1u << (dtype))

/* The types of K and V. */
#define FLASHC_CACHE_TYPES                                                                                             \
    (FLASHC_DTYPE_BIT(FLASHC_F32) | FLASHC_DTYPE_BIT(FLASHC_F16) | FLASHC_DTYPE_BIT(FLASHC_BF16) |                     \
     FLASHC_DTYPE_BIT(FLASHC_I8) | FLASHC_DTYPE_BIT(FLASHC_F8_E4M3) | FLASHC_DTYPE_BIT(FLASHC_F8_E5M2) |               \
     FLASHC_DTYPE_BIT(FLASHC_Q8_0))

/* function(dtype, ...) of K's or V's type, with a constant in dtype's place for what is inlined there. */
#define FLASHC_OF_CACHE_TYPE(dtype, function, ...)                                                                     \
    switch (dtype) {                                                                                                   \
    case FLASHC_F32: function(FLASHC_F32, __VA_ARGS__); break;                                                         \
    case FLASHC_F16: function(FLASHC_F16, __VA_ARGS__); break;                                                         \
    case FLASHC_BF16: function(FLASHC_BF16, __VA_ARGS__); break;                                                       \
    case FLASHC_I8: function(FLASHC_I8, __VA_ARGS__); break;                                                           \
    case FLASHC_F8_E4M3: function(FLASHC_F8_E4M3, __VA_ARGS__); break;                                                 \
    case FLASHC_F8_E5M2: function(FLASHC_F8_E5M2, __VA_ARGS__); break;                                                 \
    case FLASHC_Q8_0: function(FLASHC_Q8_0, __VA_ARGS__); break;                                                       \
    case FLASHC_BOOL: break;                                                                                           \
    }

/*
 * How K or V must lie to be multiplied: where it lies in the caller's memory, if it is of one of the types in_place,
 * its columns are contiguous and a multiple of col_multiple, and its rows are no closer than blas_rows asks for;
 * otherwise as a copy of one tile. Copies are rows of f32, with zeros up to col_multiple, or what pack makes.
 */
typedef struct flashc_operand {
    unsigned in_place; /* sum of FLASHC_DTYPE_BIT */
    int col_multiple;
    bool blas_rows; /* BLAS's rule: a distance of rows that is a positive int and no less than their length */
    bool by_row;    /* is told the address of each row, which may lie anywhere (in pages) */
    /* NULL, or makes a copy of n_rows rows of src, in no more bytes than a whole tile of f32 takes; returns it. */
    flashc_kv_tile (*pack)(void *dst, flashc_tile src, int64_t n_rows, int64_t n_cols);
} flashc_operand;

/* The two matrix products of a tile, here as they are lanes across. */
typedef struct flashc_gemm_ops {
    flashc_operand k, v;
    bool scales_scores; /* qk multiplies the scores by factor, where queries could not hold the product; else it is 1 */

    /* scores[n_keys, lanes] = factor * K [n_keys, head_dim] * qt [head_dim, lanes] */
    void (*qk)(float *scores, flashc_kv_tile k, const void *qt, int64_t ld, int64_t n_keys, int64_t lanes,
               int64_t head_dim, float factor);
    /* acc[head_dim_v, lanes] = acc * correction[lane] + V^T [head_dim_v, n_keys] * p [n_keys, lanes] */
    void (*pv)(float *acc, flashc_kv_tile v, const void *p, int64_t ld, int64_t n_keys, int64_t lanes,
               int64_t head_dim_v, const float *correction);
} flashc_gemm_ops;

/* f32 rows, as a plain GEMM takes them. */
#define FLASHC_F32_OPERAND                                                                                             \
    {                                                                                                                  \
        .in_place = FLASHC_DTYPE_BIT(FLASHC_F32), .col_multiple = 1, .blas_rows = true                                 \
    }

/* What an instruction set's file exports: lanes across (f32) and rows along (decode). */
typedef struct flashc_isa {
    flashc_vector_ops vector;
    flashc_gemm_ops gemm;
} flashc_isa;

extern const flashc_isa flashc_f32_generic, flashc_f32_avx2, flashc_f32_avx512, flashc_f32_neon;
extern const flashc_isa flashc_bf16_avx512, flashc_bf16_neon;
extern const flashc_isa flashc_decode_generic, flashc_decode_avx2, flashc_decode_avx512, flashc_decode_neon;
extern const flashc_isa flashc_decode_bf16_avx512;

typedef struct flashc_block_shape {
    int64_t block_m; /* query rows per tile, a multiple of row_multiple, at most FLASHC_MAX_BLOCK_M */
    int64_t whole_m; /* so many rows, at least block_m, are one block if there are no more: keys are read once then */
    int64_t block_n; /* keys per tile */
} flashc_block_shape;

typedef struct flashc_kernel_row {
    const char *name, *description;
    unsigned cpu_features; /* FLASHC_CPU_* it needs */
    bool uses_openblas;
    bool bf16; /* rounds inputs and weights to bf16 */
    int64_t most_rows; /* query rows per K/V head that it takes; 0: any number */
    const char *too_many_rows; /* says so: "at most ..." */
    const flashc_vector_ops *vector;
    const flashc_gemm_ops *gemm;
    flashc_block_shape (*block_shape)(int64_t head_dim, int64_t head_dim_v);
} flashc_kernel_row;

/* The table, best first. */
int flashc_kernel_rows(void);
const flashc_kernel_row *flashc_kernel_row_at(int index);

/* Why this machine cannot run the row at all; NULL if it can. Loads OpenBLAS for a row that uses it. */
const char *flashc_kernel_unavailable(const flashc_kernel_row *row);

/* Why the row refuses a call with so many query rows per K/V head: "at most ..."; NULL if it takes it. */
const char *flashc_kernel_too_many_rows(const flashc_kernel_row *row, int64_t n_rows);

/* What of a call's shape decides between rows. */
typedef struct flashc_kernel_shape {
    int64_t n_rows; /* query rows per K/V head */
    int64_t head_dim, head_dim_v;
    bool masked; /* causal, window, block mask, mask or bias */
    flashc_dtype k_dtype, v_dtype;
    bool allows_bf16; /* inputs and weights may be rounded to it */
} flashc_kernel_shape;

/* Why a row whose instructions the CPU has is not taken unless it is named: OpenBLAS cannot run, or it would be slow
 * here; NULL if it may be. Pure: CPU, OpenBLAS build and shape decide, never a timing. OpenBLAS is loaded only if the
 * others do not decide. */
const char *flashc_kernel_not_preferred(const flashc_kernel_row *row, const flashc_kernel_shape *shape);

/* The OpenBLAS that is loaded, "none: " and why it could not be, or "none" in a build without it. */
const char *flashc_kernel_blas_name(void);

/* What multiplies the row's tiles, for explain. */
const char *flashc_kernel_gemm_name(const flashc_kernel_row *row);

#endif
