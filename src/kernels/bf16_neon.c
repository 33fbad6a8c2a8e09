/*
 * NEON with BFMMLA: both products on groups of four bf16, 16 multiply-adds an instruction where FMLA has 4. It adds to
 * a 2 x 2 block of f32 (two keys, or two columns of V, by two query rows) the products of two rows of four by two rows
 * of four. Lanes across (see kernel.h); the softmax between the products is f32's.
 *
 *   qt      of four columns and four rows 32 bytes: rows 0 and 1, four columns each, in one line of ld floats, rows 2
 *           and 3 in the next. Not scaled: bf16 could not hold scale * q
 *   K       rows as they are: four columns of two rows are one operand
 *   scores  f32, scaled as they leave the registers
 *   P       as qt, four keys together, rounded to bf16 in place of the scores
 *   V       [n_keys/4, column, 4]  packed once per tile for all row blocks of the item
 *
 * So both products take operands of queries and P straight from memory, and a vector of four query rows stays in its
 * own four columns of the tile, where its scores were.
 *
 * Registers: 4 x 6 accumulators of 2 x 2, 6 of queries or P, 1 of K or V. BFMMLA takes subnormal numbers as 0 and
 * rounds its sums to odd.
 *
 * Instructions of a tile of 48 queries x 128 keys (scripts/count_instructions; gcc 12), and of packing its V, once for
 * all query rows of an item:
 *
 *               head_dim   Q K^T     per product   softmax   per score   P V       per product   packing V
 *   bf16_neon      64       60,876   2.48 BFMMLA   61,896      10.1       45,841   1.87 BFMMLA   4,780
 *   f32_neon       64      139,128   1.42 FMLA     50,738       8.3      141,456   1.44 FMLA
 *   f32_avx2       64      108,355   2.20 FMA      20,372       3.3      102,970   2.09 FMA
 *   bf16_neon     128      111,052   2.26 BFMMLA   61,896      10.1       90,945   1.85 BFMMLA   8,364
 *   f32_neon      128      286,471   1.46 FMLA     50,738       8.3      282,264   1.44 FMLA
 *   f32_avx2      128      209,068   2.13 FMA      20,372       3.3      205,210   2.09 FMA
 *
 * Ideal: at head_dim 64 2 x 24,576 BFMMLA, in 24,576 cycles where two start in each. A step of the inner loop has 24 of
 * them with 8 loads of 8 bytes, 4 moves that join them and 6 loads of 16 in Q K^T, and with 10 loads of 16 in P V. What
 * share is reached is not measured: the kernel has run under emulation only.
 */
#include "kernels/neon.h"

enum { GEMM_ROWS = 8, GEMM_VECS = 3, BF16_GROUP = 4 };

#define FLASHC_GEMM_PAIRS
typedef uint16_t gemm_element;
enum { GEMM_PER_LANE = 2 };

/* Bytes, for memory that holds floats at other times. */
V_INLINE uint32x4_t load_bits(const void *p) { return vreinterpretq_u32_u8(vld1q_u8(p)); }
V_INLINE void store_bits(void *p, uint32x4_t x) { vst1q_u8(p, vreinterpretq_u8_u32(x)); }

V_INLINE uint16x4_t rounded(vec x) { return vreinterpret_u16_bf16(vcvt_bf16_f32(x)); }

/* Groups of four keys of four query rows, as pairs (keys 0 and 1, 2 and 3) of each row. */
V_INLINE void store_groups(float *groups, int64_t ld, uint32x4_t first, uint32x4_t second)
{
    store_bits(groups, vzip1q_u32(first, second));
    store_bits(groups + ld, vzip2q_u32(first, second));
}

/* Lines key/4 * 2 and one more of P lie over the scores of keys that are not later, which are read by then. */
V_INLINE void store_weights(float *column, int64_t ld, int64_t key, vec p0, vec p1)
{
    const uint16x4x2_t zipped = vzip_u16(rounded(p0), rounded(p1));
    const uint32x4_t pairs = vreinterpretq_u32_u16(vcombine_u16(zipped.val[0], zipped.val[1]));
    float *groups = column + key / BF16_GROUP * 2 * ld;
    if (key % BF16_GROUP == 0)
        store_groups(groups, ld, pairs, vdupq_n_u32(0));
    else
        store_groups(groups, ld, vuzp1q_u32(load_bits(groups), load_bits(groups + ld)), pairs);
}

V_INLINE void store_last_weight(float *column, int64_t ld, int64_t key, vec p)
{
    store_weights(column, ld, key, p, v_set1(0.0f));
}

/* One group of two rows from a on; of one row alone it is doubled. Of V's columns they lie side by side. */
V_INLINE bfloat16x8_t load_groups(const uint16_t *a, int64_t a_row, int rows)
{
    if (__builtin_constant_p(a_row) && a_row == BF16_GROUP && rows > 1)
        return vreinterpretq_bf16_u16(vld1q_u16(a));
    const uint16x4_t first = vld1_u16(a);
    return vreinterpretq_bf16_u16(vcombine_u16(first, rows > 1 ? vld1_u16(a + a_row) : first));
}

#define FLASHC_OWN_GEMM_SUMS
V_INLINE void gemm_sums(vec sum[GEMM_ROWS][GEMM_VECS], int rows, int vecs, int64_t depth, const uint16_t *a,
                        int64_t a_row, int64_t a_depth, const uint16_t *b, int64_t ldb)
{
    vec block[GEMM_ROWS / 2][2 * GEMM_VECS]; /* rows 2r and 2r + 1, lanes 2j and 2j + 1 */
    for (int r = 0; 2 * r < rows; r++)
        for (int j = 0; j < 2 * vecs; j++)
            block[r][j] = v_set1(0.0f);
    for (int64_t k = 0; k < depth; k++) {
        bfloat16x8_t bk[2 * GEMM_VECS];
        for (int j = 0; j < 2 * vecs; j++)
            bk[j] = vreinterpretq_bf16_u32(load_bits(b + (2 * k + j % 2) * ldb + j / 2 * VL * GEMM_PER_LANE));
        for (int r = 0; 2 * r < rows; r++) {
            const bfloat16x8_t ar = load_groups(a + 2 * r * a_row + k * a_depth, a_row, rows);
            for (int j = 0; j < 2 * vecs; j++)
                block[r][j] = vbfmmlaq_f32(block[r][j], ar, bk[j]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < vecs; j++) {
            const float64x2_t left = vreinterpretq_f64_f32(block[r / 2][2 * j]);
            const float64x2_t right = vreinterpretq_f64_f32(block[r / 2][2 * j + 1]);
            sum[r][j] = vreinterpretq_f32_f64(r % 2 == 0 ? vzip1q_f64(left, right) : vzip2q_f64(left, right));
        }
}

#include "kernels/f32_tile.h"

static void group_load_rows(void *dst, int64_t ld, flashc_rows src, int64_t n_rows, int64_t n_cols, float factor)
{
    (void)factor; /* 1: see scales_scores */
    float *out = dst;
    for (int64_t row = 0; row < n_rows; row += VL)
        for (int64_t col = 0; col < n_cols; col += BF16_GROUP) {
            vec block[VL];
            load_block(block, src, row, flashc_min(VL, n_rows - row), col, flashc_min(VL, n_cols - col));
            for (int half = 0; half < 2; half++)
                store_bits(out + (col / 2 + half) * ld + row,
                           vreinterpretq_u32_u16(vcombine_u16(rounded(block[2 * half]), rounded(block[2 * half + 1]))));
        }
}

static void store_columns(uint16_t *dst, vec x, int64_t count)
{
    (void)count; /* VL: a row of whole groups */
    vst1_u16(dst, rounded(x));
}

/* Whole vectors of bf16 columns of four rows, as they are; returns the columns done. */
V_INLINE int64_t interleave(uint16_t *out, const uint16_t *a, int64_t row_stride, int64_t n_cols)
{
    int64_t col = 0;
    for (; col + 8 <= n_cols; col += 8) {
        uint16x8x4_t rows;
        for (int i = 0; i < BF16_GROUP; i++)
            rows.val[i] = vld1q_u16(a + i * row_stride + col);
        vst4q_u16(out + BF16_GROUP * col, rows);
    }
    return col;
}

/* Groups of four rows, column by column; 0 where there is no row. */
static flashc_kv_tile pack_row_groups(void *dst, flashc_tile src, int64_t n_rows, int64_t n_cols)
{
    uint16_t *out = dst;
    for (int64_t row = 0; row < n_rows; row += BF16_GROUP) {
        uint16_t *to = out + row * n_cols;
        int64_t col = 0;
        if (src.dtype == FLASHC_BF16 && src.col_stride == 1 && row + BF16_GROUP <= n_rows)
            col = interleave(to, (const uint16_t *)src.data + row * src.row_stride, src.row_stride, n_cols);
        for (; col < n_cols; col += VL) {
            uint16x4x4_t rows;
            uint16_t group[VL * BF16_GROUP];
            for (int i = 0; i < BF16_GROUP; i++)
                rows.val[i] = row + i < n_rows ? rounded(load_columns(src, row + i, col, n_cols)) : vdup_n_u16(0);
            vst4_u16(group, rows);
            memcpy(to + BF16_GROUP * col, group,
                   (size_t)(flashc_min(VL, n_cols - col) * BF16_GROUP) * sizeof(uint16_t));
        }
    }
    return (flashc_kv_tile){.data = dst, .dtype = FLASHC_BF16, .row_stride = BF16_GROUP * n_cols};
}

#include "kernels/bf16_tile.h"

const flashc_isa flashc_bf16_neon = FLASHC_BF16_TILE_ISA;
