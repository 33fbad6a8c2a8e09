/*
 * AVX-512F: 16 floats a vector, 32 registers: 8 x 3 accumulators, 3 loads, 1 broadcast; rows along 16 accumulators,
 * 4 loads of K and one of a query, or up to 8 of V and a broadcast.
 *
 * What bounds prefill, in cycles a vector of 16 scores (48 query rows x 128 keys: 384 vectors a tile):
 *
 *   products   2 head_dim FMAs, one a cycle on Zen 4, two on Zen 5
 *   stores     1 of scores per 64 of head_dim, 1 of weights, head_dim/128 of acc. Beside FMAs a 512-bit store takes 1.6
 *              to 2 cycles of both FMA pipes on Zen 4, one on Zen 5, as two of 256 bits do; beside additions and
 *              multiplications none. 1,536 FMAs and 24 stores take 1,581 cycles on Zen 4 (Q K^T: 97 % of peak), 3,072
 *              and 24 take 3,131 (P V: 98 %).
 *   softmax    6 multiply-adds, and on Zen 4 a compare, in the FMA pipes; max, 3 additions, permutation, shift and
 *              integer addition in others: 14 operations in halves, 4 at a time, are 7 cycles. Measured in L1: 9.0 on
 *              Zen 4, 5.2 on Zen 5. (In units of log2, with two multiply-adds less: 8.1.)
 *
 * head_dim 64: 131 + 9 = 140 cycles on Zen 4, 91 % of the FMA peak; tiles in L2 reach 89.7 %, calls 87 %: 1.4 % are
 * queries, outputs and the walk. On Zen 5 69.5 cycles, 92 %; reached 90.4 % and 85 %. Weights made from the scores'
 * registers, with no score stored, were no faster on Zen 5: gcc 12 and clang 14 spill 16 of the 24 sums. Tiles of 64 to
 * 256 keys are within 1 % of each other on both.
 */
#include "kernels/avx512.h"

enum { GEMM_ROWS = 8, GEMM_VECS = 3, ROW_ACCUMULATORS = 16 };

#include "kernels/f32_tile.h"
#include "kernels/f32_gemm.h"
#include "kernels/decode_f32.h"
#include "kernels/decode_tile.h"

const flashc_isa flashc_f32_avx512 = FLASHC_F32_TILE_ISA;
const flashc_isa flashc_decode_avx512 = FLASHC_DECODE_TILE_ISA(row_load_rows, false);
