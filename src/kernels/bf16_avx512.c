/*
 * AVX-512 with VDPBF16PS: both products on pairs of bf16, 32 multiply-adds an instruction where f32 has 16, summed in
 * f32; the softmax between the products is f32's. Lanes across (see kernel.h):
 *
 *   qt      [head_dim/2, lane, 2]  queries, packed once per block and not scaled: bf16 could not hold scale * q
 *   K       rows as they are: two columns of a row are one broadcast of 32 bits
 *   scores  f32, scaled as they leave the registers
 *   P       [n_keys/2, lane, 2]    rounded to bf16 in place of the scores, two keys together
 *   V       [n_keys/2, column, 2]  packed once per tile for all row blocks of the item: two keys are one broadcast
 *
 * Registers: 8 x 3 accumulators, 3 loads, 1 broadcast, as in f32. VDPBF16PS takes subnormal numbers as 0.
 *
 * Half of f32's products a vector of scores (see f32_avx512.c), as many stores and exps, and a conversion and a
 * permutation for two vectors of weights: of the bf16 peak 83 % at head_dim 128 and 73 to 77 % at 64 on Zen 4, where
 * that softmax takes 11 cycles beside 64; 83 and 78 % on Zen 5.
 *
 * Rows along, for decode (decode_gemm.h):
 *
 *   qt      [rows, 2 ld]  bf16, not scaled
 *   K       rows as they are: a vector has 32 columns of one key
 *   P       f32; PV_KEYS of a row at a time are rounded to bf16, two keys being one broadcast
 *   V       the rows of two keys, interleaved in registers: 2 loads and 2 permutations for 32 columns
 *
 * Per key and four rows at head_dim 128: 32 products, 3.7 ns at two a cycle of Zen 5, 8 permutations for two keys, the
 * sums and conversions as in f32. In L2, of 512 keys: 10.7 ns (14.8 in f32), at 16 rows 31 (48).
 */
#include "kernels/avx512.h"

enum { GEMM_ROWS = 8, GEMM_VECS = 3, BF16_GROUP = 2, ROW_ACCUMULATORS = 16 };

#define FLASHC_GEMM_PAIRS
typedef uint16_t gemm_element;
enum { GEMM_PER_LANE = 2 };

V_INLINE vec v_broadcast(const gemm_element *p)
{
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return _mm512_castsi512_ps(_mm512_set1_epi32(pair));
}

V_INLINE vec v_load_elements(const gemm_element *p) { return _mm512_castsi512_ps(_mm512_loadu_si512(p)); }
V_INLINE vec v_dot(vec a, vec b, vec c) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }

/* Lane by lane the pair (a, b), rounded. */
V_INLINE __m512i pairs_of(vec a, vec b)
{
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    const __m512i lanes = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(lanes, halves);
}

/* Row key/2 of P lies over the scores of a key that is not later, which are read by then. */
V_INLINE void store_weights(float *column, int64_t ld, int64_t key, vec p0, vec p1)
{
    _mm512_storeu_si512(column + key / 2 * ld, pairs_of(p0, p1));
}

V_INLINE void store_last_weight(float *column, int64_t ld, int64_t key, vec p)
{
    store_weights(column, ld, key, p, v_set1(0.0f));
}

#include "kernels/f32_tile.h"

static void group_load_rows(void *dst, int64_t ld, flashc_rows src, int64_t n_rows, int64_t n_cols, float factor)
{
    (void)factor; /* 1: see scales_scores */
    uint16_t *out = dst;
    for (int64_t row = 0; row < n_rows; row += VL)
        for (int64_t col = 0; col < n_cols; col += VL) {
            const int64_t cols = flashc_min(VL, n_cols - col);
            vec block[VL];
            load_block(block, src, row, flashc_min(VL, n_rows - row), col, cols);
            v_transpose(block);
            for (int64_t i = 0; i < cols; i += 2) /* beyond cols the block holds 0 */
                _mm512_storeu_si512(out + (col + i) * ld + row * 2, pairs_of(block[i], block[i + 1]));
        }
}

static void store_columns(uint16_t *dst, vec x, int64_t count)
{
    const __mmask16 mask = (__mmask16)((1u << count) - 1u);
    _mm512_mask_storeu_epi16(dst, mask, _mm512_zextsi256_si512((__m256i)_mm512_cvtneps_pbh(x)));
}

/* Of two rows of 32 columns, the pairs of 16 from col on. */
V_INLINE __m512i pair_indices(int16_t col)
{
    const __m512i first = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                                           37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    return _mm512_add_epi16(first, _mm512_set1_epi16(col));
}

/* Whole vectors of bf16 columns of two rows, as they are; returns the columns done. */
V_INLINE int64_t interleave(uint16_t *out, const uint16_t *a, const uint16_t *b, int64_t n_cols)
{
    int64_t col = 0;
    for (; col + 2 * VL <= n_cols; col += 2 * VL) {
        const __m512i x = _mm512_loadu_si512(a + col), y = _mm512_loadu_si512(b + col);
        _mm512_storeu_si512(out + 2 * col, _mm512_permutex2var_epi16(x, pair_indices(0), y));
        _mm512_storeu_si512(out + 2 * col + 2 * VL, _mm512_permutex2var_epi16(x, pair_indices(VL), y));
    }
    return col;
}

/* Pairs of rows, column by column; 0 for the second of the last where there is none. */
static flashc_kv_tile pack_row_groups(void *dst, flashc_tile src, int64_t n_rows, int64_t n_cols)
{
    uint16_t *out = dst;
    for (int64_t row = 0; row < n_rows; row += 2) {
        uint16_t *to = out + row * n_cols;
        int64_t col = 0;
        if (src.dtype == FLASHC_BF16 && src.col_stride == 1 && row + 1 < n_rows) {
            const uint16_t *a = (const uint16_t *)src.data + row * src.row_stride;
            col = interleave(to, a, a + src.row_stride, n_cols);
        }
        for (; col < n_cols; col += VL) {
            const vec a = load_columns(src, row, col, n_cols);
            const vec b = row + 1 < n_rows ? load_columns(src, row + 1, col, n_cols) : v_set1(0.0f);
            const __mmask16 mask = (__mmask16)((1u << flashc_min(VL, n_cols - col)) - 1u);
            _mm512_mask_storeu_epi32(to + col * 2, mask, pairs_of(a, b));
        }
    }
    return (flashc_kv_tile){.data = dst, .dtype = FLASHC_BF16, .row_stride = 2 * n_cols};
}

#include "kernels/bf16_tile.h"
#include "kernels/decode_rows.h"

/* 32 columns of a row; of types other than bf16 rounded. */
V_INLINE vec load_products(flashc_dtype dtype, const void *row, int64_t column)
{
    if (dtype == FLASHC_BF16)
        return v_load_elements((const uint16_t *)row + column);
    return (vec)_mm512_cvtne2ps_pbh(load_vector(row, dtype, column + VL), load_vector(row, dtype, column));
}

static void pairs_load_rows(void *dst, int64_t ld, flashc_rows src, int64_t n_rows, int64_t n_cols, float factor)
{
    (void)factor; /* 1: see scales_scores */
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t col = 0; col < flashc_round_up(n_cols, COLUMNS); col += VL) {
            const int64_t count = flashc_max(0, flashc_min(VL, n_cols - col));
            store_columns((uint16_t *)dst + row * GEMM_PER_LANE * ld + col, load_row(src, row, col, count), VL);
        }
}

/* See decode_f32.h. */
V_INLINE const gemm_element *decode_weights(int rows, const float *p, int64_t *ld, gemm_element room[4][PV_KEYS])
{
    for (int r = 0; r < rows; r++)
        for (int key = 0; key < PV_KEYS; key += VL)
            store_columns(room[r] + key, v_load(p + r * *ld + key), VL);
    *ld = PV_KEYS;
    return room[0];
}

/* See decode_f32.h. */
V_INLINE void pv_keys(int rows, int vecs, flashc_dtype dtype, const void *const *v, int64_t there, int64_t column,
                      const gemm_element *p, int64_t ld, vec *sum)
{
    const int64_t in_block = column_in_block(vecs, dtype, column);
    const char *a = at_column(dtype, v[0], column), *b = at_column(dtype, v[1], column);
    vec weight[4];
    for (int r = 0; r < rows; r++)
        weight[r] = v_broadcast(p + r * ld);
    for (int j = 0; j < vecs; j += GEMM_PER_LANE) {
        const __m512i x = (__m512i)load_products(dtype, a, in_block + j * VL);
        const __m512i y = there > 1 ? (__m512i)load_products(dtype, b, in_block + j * VL) : _mm512_setzero_si512();
        const vec low = (vec)_mm512_permutex2var_epi16(x, pair_indices(0), y);
        const vec high = (vec)_mm512_permutex2var_epi16(x, pair_indices(VL), y);
        for (int r = 0; r < rows; r++) {
            sum[r * vecs + j] = v_dot(weight[r], low, sum[r * vecs + j]);
            sum[r * vecs + j + 1] = v_dot(weight[r], high, sum[r * vecs + j + 1]);
        }
    }
}

#include "kernels/decode_tile.h"

const flashc_isa flashc_bf16_avx512 = FLASHC_BF16_TILE_ISA;
const flashc_isa flashc_decode_bf16_avx512 = FLASHC_DECODE_TILE_ISA(pairs_load_rows, true);
