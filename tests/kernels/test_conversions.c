/* Each kernel's loads and stores: conversions bit for bit with numerics.h (itself tested against doubles in
 * test_numerics.c), and every edge of a transposition. */
#include "kernels/tiles.h"
#include "support/memory.h"
#include "support/values.h"

#include <math.h>
#include <string.h>

static bool same_bits(float a, float b)
{
    return flashc_bits_from_f32(a) == flashc_bits_from_f32(b);
}

/* All 65,536 patterns of both 16-bit types through load, contiguous and strided. */
static void test_load_converts_every_half(void **state)
{
    (void)state;
    uint16_t *halves = malloc(2 * 65536 * sizeof *halves);
    float *out = floats(65536);
    for (uint32_t i = 0; i < 65536; i++)
        halves[2 * i] = halves[2 * i + 1] = (uint16_t)i;
    for (int stride = 1; stride <= 2; stride++)
        for (int type = FLASHC_F16; type <= FLASHC_BF16; type++) {
            if (stride == 1)
                for (uint32_t i = 0; i < 65536; i++)
                    halves[i] = (uint16_t)i;
            else
                for (uint32_t i = 0; i < 65536; i++)
                    halves[2 * i] = (uint16_t)i;
            const flashc_tile tile = {halves, (flashc_dtype)type, 256 * stride, stride};
            kernel->vector->load(out, 256, tile, 256, 256);
            for (uint32_t i = 0; i < 65536; i++) {
                const float want = type == FLASHC_F16 ? flashc_f32_from_f16((uint16_t)i)
                                                      : flashc_f32_from_bf16((uint16_t)i);
                /* F16C makes signalling NaN quiet; bf16 is a shift: bits agree in both. */
                if (!same_bits(out[i], want))
                    fail_msg("%s: type %d pattern %04x: %08x, expected %08x", kernel->name, type, i,
                             flashc_bits_from_f32(out[i]), flashc_bits_from_f32(want));
            }
        }
    free(halves);
    free(out);
}

/* All 256 codes of the one-byte types through load, contiguous and strided, and Q8_0 blocks of every code. */
static void test_load_converts_every_code(void **state)
{
    (void)state;
    uint8_t codes[512];
    float *out = floats(256);
    for (int stride = 1; stride <= 2; stride++)
        for (int type = FLASHC_I8; type <= FLASHC_F8_E5M2; type++) {
            for (uint32_t i = 0; i < 256; i++)
                codes[i * (uint32_t)stride] = (uint8_t)i;
            const flashc_tile tile = {codes, (flashc_dtype)type, 64 * stride, stride};
            kernel->vector->load(out, 64, tile, 4, 64);
            for (uint32_t i = 0; i < 256; i++) {
                const double want = test_decode((flashc_dtype)type, i);
                const bool same = isnan(want) ? isnan(out[i]) : (double)out[i] == want;
                if (!same || (signbit(out[i]) != 0) != (type != FLASHC_I8 ? i >= 128 : out[i] < 0))
                    fail_msg("%s: type %d code %02x: %a, expected %a", kernel->name, type, i, (double)out[i], want);
            }
        }
    const uint16_t scales[] = {0x3c00, 0x0000, 0x8001, 0x2e66, 0xc500, 0x7bff, 0x0001, 0x3555};
    enum { BYTES = 8 * FLASHC_Q8_0_BYTES };
    guarded_buffer blocks = guarded_alloc(BYTES, false);
    for (int block = 0; block < 8; block++) {
        memcpy(blocks.bytes + block * FLASHC_Q8_0_BYTES, &scales[block], 2);
        for (int i = 0; i < 32; i++)
            blocks.bytes[block * FLASHC_Q8_0_BYTES + 2 + i] = (uint8_t)(32 * block + i);
    }
    const flashc_tile tile = {blocks.bytes, FLASHC_Q8_0, 2, 1};
    kernel->vector->load(out, 64, tile, 4, 64);
    for (uint32_t i = 0; i < 256; i++)
        assert_true((double)out[i] == test_decode(FLASHC_F16, scales[i / 32]) * test_decode(FLASHC_I8, i));
    guarded_free(&blocks);
    free(out);
}

/* Rounding on the way out: random patterns, every exponent, and the exact midpoints of both types. */
static void test_store_rounds_like_numerics(void **state)
{
    (void)state;
    enum { LANES = 16, COLS = 4096 };
    float *acc = floats(LANES * COLS);
    const int64_t ld = kernel->vector->rows_along ? COLS : LANES;
    uint16_t *out = malloc(LANES * COLS * sizeof *out);
    float one[FLASHC_MAX_BLOCK_M];
    for (int i = 0; i < FLASHC_MAX_BLOCK_M; i++)
        one[i] = 1.0f;
    test_rng rng = {7};
    for (int round = 0; round < 20; round++)
        for (int type = FLASHC_F16; type <= FLASHC_BF16; type++)
            for (int stride = 1; stride <= 1 + (round == 0); stride++) {
                const int cols = COLS / stride;
                for (int i = 0; i < LANES * COLS; i++) {
                    uint32_t bits = (uint32_t)test_rng_next(&rng);
                    if (i % 3 == 0) /* near a midpoint of the type's last kept bit */
                        bits = (bits & (type == FLASHC_F16 ? 0xffffe000u : 0xffff0000u)) +
                               (type == FLASHC_F16 ? 0x1000u : 0x8000u) + (uint32_t)(i % 9 / 3) - 1u;
                    acc[i] = flashc_f32_from_bits(bits);
                    if (acc[i] == 0.0f)
                        acc[i] = 0.0f; /* the store turns -0 into +0 */
                }
                void *rows[LANES];
                for (int r = 0; r < LANES; r++)
                    rows[r] = out + r * COLS;
                kernel->vector->store_rows(rows, (flashc_dtype)type, stride, acc, ld, LANES, cols, one);
                for (int r = 0; r < LANES; r++)
                    for (int c = 0; c < cols; c++) {
                        const float x = acc[at(ld, r, c)];
                        const uint16_t got = out[r * COLS + c * stride];
                        const uint16_t want = type == FLASHC_F16 ? flashc_f16_from_f32(x) : flashc_bf16_from_f32(x);
                        const uint16_t infinity = type == FLASHC_F16 ? 0x7c00 : 0x7f80;
                        const bool both_nan = isnan(x) && (got & 0x7fff) > infinity;
                        if (got != want && !both_nan)
                            fail_msg("%s: type %d of %a (%08x): %04x, expected %04x", kernel->name, type, (double)x,
                                     flashc_bits_from_f32(x), got, want);
                    }
            }
    free(acc);
    free(out);
}

/* Transposed load and store, every row and column count around the vector length, against guard pages. */
static void test_transposes_at_every_edge(void **state)
{
    (void)state;
    for (int64_t n_rows = 1; n_rows <= 35; n_rows++)
        for (int64_t n_cols = 1; n_cols <= 35; n_cols++) {
            const int64_t ld = leading(n_cols);
            guarded_buffer src = guarded_alloc((size_t)(n_rows * n_cols) * sizeof(float), false);
            guarded_buffer dst = guarded_alloc((size_t)(n_rows * n_cols) * sizeof(float), false);
            float *tile = floats(tile_size(n_cols)), factor[FLASHC_MAX_BLOCK_M] = {0};
            const void *in[FLASHC_MAX_BLOCK_M];
            void *out[FLASHC_MAX_BLOCK_M];
            for (int64_t r = 0; r < n_rows; r++) {
                in[r] = src.bytes + (size_t)(r * n_cols) * sizeof(float);
                out[r] = dst.bytes + (size_t)(r * n_cols) * sizeof(float);
                factor[r] = (float)(r + 1);
                for (int64_t c = 0; c < n_cols; c++)
                    ((float *)(void *)src.bytes)[r * n_cols + c] = (float)(100 * r + c);
            }
            const flashc_rows rows = {in, FLASHC_F32, 1};
            const float scale = kernel->gemm->scales_scores ? 1.0f : 2.0f;
            kernel->vector->load_rows(tile, ld, rows, n_rows, n_cols, scale);
            const int64_t lanes = flashc_round_up(n_rows, kernel->vector->row_multiple);
            for (int64_t c = 0; c < flashc_round_up(n_cols, kernel->vector->col_multiple); c++)
                for (int64_t r = 0; r < lanes; r++) {
                    const float x = r < n_rows && c < n_cols ? scale * (float)(100 * r + c) : 0.0f;
                    assert_true(query(tile, ld, r, c) == rounded(x));
                }
            for (int64_t c = 0; c < n_cols; c++)
                for (int64_t r = 0; r < n_rows; r++)
                    tile[at(ld, r, c)] = 2.0f * (float)(100 * r + c);
            kernel->vector->store_rows(out, FLASHC_F32, 1, tile, ld, n_rows, n_cols, factor);
            for (int64_t r = 0; r < n_rows; r++)
                for (int64_t c = 0; c < n_cols; c++)
                    assert_true(((float *)out[r])[c] == 2.0f * (float)(100 * r + c) * factor[r]);
            free(tile);
            guarded_free(&src);
            guarded_free(&dst);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_load_converts_every_half),
        cmocka_unit_test(test_load_converts_every_code),
        cmocka_unit_test(test_store_rounds_like_numerics),
        cmocka_unit_test(test_transposes_at_every_edge),
    };
    return RUN_ON_EACH_KERNEL(tests) != 0;
}
