/*
 * NEON of AArch64: 4 floats a vector, 32 registers: 4 x 6 accumulators, 4 of K or V, 2 of Q^T or P.
 *
 * FMLA multiplies by one lane of a register, so K and V are loaded four floats at a time and never broadcast (LD1R
 * also takes a slot of the vector units on many cores): a register holds four k of one row of K, or one k of four
 * rows of V^T. An FMA costs 0.29 loads of 16 bytes, where broadcasts would make it 0.42.
 *
 * Instructions of a tile of 48 queries x 128 keys (scripts/count_instructions; gcc 12):
 *
 *              head_dim   Q K^T     per FMA   softmax   per score   P V       per FMA
 *   f32_neon      64      136,316    1.39      50,738      8.3      141,836    1.44
 *   f32_avx2      64       88,590    1.80      18,034      2.9       92,138    1.87
 *   f32_neon     128      282,040    1.43      50,738      8.3      282,863    1.44
 *   f32_avx2     128      178,374    1.81      18,034      2.9      183,565    1.87
 *
 * A vector of scores takes 28 instructions in the loop of exp against 23, seven of them copies of constants that FMLA
 * overwrites.
 *
 * Ideal: at head_dim 64 the tile's 2 x 98,304 FMAs in 98,304 cycles with two units (Neoverse N1), in half with four
 * (V1). What share is reached is not measured: the kernel has run under emulation only.
 */
#include "kernels/neon.h"

enum { GEMM_ROWS = 4, GEMM_VECS = 6, ROW_ACCUMULATORS = 16 };

/* c + a * b[lane]: FMLA takes one lane of a register, so no broadcast is needed. */
V_INLINE vec fma_lane(vec c, vec a, vec b, int lane)
{
    switch (lane) {
    case 0: return vfmaq_laneq_f32(c, a, b, 0);
    case 1: return vfmaq_laneq_f32(c, a, b, 1);
    case 2: return vfmaq_laneq_f32(c, a, b, 2);
    default: return vfmaq_laneq_f32(c, a, b, 3);
    }
}

/* 1, 2 or 4 floats, none of memory beyond them. */
V_INLINE vec load_count(const float *p, int count)
{
    if (count == 4)
        return vld1q_f32(p);
    if (count == 2)
        return vcombine_f32(vld1_f32(p), vdup_n_f32(0.0f));
    return vsetq_lane_f32(*p, vdupq_n_f32(0.0f), 0);
}

typedef vec gemm_block[GEMM_ROWS][GEMM_VECS];

/* sum[r][j] += a * b[j] at one k; a is lane k of ar[r], or, where k < 0, lane r of ar[0]. Two vectors of b at a
 * time: one load instruction, and two registers. */
V_INLINE void add_products(gemm_block sum, int rows, int vecs, const vec ar[GEMM_ROWS], int k, const float *b)
{
    for (int j = 0; j < vecs; j += 2) {
        const int pair = vecs - j < 2 ? 1 : 2;
        vec bj[2];
        for (int i = 0; i < pair; i++)
            bj[i] = v_load(b + (j + i) * VL);
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < pair; i++)
                sum[r][j + i] = k < 0 ? fma_lane(sum[r][j + i], bj[i], ar[0], r)
                                      : fma_lane(sum[r][j + i], bj[i], ar[r], k);
    }
}

#define FLASHC_OWN_GEMM_SUMS
V_INLINE void gemm_sums(gemm_block sum, int rows, int vecs, int64_t depth, const float *a, int64_t a_row,
                        int64_t a_depth, const float *b, int64_t ldb)
{
    vec ar[GEMM_ROWS];
    int64_t k = 0;
    if (a_row == 1 && !(__builtin_constant_p(a_depth) && a_depth == 1)) { /* one k of all rows in a register */
        for (; k < depth; k++) {
            ar[0] = load_count(a + k * a_depth, rows);
            add_products(sum, rows, vecs, ar, -1, b + k * ldb);
        }
        return;
    }
    for (; k + 4 <= depth; k += 4) { /* four k of one row in a register */
        for (int r = 0; r < rows; r++)
            ar[r] = v_load(a + r * a_row + k);
        add_products(sum, rows, vecs, ar, 0, b + k * ldb);
        add_products(sum, rows, vecs, ar, 1, b + (k + 1) * ldb);
        add_products(sum, rows, vecs, ar, 2, b + (k + 2) * ldb);
        add_products(sum, rows, vecs, ar, 3, b + (k + 3) * ldb);
    }
    for (; k < depth; k++) {
        for (int r = 0; r < rows; r++)
            ar[r] = load_count(a + r * a_row + k, 1);
        add_products(sum, rows, vecs, ar, 0, b + k * ldb);
    }
}

#include "kernels/f32_tile.h"
#include "kernels/f32_gemm.h"
#include "kernels/decode_f32.h"
#include "kernels/decode_tile.h"

const flashc_isa flashc_f32_neon = FLASHC_F32_TILE_ISA;
const flashc_isa flashc_decode_neon = FLASHC_DECODE_TILE_ISA(row_load_rows, false);
