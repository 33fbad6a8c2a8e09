/* Each kernel's vector functions against their definition, one by one: conversions bit for bit with
 * numerics.h (itself tested against doubles in test_numerics.c), the rest against float64. */
#include "kernels/kernel.h"
#include "numerics.h"
#include "support/cmocka.h"
#include "support/memory.h"
#include "support/values.h"

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
            kernel->vector->load(out, tile, 256, 256);
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

/* Rounding on the way out: random patterns, every exponent, and the exact midpoints of both types. */
static void test_store_rounds_like_numerics(void **state)
{
    (void)state;
    enum { LANES = 16, COLS = 4096 };
    float *acc = floats(LANES * COLS);
    uint16_t *out = malloc(LANES * COLS * sizeof *out);
    float one[FLASHC_MAX_BLOCK_M];
    for (int i = 0; i < FLASHC_MAX_BLOCK_M; i++)
        one[i] = 1.0f;
    test_rng rng = {7};
    for (int round = 0; round < 20; round++)
        for (int type = FLASHC_F16; type <= FLASHC_BF16; type++)
            for (int stride = 1; stride <= 1 + (round == 0); stride++) {
                const int cols = COLS / stride;
                for (int i = 0; i < LANES * cols; i++) {
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
                kernel->vector->store_transposed(rows, (flashc_dtype)type, stride, acc, LANES, LANES, cols, one);
                for (int r = 0; r < LANES; r++)
                    for (int c = 0; c < cols; c++) {
                        const float x = acc[c * LANES + r];
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
    const int64_t ld = 48;
    for (int64_t n_rows = 1; n_rows <= 35; n_rows++)
        for (int64_t n_cols = 1; n_cols <= 35; n_cols++) {
            guarded_buffer src = guarded_alloc((size_t)(n_rows * n_cols) * sizeof(float), false);
            guarded_buffer dst = guarded_alloc((size_t)(n_rows * n_cols) * sizeof(float), false);
            float *tile = floats((size_t)(ld * n_cols)), factor[FLASHC_MAX_BLOCK_M] = {0};
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
            kernel->vector->load_transposed(tile, ld, rows, n_rows, n_cols, 2.0f);
            const int64_t lanes = flashc_round_up(n_rows, kernel->vector->vector_length);
            for (int64_t c = 0; c < n_cols; c++)
                for (int64_t r = 0; r < lanes; r++)
                    assert_true(tile[c * ld + r] == (r < n_rows ? 2.0f * (float)(100 * r + c) : 0.0f));
            kernel->vector->store_transposed(out, FLASHC_F32, 1, tile, ld, n_rows, n_cols, factor);
            for (int64_t r = 0; r < n_rows; r++)
                for (int64_t c = 0; c < n_cols; c++)
                    assert_true(((float *)out[r])[c] == 2.0f * (float)(100 * r + c) * factor[r]);
            free(tile);
            guarded_free(&src);
            guarded_free(&dst);
        }
}

static void test_bool_loads_as_bias(void **state)
{
    (void)state;
    uint8_t mask[64];
    float tile[64 * 16];
    const void *rows[1] = {mask};
    for (int i = 0; i < 64; i++)
        mask[i] = (uint8_t)(i % 3 == 0 ? 0 : i * 5);
    const flashc_rows src = {rows, FLASHC_BOOL, 1};
    kernel->vector->load_transposed(tile, 16, src, 1, 61, 1.0f);
    for (int i = 0; i < 61; i++)
        assert_true(mask[i] ? tile[i * 16] == 0.0f : tile[i * 16] == -INFINITY);
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
    kernel->vector->softmax(scores, LANES, KEYS, LANES, row_max, row_sum, correction);
    double worst = 0;
    for (int i = 0; i < LANES * KEYS; i++) {
        const double want = exp((double)exact[i]);
        if ((double)exact[i] < -87.34)
            assert_true(scores[i] == 0.0f);
        else if ((double)exact[i] > -87.336) {
            const double error = fabs((double)scores[i] - want) / want;
            const double bound = U * (3 + 0.03 * fabs((double)exact[i]));
            worst = fmax(worst, error / bound);
            if (error > bound)
                fail_msg("%s: exp(%g) is off by %g u", kernel->name, (double)exact[i], error / U);
        }
    }
    assert_true(scores[0] == 1.0f);
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
    float scores[KEYS * LANES], row_max[LANES], row_sum[LANES] = {0}, correction[LANES];
    for (int lane = 0; lane < LANES; lane++) {
        row_max[lane] = -inf;
        for (int key = 0; key < KEYS; key++)
            scores[key * LANES + lane] = -inf;
    }
    scores[1] = -3e38f;                                      /* lane 1: the only visible logit is huge and negative */
    scores[2] = NAN, scores[2 + LANES] = 5.0f;               /* lane 2: NaN and a number */
    scores[3] = inf, scores[3 + LANES] = 1.0f;               /* lane 3: +inf */
    scores[4] = NAN;                                         /* lane 4: nothing but NaN */
    row_max[5] = 10.0f, row_sum[5] = 2.0f, scores[5] = 9.0f; /* lane 5: the max stays */
    row_max[6] = 1.0f, row_sum[6] = 2.0f, scores[6] = 3.0f;  /* lane 6: the max rises */
    kernel->vector->softmax(scores, LANES, KEYS, LANES, row_max, row_sum, correction);
    assert_true(row_max[0] == -inf && row_sum[0] == 0.0f && scores[0] == 0.0f && correction[0] == 0.0f);
    assert_true(row_max[1] == -3e38f && row_sum[1] == 1.0f && scores[1] == 1.0f);
    assert_true(isnan(row_sum[2]) && row_max[2] == 5.0f);
    assert_true(isnan(row_sum[3]));
    assert_true(isnan(row_sum[4]));
    assert_true(row_max[5] == 10.0f && correction[5] == 1.0f);
    assert_float_equal(row_sum[5], 2.0f + expf(-1.0f), 1e-6);
    assert_true(row_max[6] == 3.0f && scores[6] == 1.0f);
    assert_float_equal(row_sum[6], 2.0f * expf(-2.0f) + 1.0f, 1e-6);
}

static void test_hide_and_bias(void **state)
{
    (void)state;
    enum { LANES = 48, KEYS = 37 };
    float *scores = floats(LANES * KEYS), *bias = floats(LANES * KEYS);
    int32_t first[LANES], last[LANES];
    for (int lane = 0; lane < LANES; lane++)
        first[lane] = lane % 7, last[lane] = lane - 5;
    for (int i = 0; i < LANES * KEYS; i++) {
        scores[i] = i % 11 == 0 ? NAN : (float)i;
        bias[i] = i % 5 == 0 ? -INFINITY : 0.5f;
    }
    kernel->vector->add_bias(scores, bias, LANES, KEYS, LANES);
    kernel->vector->hide(scores, LANES, KEYS, LANES, first, last);
    for (int key = 0; key < KEYS; key++)
        for (int lane = 0; lane < LANES; lane++) {
            const int i = key * LANES + lane;
            if (key < first[lane] || key >= last[lane] || i % 5 == 0)
                assert_true(scores[i] == -INFINITY);
            else if (i % 11 == 0)
                assert_true(isnan(scores[i]));
            else
                assert_true(scores[i] == (float)i + 0.5f);
        }
    free(scores);
    free(bias);
}

static void test_all_finite_sees_valid_lanes_only(void **state)
{
    (void)state;
    enum { LD = 48, COLS = 5 };
    float acc[LD * COLS] = {0};
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int n_rows = 1; n_rows <= LD; n_rows++)
        for (int b = 0; b < 3; b++)
            for (int lane = 0; lane < LD; lane++) {
                acc[3 * LD + lane] = bad[b];
                assert_int_equal(kernel->vector->all_finite(acc, LD, n_rows, COLS), lane >= n_rows);
                acc[3 * LD + lane] = 3e38f;
            }
}

/* Both products at every edge of the register block, K and V ending at a guard page. Bound: depth u sum |a b|. */
static void test_gemm(void **state)
{
    (void)state;
    const int64_t depths[] = {1, 2, 7, 64, 129, 300};
    test_rng rng = {11};
    const int64_t ld = 48;
    for (size_t d = 0; d < sizeof depths / sizeof depths[0]; d++)
        for (int64_t n = 1; n <= 19; n++)
            for (int64_t lanes = kernel->vector->vector_length; lanes <= ld; lanes += kernel->vector->vector_length) {
                const int64_t depth = depths[d], large = depth > n ? depth : n;
                guarded_buffer tile = guarded_alloc((size_t)(n * depth) * sizeof(float), false);
                float *a = (float *)(void *)tile.bytes;
                float *b = floats((size_t)(large * ld)), *c = floats((size_t)(large * ld));
                float correction[48];
                for (int64_t i = 0; i < n * depth; i++)
                    a[i] = (float)test_rng_normal(&rng);
                for (int64_t i = 0; i < large * ld; i++)
                    b[i] = (float)test_rng_normal(&rng), c[i] = 1.0f;
                for (int i = 0; i < 48; i++)
                    correction[i] = 0.5f;
                kernel->gemm->qk(c, (flashc_f32_tile){.data = a, .ld = depth}, b, ld, n, lanes, depth);
                for (int64_t key = 0; key < n; key++)
                    for (int64_t lane = 0; lane < lanes; lane++) {
                        double want = 0, sum = 0;
                        for (int64_t k = 0; k < depth; k++) {
                            want += (double)a[key * depth + k] * (double)b[k * ld + lane];
                            sum += fabs((double)a[key * depth + k] * (double)b[k * ld + lane]);
                        }
                        assert_true(fabs((double)c[key * ld + lane] - want) <= U * (double)depth * sum * 2);
                    }
                for (int64_t i = 0; i < large * ld; i++)
                    c[i] = 1.0f;
                kernel->gemm->pv(c, (flashc_f32_tile){.data = a, .ld = depth}, b, ld, n, lanes, depth, correction);
                for (int64_t col = 0; col < depth; col++)
                    for (int64_t lane = 0; lane < lanes; lane++) {
                        double want = 0.5, sum = 0.5;
                        for (int64_t k = 0; k < n; k++) {
                            want += (double)a[k * depth + col] * (double)b[k * ld + lane];
                            sum += fabs((double)a[k * depth + col] * (double)b[k * ld + lane]);
                        }
                        assert_true(fabs((double)c[col * ld + lane] - want) <= U * (double)(n + 1) * sum * 2);
                    }
                guarded_free(&tile);
                free(b);
                free(c);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_load_converts_every_half),
        cmocka_unit_test(test_store_rounds_like_numerics),
        cmocka_unit_test(test_transposes_at_every_edge),
        cmocka_unit_test(test_bool_loads_as_bias),
        cmocka_unit_test(test_exp_error_and_underflow),
        cmocka_unit_test(test_softmax_step_special_values),
        cmocka_unit_test(test_hide_and_bias),
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
