/* The kernel table, best first; the last row always fits. */
#include "config.h"
#include "cpu.h"
#include "kernels/gemm_openblas.h"
#include "kernels/kernel.h"

/*
 * Tiles of the built-in GEMM. block_m = 48 is one panel of 3 AVX-512 vectors (2 of AVX2 and of NEON, 6 of
 * the generic row's pairs): the panel of qt (head_dim up to 128) and the panel of P (block_n keys) take
 * 24 KiB each and stay in L1 while K or V streams past (96 to 192 keys came out within 1 % of each other on a
 * Xeon, 128 ahead by 1 % on Zen 5); up to 64 rows that are all there are make one block of two panels of 2 vectors, so
 * that long keys are read once (16 queries of a group of 4, 16,384 keys, bf16: 1.30x of two blocks). A narrow block
 * also wastes less of the causal diagonal than a wide one: 24 keys a row on average, 2.3 % of the work at seqlen 2048.
 * (Products without what the diagonal hides: 2.5 to 4 % at 512 tokens, 0.5 % at 2048, Zen 4; but P V's chains would end
 * where the block's other rows do, and a row's bits depend on those.) Several blocks share each loaded K/V tile
 * (blocks_per_item in plan.h).
 */
static flashc_block_shape built_in_blocks(int64_t head_dim, int64_t head_dim_v)
{
    (void)head_dim;
    (void)head_dim_v;
    return (flashc_block_shape){.block_m = 48, .whole_m = 64, .block_n = 128};
}

/*
 * Rows along, for about as many query rows as a vector has lanes: with fewer, lanes across leaves some idle, and it
 * must convert halves first; with more, it needs no sums across vectors. (AVX2, f32, head_dim 128, 16 rows: 1,345
 * instructions a key, counted, against about 1,050 lanes across.) Tiles of 256 keys at head_dim 128 share what a tile
 * costs beside products (int8, one row: 0.5 ns of 7.3 a key less than tiles of 128): rows are prefetched into L1, not
 * tiles into L2. Powers of two divide a key piece.
 */
enum { DECODE_ROWS = 16 };

static flashc_block_shape decode_blocks(int64_t head_dim, int64_t head_dim_v)
{
    const int64_t columns = flashc_max(head_dim, head_dim_v);
    int64_t block_n = 256;
    while (block_n > 32 && block_n * columns > 32768)
        block_n /= 2;
    return (flashc_block_shape){.block_m = DECODE_ROWS, .whole_m = DECODE_ROWS, .block_n = block_n};
}

#if FLASHC_HAVE_OPENBLAS
/* OpenBLAS's small-matrix path: the best of a sweep over multiples of 64 x 4, one thread, AVX-512
 * (Zen 4: 84/89/92/91 % of the FMA peak at head_dim 32/64/128/256); block_m * block_n * head_dim stays
 * within that path's limit of 1e6 (OpenBLAS 0.3.21, SkylakeX permit function). */
static flashc_block_shape openblas_blocks(int64_t head_dim, int64_t head_dim_v)
{
    int64_t d = flashc_max(head_dim, head_dim_v);
    if (d <= 32)
        return (flashc_block_shape){.block_m = 128, .whole_m = 128, .block_n = 240};
    if (d <= 64)
        return (flashc_block_shape){.block_m = 64, .whole_m = 64, .block_n = 240};
    if (d <= 128)
        return (flashc_block_shape){.block_m = 64, .whole_m = 64, .block_n = 120};
    return (flashc_block_shape){.block_m = 64, .whole_m = 64, .block_n = 60};
}
#endif

enum {
    NEEDS_AVX2 = FLASHC_CPU_AVX2 | FLASHC_CPU_FMA | FLASHC_CPU_F16C,
    NEEDS_AVX512 = FLASHC_CPU_AVX512F,
    NEEDS_AVX512_BF16 = FLASHC_CPU_AVX512F | FLASHC_CPU_AVX512BF16,
    NEEDS_NEON = FLASHC_CPU_NEON,
    NEEDS_NEON_BF16 = FLASHC_CPU_NEON | FLASHC_CPU_BF16,
};

#define BUILT_IN(isa) \
    .vector = &flashc_f32_##isa.vector, .gemm = &flashc_f32_##isa.gemm, .block_shape = built_in_blocks
#define OPENBLAS(isa) \
    .vector = &flashc_f32_##isa.vector, .gemm = &flashc_gemm_openblas, .block_shape = openblas_blocks, \
    .uses_openblas = true
#define BF16(isa) \
    .vector = &flashc_bf16_##isa.vector, .gemm = &flashc_bf16_##isa.gemm, .block_shape = built_in_blocks, .bf16 = true
#define DECODE(isa, rows) \
    .vector = &flashc_decode_##isa.vector, .gemm = &flashc_decode_##isa.gemm, .block_shape = decode_blocks, \
    .most_rows = rows, \
    .too_many_rows = "at most " #rows " query rows per K/V head"

static const flashc_kernel_row rows[] = {
#if FLASHC_HAVE_X86_KERNELS
    {"decode_bf16_avx512", "AVX-512 products of bf16 for few query rows: K and V read once, in their own type",
     NEEDS_AVX512_BF16, DECODE(bf16_avx512, 16), .bf16 = true},
    {"decode_avx512", "AVX-512 for few query rows: K and V read once, in their own type", NEEDS_AVX512,
     DECODE(avx512, 16)},
    {"bf16_avx512", "AVX-512 products of bf16, softmax in f32", NEEDS_AVX512_BF16, BF16(avx512)},
#if FLASHC_HAVE_OPENBLAS
    {"f32_avx512_openblas", "AVX-512 softmax, tiles by OpenBLAS", NEEDS_AVX512, OPENBLAS(avx512)},
#endif
    {"f32_avx512", "AVX-512 softmax and tiles", NEEDS_AVX512, BUILT_IN(avx512)},
    {"decode_avx2", "AVX2 for few query rows: K and V read once, in their own type", NEEDS_AVX2, DECODE(avx2, 16)},
#if FLASHC_HAVE_OPENBLAS
    {"f32_avx2_openblas", "AVX2 softmax, tiles by OpenBLAS", NEEDS_AVX2, OPENBLAS(avx2)},
#endif
    {"f32_avx2", "AVX2 softmax and tiles", NEEDS_AVX2, BUILT_IN(avx2)},
#endif
#if FLASHC_HAVE_AARCH64_KERNELS
    {"decode_neon", "NEON for few query rows: K and V read once, in their own type", NEEDS_NEON, DECODE(neon, 4)},
    {"bf16_neon", "NEON products of bf16, softmax in f32", NEEDS_NEON_BF16, BF16(neon)},
    {"f32_neon", "NEON softmax and tiles", NEEDS_NEON, BUILT_IN(neon)},
#endif
    {"decode_generic", "portable C for few query rows", 0, DECODE(generic, 4)},
#if FLASHC_HAVE_OPENBLAS
    {"f32_generic_openblas", "portable C softmax, tiles by OpenBLAS", 0, OPENBLAS(generic)},
#endif
    {"f32_generic", "portable C, no BLAS and no SIMD needed", 0, BUILT_IN(generic)},
};

int flashc_kernel_rows(void)
{
    return (int)(sizeof rows / sizeof rows[0]);
}

const flashc_kernel_row *flashc_kernel_row_at(int index)
{
    return &rows[index];
}

const char *flashc_kernel_unavailable(const flashc_kernel_row *row)
{
    const char *missing = flashc_cpu_missing(row->cpu_features);
    if (missing)
        return missing;
#if FLASHC_HAVE_OPENBLAS
    if (row->uses_openblas)
        return flashc_openblas_unusable();
#endif
    return NULL;
}

const char *flashc_kernel_too_many_rows(const flashc_kernel_row *row, int64_t n_rows)
{
    return row->most_rows > 0 && n_rows > row->most_rows ? row->too_many_rows : NULL;
}

/* NULL, or why products of bf16 do not pay: those in f32 take no longer than memory takes to deliver K and V of bf16.
 * 16,384 keys at head_dim 128, time of products of bf16 over that of f32: Zen 5, one thread, 1.03 to 0.98 at 1, 2 and 4
 * rows, 0.81 at 8. Zen 4, two threads, 1.05 to 1.07 at 1 and 2 rows, 1.0 at 3, 0.8 at 4. */
static const char *f32_products_are_hidden(int64_t n_rows)
{
    if (flashc_cpu_amd_family() == FLASHC_AMD_ZEN_3_AND_4)
        return n_rows > 3 ? NULL : "with at most 3 query rows per K/V head f32 is as fast here, and rounds no weights";
    return n_rows > 4 ? NULL : "with at most 4 query rows per K/V head f32 is as fast, and rounds no weights";
}

/*
 * The most query rows for which decode's kernels are faster than tiles, which take as long for 1 row as for 16. Tiles
 * convert what is not of the type that is multiplied into a copy, which costs them more than decode, so that it may
 * have more rows; f8_e4m3 costs it much in every four. Where no number is given, they are even at 16, its most.
 *
 * AVX-512, Zen 4, 16,384 keys at head_dim 128, one thread, ms decode / tiles, at 8, 10, 12 and 16 rows: f32 8.7 / 10.7,
 * 10.8 / 10.7, 11.3 / 10.6, 13.9 / 10.7; bf16 4.6 / 6.5, 6.0 / 6.8, 6.7 / 6.9, 8.5 / 6.6. (AVX2 there, f32, at 5, 6
 * and 8 rows: 7.6 / 14.0, 9.8 / 14.3, 10.3 / 15.4; bf16 6.6 / 18, 7.4 / 18, 9.5 / 17.)
 *
 * AVX2, Zen 3, 8,192 keys at head_dim 128, tiles / decode at 10, 12, 14 and 16 rows: f32 1.03, 1.03, 0.89, 0.78;
 * f16 1.40, 1.35, 1.21, 1.05; bf16 1.39, 1.33, 1.16; int8 1.6, 1.35, 1.10, 1.08; q8_0 1.2, 1.6, 1.1, 0.94; f8_e5m2
 * 1.3, 0.97, 1.05, 0.92; f8_e4m3 0.78, 0.78, 0.67, 0.66. Head_dim 64 and 256: f32 1.04 and 1.07 at 10, bf16 1.6 and
 * 1.35, 1.2 at 12 of either, 1.0 to 1.06 at 14 (medians of 6 to 10 rounds, quartiles 10 to 20 % apart).
 */
static const char *tiles_are_faster(const flashc_kernel_row *row, const flashc_kernel_shape *shape)
{
    if (!row->vector->rows_along)
        return NULL;
    const bool avx512 = row->cpu_features & FLASHC_CPU_AVX512F, avx2 = row->cpu_features & FLASHC_CPU_AVX2;
    const bool f32 = shape->k_dtype == FLASHC_F32 && shape->v_dtype == FLASHC_F32;
    const bool bf16 = shape->k_dtype == FLASHC_BF16 && shape->v_dtype == FLASHC_BF16 && shape->allows_bf16 &&
                      !flashc_cpu_missing(NEEDS_AVX512_BF16);
    const bool e4m3 = shape->k_dtype == FLASHC_F8_E4M3 || shape->v_dtype == FLASHC_F8_E4M3;
    if ((avx512 || avx2) && f32 && !row->bf16 && shape->n_rows > 10)
        return "with more than 10 query rows per K/V head, f32 is faster in tiles";
    if (avx512 && bf16 && shape->n_rows > 12)
        return "with more than 12 query rows per K/V head, bf16 is faster in tiles";
    if (avx2 && e4m3 && shape->n_rows > 8)
        return "with more than 8 query rows per K/V head, f8_e4m3 is faster in tiles";
    if (avx2 && shape->n_rows > 12)
        return "with more than 12 query rows per K/V head, tiles are faster";
    return NULL;
}

const char *flashc_kernel_not_preferred(const flashc_kernel_row *row, const flashc_kernel_shape *shape)
{
#if FLASHC_HAVE_OPENBLAS
    if (row->uses_openblas)
        return flashc_openblas_not_preferred(shape);
#endif
    const char *faster = tiles_are_faster(row, shape);
    if (faster || !row->bf16 || !row->vector->rows_along)
        return faster;
    const char *hidden = f32_products_are_hidden(shape->n_rows);
    if (hidden)
        return hidden;
    if (shape->head_dim % row->gemm->k.col_multiple != 0 || shape->head_dim_v % row->gemm->v.col_multiple != 0)
        return "head_dim or head_dim_v is no multiple of 32: rows would be copied";
    return NULL;
}

const char *flashc_kernel_blas_name(void)
{
#if FLASHC_HAVE_OPENBLAS
    return flashc_openblas_name();
#else
    return "none";
#endif
}

const char *flashc_kernel_gemm_name(const flashc_kernel_row *row)
{
    return row->uses_openblas ? flashc_kernel_blas_name() : "built-in";
}
