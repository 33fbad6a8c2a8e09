/* AVX-512F: 16 floats a vector, 32 registers: 8 x 3 accumulators, 3 loads, 1 broadcast; rows along 16
 * accumulators, 4 loads of K and one of a query, or up to 8 of V and a broadcast. */
#include "kernels/avx512.h"

enum { GEMM_ROWS = 8, GEMM_VECS = 3, ROW_ACCUMULATORS = 16 };

#include "kernels/f32_tile.h"
#include "kernels/f32_gemm.h"
#include "kernels/decode_f32.h"
#include "kernels/decode_tile.h"

const flashc_isa flashc_f32_avx512 = FLASHC_F32_TILE_ISA;
const flashc_isa flashc_decode_avx512 = FLASHC_DECODE_TILE_ISA(row_load_rows, false);
