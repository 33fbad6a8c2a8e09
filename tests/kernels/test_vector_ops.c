/* Each kernel's vector functions against their definition, one by one: conversions bit for bit with
 * numerics.h (itself tested against doubles in test_numerics.c), the rest against float64. */
#include "kernels/kernel.h"
#include "numerics.h"
#include "support/cmocka.h"
#include "support/memory.h"
#include "support/values.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define U 0x1p-24 /* half an ulp of 1 in f32 */

static const flashc_kernel_row *kernel; /* the row under test */

static float *floats(size_t count)
{
    float *p = aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
    assert_non_null(p);
    return p;
}

/* A row stride that both layouts take, for up to 48 rows of so many columns. */
static int64_t leading(int64_t n_cols)
{
    const int64_t columns = flashc_round_up(n_cols, FLASHC_COLUMN_MULTIPLE);
    return kernel->vector->rows_along ? columns : 48;
}

/* Where element (row, col) of a tile lies in the kernel's layout. */
static int64_t at(int64_t ld, int64_t row, int64_t col)
{
    return row * flashc_row_step(kernel->vector, ld) + col * flashc_col_step(kernel->vector, ld);
}

/* Where element (row, col) of queries or weights lies that are bf16, counted in these: rows along; or in groups of two
 * cols, in 32 bits of their row; or of four, of rows 4i and 4i + 1 in one line and of the two after them in the next. */
static int64_t at_bf16(int64_t ld, int64_t row, int64_t col)
{
    if (kernel->vector->rows_along)
        return row * 2 * ld + col;
    if (kernel->vector->col_multiple == 2)
        return (col / 2 * ld + row) * 2 + col % 2;
    return ((col / 4 * 2 + row % 4 / 2) * ld + row / 4 * 4 + row % 2 * 2) * 2 + col % 4;
}

static float element_of(bool bf16, const float *tile, int64_t ld, int64_t row, int64_t col)
{
    return bf16 ? flashc_f32_from_bf16(((const uint16_t *)(const void *)tile)[at_bf16(ld, row, col)])
                : tile[at(ld, row, col)];
}

static void set_element_of(bool bf16, float *tile, int64_t ld, int64_t row, int64_t col, float x)
{
    if (bf16)
        ((uint16_t *)(void *)tile)[at_bf16(ld, row, col)] = flashc_bf16_from_f32(x);
    else
        tile[at(ld, row, col)] = x;
}

/* Element (row, col) of queries as the kernel's products take them. */
static float query(const float *tile, int64_t ld, int64_t row, int64_t col)
{
    return element_of(kernel->bf16, tile, ld, row, col);
}

/* The same of weights. */
static float weight(const float *tile, int64_t ld, int64_t row, int64_t col)
{
    return element_of(kernel->vector->groups_weights, tile, ld, row, col);
}

/* x as the kernel multiplies it. */
static float rounded(float x)
{
    return kernel->bf16 ? flashc_f32_from_bf16(flashc_bf16_from_f32(x)) : x;
}

/* Floats of such a tile of 48 rows. */
static size_t tile_size(int64_t n_cols)
{
    return (size_t)(48 * flashc_round_up(n_cols, FLASHC_COLUMN_MULTIPLE));
}

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

static void test_scale_keys(void **state)
{
    (void)state;
    enum { MOST = 50 };
    const int64_t ld = leading(MOST), keys[] = {1, 4, 7, 16, 33, MOST};
    float *scores = floats(tile_size(MOST)), *scale = floats(64);
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
        for (int64_t row = 0; row < 48; row++)
            for (int64_t key = 0; key < MOST; key++)
                scores[at(ld, row, key)] = (float)(row + 100 * key);
        for (int64_t key = 0; key < 64; key++)
            scale[key] = 0.25f * (float)key;
        kernel->vector->scale_keys(scores, ld, keys[k], 48, scale);
        for (int64_t row = 0; row < 48; row++)
            for (int64_t key = 0; key < keys[k]; key++)
                assert_true(scores[at(ld, row, key)] == (float)(row + 100 * key) * 0.25f * (float)key);
    }
    free(scores);
    free(scale);
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

/* exp through the softmax step: one key per lane against a max of 0, over the whole range down to
 * where it must be exactly zero. 3 u: rounding of f and of the polynomial's last steps; 0.03 u per unit of
 * |x| for ln2 in one f32. */
static void test_exp_error_and_underflow(void **state)
{
    (void)state;
    enum { LANES = 48, KEYS = 2000 };
    float *scores = floats(LANES * KEYS), *exact = floats(LANES * KEYS);
    float row_max[LANES] = {0}, row_sum[LANES] = {0}, correction[LANES];
    for (int i = 0; i < LANES * KEYS; i++)
        scores[i] = exact[i] = -100.0f * (float)i / (LANES * KEYS);
    const int64_t ld = kernel->vector->rows_along ? KEYS : LANES;
    kernel->vector->softmax(scores, ld, KEYS, LANES, row_max, row_sum, correction);
    double worst = 0;
    for (int i = 0; i < LANES * KEYS; i++) {
        const double want = exp((double)exact[i]);
        const int row = kernel->vector->rows_along ? i / KEYS : i % LANES;
        const int key = kernel->vector->rows_along ? i % KEYS : i / LANES;
        const float p = weight(scores, ld, row, key);
        if ((double)exact[i] < -87.34)
            assert_true(p == 0.0f);
        else if ((double)exact[i] > -87.336) {
            const double error = fabs((double)p - want) / want;
            const double bound = U * (3 + 0.03 * fabs((double)exact[i])) + (kernel->vector->groups_weights ? 0x1p-8 : 0.0);
            worst = fmax(worst, error / bound);
            if (!(error <= bound))
                fail_msg("%s: exp(%g) is off by %g u", kernel->name, (double)exact[i], error / U);
        }
    }
    assert_true(weight(scores, ld, 0, 0) == 1.0f);
    for (int i = 0; i < LANES; i++)
        assert_true(correction[i] == 1.0f && row_max[i] == 0.0f);
    print_message("%s: largest exp error is %.2f of its bound\n", kernel->name, worst);
    free(scores);
    free(exact);
}

static void test_softmax_step_special_values(void **state)
{
    (void)state;
    enum { LANES = 16, KEYS = 3 };
    const float inf = INFINITY;
    /* lane: scores of three keys; expected new max, and what p of the first key must be */
    const int64_t ld = LANES; /* 16 columns rows along */
    float scores[LANES * LANES], row_max[LANES], row_sum[LANES] = {0}, correction[LANES];
    for (int lane = 0; lane < LANES; lane++) {
        row_max[lane] = -inf;
        for (int key = 0; key < KEYS; key++)
            scores[at(ld, lane, key)] = -inf;
    }
    scores[at(ld, 1, 0)] = -3e38f; /* lane 1: the only visible logit is huge and negative */
    scores[at(ld, 2, 0)] = NAN, scores[at(ld, 2, 1)] = 5.0f; /* lane 2: NaN and a number */
    scores[at(ld, 3, 0)] = inf, scores[at(ld, 3, 1)] = 1.0f; /* lane 3: +inf */
    scores[at(ld, 4, 0)] = NAN;                              /* lane 4: nothing but NaN */
    row_max[5] = 10.0f, row_sum[5] = 2.0f, scores[at(ld, 5, 0)] = 9.0f; /* lane 5: the max stays */
    row_max[6] = 1.0f, row_sum[6] = 2.0f, scores[at(ld, 6, 0)] = 3.0f;  /* lane 6: the max rises */
    kernel->vector->softmax(scores, ld, KEYS, LANES, row_max, row_sum, correction);
    assert_true(row_max[0] == -inf && row_sum[0] == 0.0f && weight(scores, ld, 0, 0) == 0.0f && correction[0] == 0.0f);
    assert_true(row_max[1] == -3e38f && row_sum[1] == 1.0f && weight(scores, ld, 1, 0) == 1.0f);
    assert_true(isnan(row_sum[2]) && row_max[2] == 5.0f);
    assert_true(isnan(row_sum[3]));
    assert_true(isnan(row_sum[4]));
    assert_true(row_max[5] == 10.0f && correction[5] == 1.0f);
    assert_float_equal(row_sum[5], 2.0f + expf(-1.0f), 8 * U);
    assert_true(row_max[6] == 3.0f && weight(scores, ld, 6, 0) == 1.0f);
    assert_float_equal(row_sum[6], 2.0f * expf(-2.0f) + 1.0f, 8 * U);
}

static void test_hide(void **state)
{
    (void)state;
    enum { LANES = 48, KEYS = 37 };
    const int64_t ld = leading(KEYS);
    float *scores = floats(tile_size(KEYS));
    int32_t first[LANES], last[LANES];
    for (int lane = 0; lane < LANES; lane++)
        first[lane] = lane % 7, last[lane] = lane - 5;
    for (int i = 0; i < (int)tile_size(KEYS); i++)
        scores[i] = i % 11 == 0 ? NAN : (float)i;
    kernel->vector->hide(scores, ld, KEYS, LANES, first, last);
    for (int key = 0; key < KEYS; key++)
        for (int lane = 0; lane < LANES; lane++) {
            const int i = (int)at(ld, lane, key);
            if (key < first[lane] || key >= last[lane])
                assert_true(scores[i] == -INFINITY);
            else if (i % 11 == 0)
                assert_true(isnan(scores[i]));
            else
                assert_true(scores[i] == (float)i);
        }
    free(scores);
}

/* softcap over its whole range, NaN and infinities included: 6 u of tanh, and the roundings of s / cap and of the
 * product, 2 u each. */
static void test_softcap(void **state)
{
    (void)state;
    enum { LANES = 48, KEYS = 997 };
    static const float caps[] = {0x1p-126f, 1e-3f, 0.7f, 1.0f, 30.0f, 1e10f, FLT_MAX};
    const int64_t ld = leading(KEYS);
    const size_t size = tile_size(KEYS);
    float *scores = floats(size), *before = floats(size);
    double worst = 0;
    for (size_t c = 0; c < sizeof caps / sizeof caps[0]; c++) {
        for (size_t i = 0; i < size; i++)
            before[i] = i % 101 == 0   ? NAN
                        : i % 103 == 0 ? INFINITY
                        : i % 107 == 0 ? -INFINITY
                        : i % 2 == 0   ? caps[c] * ((float)i / (float)size * 24.0f - 12.0f)
                                       : caps[c] * ldexpf(i % 3 == 0 ? -1.0f : 1.0f, -(int)(i % 90));
        memcpy(scores, before, size * sizeof(float));
        kernel->vector->softcap(scores, ld, KEYS, LANES, caps[c]);
        for (int64_t key = 0; key < KEYS; key++)
            for (int64_t row = 0; row < LANES; row++) {
                const double s = (double)before[at(ld, row, key)], got = (double)scores[at(ld, row, key)];
                const double want = (double)caps[c] * tanh(s / (double)caps[c]), bound = 10 * U * fabs(want);
                if (isnan(s)) {
                    assert_true(isnan(got));
                    continue;
                }
                /* Subnormal numbers are held to half of the smallest of them. */
                const double tiny = 0x1p-149 * fmax(1.0, (double)caps[c]);
                worst = fmax(worst, (fabs(got - want) - tiny) / bound);
                if (!(got == want || fabs(got - want) <= bound + tiny))
                    fail_msg("%s: softcap %g of %g is %.9g, expected %.9g", kernel->name, (double)caps[c], s, got,
                             want);
            }
    }
    print_message("%s: largest softcap error is %.2f of its bound\n", kernel->name, worst);
    free(scores);
    free(before);
}

static void test_alibi(void **state)
{
    (void)state;
    enum { LANES = 48, KEYS = 37 };
    static const float distances[] = {0, 5, -3, 36, 1e6f, -1e6f, 16777215, 1e12f};
    const int64_t ld = leading(KEYS);
    float *scores = floats(tile_size(KEYS)), slope[LANES], distance[LANES];
    for (int lane = 0; lane < LANES; lane++)
        slope[lane] = 0.37f * (float)(lane % 5) - 0.5f, distance[lane] = distances[lane % 8];
    for (int i = 0; i < (int)tile_size(KEYS); i++)
        scores[i] = i % 11 == 0 ? NAN : i % 13 == 0 ? -INFINITY : (float)(i % 50);
    kernel->vector->alibi(scores, ld, KEYS, LANES, slope, distance);
    for (int key = 0; key < KEYS; key++)
        for (int lane = 0; lane < LANES; lane++) {
            const int i = (int)at(ld, lane, key);
            const double before = i % 11 == 0 ? (double)NAN : i % 13 == 0 ? -(double)INFINITY : i % 50;
            const double added = (double)slope[lane] * fabs((double)distance[lane] - key);
            if (isnan(before))
                assert_true(isnan(scores[i]));
            else if (isinf(before))
                assert_true(scores[i] == -INFINITY);
            else
                assert_true(fabs((double)scores[i] - (before - added)) <= 3 * U * (fabs(before) + fabs(added)));
        }
    free(scores);
}

/* Element i of a bias: hides, changes nothing, or adds; NaN and +inf are values like others. */
static float bias_value(int64_t i, flashc_dtype dtype)
{
    if (i % 5 == 0)
        return -INFINITY;
    if (dtype == FLASHC_BOOL || i % 7 == 0)
        return 0.0f;
    return i % 13 == 0 ? NAN : i % 17 == 0 ? INFINITY : 0.5f * (float)(i % 64);
}

/* One shape: rows that end at guard pages, with elements so far apart; or one row that all share. */
static void check_add_rows(flashc_dtype dtype, int64_t n_rows, int64_t n_keys, int64_t col_stride, bool shared)
{
    const int64_t ld = leading(n_keys), width = (n_keys - 1) * col_stride + 1;
    const int64_t elements = shared ? width : n_rows * width;
    const size_t size = flashc_dtype_size(dtype);
    guarded_buffer buffer = guarded_alloc((size_t)elements * size, false);
    const void *row[FLASHC_MAX_BLOCK_M];
    for (int64_t r = 0; r < n_rows; r++)
        row[r] = buffer.bytes + (size_t)(shared ? 0 : r * width) * size;
    for (int64_t i = 0; i < elements; i++) {
        const float value = bias_value(i, dtype);
        if (dtype == FLASHC_BOOL)
            buffer.bytes[i] = value == 0.0f ? (uint8_t)(1 + i % 255) : 0;
        else
            flashc_store_f32(buffer.bytes, dtype, i, value);
    }
    float *scores = floats(tile_size(n_keys));
    for (int64_t i = 0; i < (int64_t)tile_size(n_keys); i++)
        scores[i] = i % 11 == 0 ? NAN : (float)i;
    const flashc_rows rows = {.row = row, .dtype = dtype, .col_stride = col_stride};
    kernel->vector->add_rows(scores, ld, rows, n_rows, n_keys);
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t key = 0; key < n_keys; key++) {
            const int64_t i = at(ld, r, key);
            const float b = bias_value((shared ? 0 : r * width) + key * col_stride, dtype);
            const float want = b == -INFINITY ? b : (i % 11 == 0 ? NAN : (float)i) + b;
            if (isnan(want) ? !isnan(scores[i]) : scores[i] != want)
                fail_msg("%s: type %d, %d x %d, elements %d apart, shared %d: [%d][%d] is %g, expected %g",
                         kernel->name, (int)dtype, (int)n_rows, (int)n_keys, (int)col_stride, shared, (int)r, (int)key,
                         (double)scores[i], (double)want);
        }
    free(scores);
    guarded_free(&buffer);
}

static void test_add_rows(void **state)
{
    (void)state;
    const flashc_dtype dtypes[] = {FLASHC_F32, FLASHC_F16, FLASHC_BF16, FLASHC_BOOL};
    const int64_t most = 48, keys[] = {1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 50};
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++)
        for (int64_t n_rows = 1; n_rows <= most; n_rows++)
            for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++)
                for (int variant = 0; variant < 4; variant++)
                    check_add_rows(dtypes[d], n_rows, keys[k], 1 + variant / 2 * 2, variant % 2 == 1);
}

static void test_all_finite_sees_valid_lanes_only(void **state)
{
    (void)state;
    enum { ROWS = 48, COLS = 5 };
    const int64_t ld = leading(COLS);
    float acc[ROWS * FLASHC_COLUMN_MULTIPLE] = {0};
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int n_rows = 1; n_rows <= ROWS; n_rows++)
        for (int b = 0; b < 3; b++)
            for (int lane = 0; lane < ROWS; lane++) {
                acc[at(ld, lane, 3)] = bad[b];
                assert_int_equal(kernel->vector->all_finite(acc, ld, n_rows, COLS), lane >= n_rows);
                acc[at(ld, lane, 3)] = 3e38f;
            }
    if (kernel->vector->rows_along) {
        acc[at(ld, 0, COLS)] = NAN; /* beyond the columns */
        assert_true(kernel->vector->all_finite(acc, ld, 1, COLS));
    }
}

/* K or V [n, depth] ending at a guard page, in a type and with rows as far apart as a product may take them. */
static guarded_buffer make_tile(flashc_tile *tile, flashc_dtype dtype, int64_t n, int64_t depth, test_rng *rng)
{
    const int64_t multiple = flashc_max(kernel->gemm->k.col_multiple, flashc_dtype_columns(dtype));
    const int64_t columns = flashc_round_up(depth, multiple), elements = columns / flashc_dtype_columns(dtype);
    const size_t size = flashc_dtype_size(dtype);
    guarded_buffer buffer = guarded_alloc((size_t)(n * elements) * size, false);
    for (int64_t i = 0; i < n * columns; i++) {
        const double x = i % columns < depth ? test_rng_normal(rng) : 0.0;
        const uint32_t code = test_encode(FLASHC_I8, 40.0 * x);
        if (dtype == FLASHC_I8)
            buffer.bytes[i] = (uint8_t)code;
        else if (dtype == FLASHC_Q8_0) {
            const int64_t block = i / FLASHC_Q8_0_COLUMNS * FLASHC_Q8_0_BYTES;
            buffer.bytes[block] = (uint8_t)block, buffer.bytes[block + 1] = 0x28; /* some f16 about 0.03 */
            buffer.bytes[block + 2 + i % FLASHC_Q8_0_COLUMNS] = (uint8_t)code;
        } else
            flashc_store_f32(buffer.bytes, dtype, i, (float)x);
    }
    *tile = (flashc_tile){.data = buffer.bytes, .dtype = dtype, .row_stride = elements, .col_stride = 1};
    return buffer;
}

/* Element (row, col) of such a tile. */
static float element(const flashc_tile *tile, int64_t row, int64_t col)
{
    const char *start = (const char *)tile->data + row * tile->row_stride * (int64_t)flashc_dtype_size(tile->dtype);
    return flashc_load_f32(start, tile->dtype, col);
}

/* As the product takes it: where it lies, row by row (the addresses in scratch), or packed into scratch. */
static flashc_kv_tile operand(const flashc_operand *op, flashc_tile tile, float *scratch, int64_t n, int64_t depth)
{
    if (op->by_row) {
        const void **row = (const void **)(void *)scratch;
        for (int64_t i = 0; i < flashc_round_up(n, FLASHC_COLUMN_MULTIPLE) + FLASHC_ROWS_AHEAD; i++)
            row[i] = (const char *)tile.data +
                     (i < n ? i : n - 1) * tile.row_stride * (int64_t)flashc_dtype_size(tile.dtype);
        return (flashc_kv_tile){.row = row, .dtype = tile.dtype};
    }
    if (op->in_place & FLASHC_DTYPE_BIT(tile.dtype))
        return (flashc_kv_tile){.data = tile.data, .dtype = tile.dtype, .row_stride = tile.row_stride};
    return op->pack(scratch, tile, n, depth);
}

static bool takes(flashc_dtype dtype)
{
    return kernel->gemm->k.in_place & FLASHC_DTYPE_BIT(dtype);
}

/* Both products at every edge of the register block. Bound: depth u sum |a b|. */
static void check_gemm(flashc_dtype dtype, int64_t depth, int64_t n, int64_t lanes, test_rng *rng)
{
    const int64_t large = depth > n ? depth : n, ld = leading(large);
    flashc_tile tile;
    guarded_buffer buffer = make_tile(&tile, dtype, n, depth, rng);
    float *b = floats(tile_size(large)), *c = floats(tile_size(large)), *copy = floats(tile_size(large) + 48);
    float correction[48];
    memset(b, 0, tile_size(large) * sizeof *b);
    for (int64_t i = 0; i < large; i++)
        for (int64_t lane = 0; lane < 48; lane++)
            set_element_of(kernel->bf16, b, ld, lane, i, (float)test_rng_normal(rng));
    for (int64_t i = 0; i < (int64_t)tile_size(large); i++)
        c[i] = 1.0f;
    for (int i = 0; i < 48; i++)
        correction[i] = 0.5f;
    const float factor = kernel->gemm->scales_scores ? 0.5f : 1.0f;
    kernel->gemm->qk(c, operand(&kernel->gemm->k, tile, copy, n, depth), b, ld, n, lanes, depth, factor);
    for (int64_t key = 0; key < n; key++)
        for (int64_t lane = 0; lane < lanes; lane++) {
            double want = 0, sum = 0;
            for (int64_t k = 0; k < depth; k++) {
                const double x = (double)rounded(element(&tile, key, k));
                const double y = (double)(factor * query(b, ld, lane, k));
                want += x * y;
                sum += fabs(x * y);
            }
            assert_true(fabs((double)c[at(ld, lane, key)] - want) <= U * (double)depth * sum * 2);
        }
    for (int64_t i = 0; i < (int64_t)tile_size(large); i++)
        c[i] = 1.0f;
    const int64_t whole = flashc_round_up(n, FLASHC_COLUMN_MULTIPLE); /* weights beyond the keys are 0 in a group of them */
    for (int64_t i = 0; i < flashc_max(whole, large); i++)
        for (int64_t lane = 0; lane < 48; lane++)
            set_element_of(kernel->vector->groups_weights, b, ld, lane, i, i < n ? (float)test_rng_normal(rng) : 0.0f);
    kernel->gemm->pv(c, operand(&kernel->gemm->v, tile, copy, n, depth), b, ld, n, lanes, depth, correction);
    for (int64_t col = 0; col < depth; col++)
        for (int64_t lane = 0; lane < lanes; lane++) {
            double want = 0.5, sum = 0.5;
            for (int64_t k = 0; k < n; k++) {
                const double x = (double)rounded(element(&tile, k, col));
                const double y = (double)rounded(weight(b, ld, lane, k));
                want += x * y;
                sum += fabs(x * y);
            }
            assert_true(fabs((double)c[at(ld, lane, col)] - want) <= U * (double)(n + 1) * sum * 2);
        }
    guarded_free(&buffer);
    free(b);
    free(c);
    free(copy);
}

static void test_gemm(void **state)
{
    (void)state;
    const int64_t depths[] = {1, 2, 7, 64, 129, 300};
    test_rng rng = {11};
    const int64_t step = kernel->vector->row_multiple, most = kernel->most_rows > 0 ? kernel->most_rows : 48;
    for (flashc_dtype dtype = FLASHC_F32; dtype <= FLASHC_Q8_0; dtype++)
        for (size_t d = 0; d < sizeof depths / sizeof depths[0]; d++)
            for (int64_t n = 1; n <= 19; n++)
                for (int64_t lanes = step; lanes <= most && takes(dtype); lanes += step)
                    check_gemm(dtype, depths[d], n, lanes, &rng);
    if (kernel->vector->rows_along) /* several pieces of head_dim, whatever the vector length */
        check_gemm(FLASHC_F32, 2 * FLASHC_QK_DEPTH * FLASHC_COLUMN_MULTIPLE + 3, 5, 3, &rng);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_load_converts_every_half),
        cmocka_unit_test(test_load_converts_every_code),
        cmocka_unit_test(test_scale_keys),
        cmocka_unit_test(test_store_rounds_like_numerics),
        cmocka_unit_test(test_transposes_at_every_edge),
        cmocka_unit_test(test_exp_error_and_underflow),
        cmocka_unit_test(test_softmax_step_special_values),
        cmocka_unit_test(test_hide),
        cmocka_unit_test(test_softcap),
        cmocka_unit_test(test_alibi),
        cmocka_unit_test(test_add_rows),
        cmocka_unit_test(test_all_finite_sees_valid_lanes_only),
        cmocka_unit_test(test_gemm),
    };
    int failed = 0;
    for (int i = 0; i < flashc_kernel_rows(); i++) {
        kernel = flashc_kernel_row_at(i);
        const char *reason = flashc_kernel_unavailable(kernel);
        if (reason) {
            print_message("not run: %s: %s\n", kernel->name, reason);
            continue;
        }
        print_message("kernel %s\n", kernel->name);
        failed += cmocka_run_group_tests(tests, NULL, NULL);
    }
    return failed != 0;
}
