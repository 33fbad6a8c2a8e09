/* The worked example that flashc set out from, number by number: why pieces of a softmax cannot just
 * be put side by side, and how their states can. */
#include "flashc.h"

#include "support/expect.h"
#include "support/values.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Four decimals, as the example prints them. */
static void assert_prints(const uint16_t *y, flashc_dtype dtype, int n, const char *expected)
{
    char text[128] = "";
    for (int i = 0; i < n; i++) {
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, "%s%.4f", i ? " " : "", test_decode(dtype, y[i]));
    }
    assert_string_equal(text, expected);
}

static void to_dtype(uint16_t *y, flashc_dtype dtype, const float *x, int64_t n)
{
    expect_ok(flashc_convert(y, dtype, x, FLASHC_F32, n));
}

/* Softmax of x in pieces: each piece's state on its own, merged, and the weights taken from the merged
 * state in double, rounded once to dtype. */
static void softmax_by_pieces(uint16_t *y, const uint16_t *x, flashc_dtype dtype, int64_t n, int64_t pieces)
{
    static float values[4096];
    float row_max, row_sum, piece_max, piece_sum, lse;
    flashc_softmax_state whole = {.rows = 1, .row_max = &row_max, .row_sum = &row_sum};
    flashc_softmax_state piece = {.rows = 1, .row_max = &piece_max, .row_sum = &piece_sum};
    expect_ok(flashc_convert(values, FLASHC_F32, x, dtype, n));
    expect_ok(flashc_softmax_state_init(&whole));
    for (int64_t i = 0; i < pieces; i++) {
        int64_t first = n * i / pieces, last = n * (i + 1) / pieces;
        expect_ok(flashc_softmax_state_init(&piece));
        expect_ok(flashc_softmax_state_update(&piece, last - first, values + first, last - first, NULL, 0));
        expect_ok(flashc_softmax_state_merge(&whole, &piece));
    }
    expect_ok(flashc_softmax_state_finish(&whole, NULL, 0, &lse));
    for (int64_t i = 0; i < n; i++)
        y[i] = (uint16_t)test_encode(dtype, exp((double)values[i] - (double)row_max) / (double)row_sum);
    assert_true(fabs((double)lse - ((double)row_max + log((double)row_sum))) <= 1e-6 * fabs((double)lse));
}

static void one_to_six_in_f16(void **state)
{
    (void)state;
    static const float one_to_six[] = {1, 2, 3, 4, 5, 6};
    uint16_t x[6], whole[6], naive[6], merged[6];
    int valid;
    to_dtype(x, FLASHC_F16, one_to_six, 6);
    expect_ok(flashc_softmax(1, 6, x, 6, whole, 6, FLASHC_F16, NULL));
    assert_prints(whole, FLASHC_F16, 6, "0.0043 0.0116 0.0316 0.0858 0.2332 0.6338");
    expect_ok(flashc_is_softmax(1, 6, whole, 6, FLASHC_F16, -1.0, &valid, NULL));
    assert_int_equal(valid, 1);

    /* The naive split: softmax of each half, side by side. Two softmaxes sum to 2. */
    expect_ok(flashc_softmax(2, 3, x, 3, naive, 3, FLASHC_F16, NULL));
    assert_prints(naive, FLASHC_F16, 6, "0.0900 0.2448 0.6650 0.0900 0.2448 0.6650");
    expect_ok(flashc_is_softmax(1, 6, naive, 6, FLASHC_F16, -1.0, &valid, NULL));
    assert_int_equal(valid, 0);
    flashc_compare_report report;
    expect_ok(flashc_compare(6, naive, FLASHC_F16, whole, FLASHC_F16, 1e-3, 1e-3, &report));
    assert_int_equal(report.equal, 0);
    assert_int_equal(report.max_abs_index, 2); /* 0.6650 for 0.0316 */

    softmax_by_pieces(merged, x, FLASHC_F16, 6, 2);
    assert_prints(merged, FLASHC_F16, 6, "0.0043 0.0116 0.0316 0.0858 0.2332 0.6338");
    expect_ok(flashc_is_softmax(1, 6, merged, 6, FLASHC_F16, -1.0, &valid, NULL));
    assert_int_equal(valid, 1);
    expect_ok(flashc_compare(6, merged, FLASHC_F16, whole, FLASHC_F16, 0.0, 0.0, &report));
    assert_int_equal(report.equal, 1);
}

static void sixty_one_thousand_in_bf16(void **state)
{
    (void)state;
    float x = 61000.0f, back;
    uint16_t half;
    to_dtype(&half, FLASHC_BF16, &x, 1);
    expect_ok(flashc_convert(&back, FLASHC_F32, &half, FLASHC_BF16, 1));
    assert_true(back == 60928.0f);
}

static void assert_rounds_to(double found, double expected)
{
    if (!(fabs(found - expected) <= 0.5e-6))
        fail_msg("expected %.6f, found %.9f", expected, found);
}

/* d'_i = d_i * scale at every step, d'_N = d_N, and the probabilities both ways. */
static void check_trace(const flashc_trace_step *steps, int n)
{
    for (int i = 0; i < n; i++) {
        assert_true(fabs(steps[i].denom_online - steps[i].denom_standard * steps[i].scale) <=
                    1e-14 * steps[i].denom_online);
        assert_true(fabs(steps[i].p_online - steps[i].p_standard) <= 1e-15);
    }
    assert_true(fabs(steps[n - 1].denom_online - steps[n - 1].denom_standard) <= 1e-15 * 4);
    assert_true(steps[n - 1].scale == 1.0);
}

static void trace_of_1_3_5(void **state)
{
    (void)state;
    static const double x[] = {1, 3, 5};
    flashc_trace_step steps[3];
    expect_ok(flashc_softmax_trace(3, x, steps));
    check_trace(steps, 3);
    static const double standard[] = {0.018316, 0.153651, 1.153651}, online[] = {1.0, 1.135335, 1.153651};
    static const double scale[] = {54.598150, 7.389056, 1.0}, correction[] = {0.0, 0.135335, 0.135335};
    for (int i = 0; i < 3; i++) {
        assert_true(steps[i].row_max == x[i]);
        assert_rounds_to(steps[i].denom_standard, standard[i]);
        assert_rounds_to(steps[i].denom_online, online[i]);
        assert_rounds_to(steps[i].scale, scale[i]);
        assert_rounds_to(steps[i].correction, correction[i]);
    }
}

static void trace_of_3_1_4_7_2(void **state)
{
    (void)state;
    static const double x[] = {3, 1, 4, 7, 2}, row_max[] = {3, 3, 4, 7, 7};
    flashc_trace_step steps[5];
    expect_ok(flashc_softmax_trace(5, x, steps));
    check_trace(steps, 5);
    for (int i = 0; i < 5; i++)
        assert_true(steps[i].row_max == row_max[i]);
    static const double online[] = {1.0, 1.135335, 1.417667, 1.070581, 1.077319};
    for (int i = 0; i < 5; i++)
        assert_rounds_to(steps[i].denom_online, online[i]);
    assert_rounds_to(steps[4].denom_online * steps[4].scale, 1.077319);
    assert_rounds_to(steps[4].denom_standard, 1.077319);
}

static void trace_of_1_3_2_5(void **state)
{
    (void)state;
    static const double x[] = {1, 3, 2, 5}, p[] = {0.015219, 0.112457, 0.041371, 0.830953};
    flashc_trace_step steps[4];
    expect_ok(flashc_softmax_trace(4, x, steps));
    check_trace(steps, 4);
    double sum = 0.0;
    for (int i = 0; i < 4; i++) {
        assert_rounds_to(steps[i].p_standard, p[i]);
        assert_rounds_to(steps[i].p_online, p[i]);
        sum += steps[i].p_online;
    }
    assert_true(fabs(sum - 1.0) <= 1e-15);
}

/* Both ways end in one rounding to the type, of values that differ by rounding errors of f32: they
 * are equal or neighbours, an ulp apart: 2^-10 (f16) or 2^-7 (bf16) of the value at most, and 2^-24 among
 * the subnormals of f16. */
static void pieces_equal_the_whole_in_16_bits(void **state)
{
    (void)state;
    enum { MAX_N = 4096 };
    static uint16_t x[MAX_N], whole[MAX_N], merged[MAX_N];
    static const flashc_dtype dtypes[] = {FLASHC_F16, FLASHC_BF16};
    static const double rtol[] = {0x1p-10, 0x1p-7}, atol[] = {0x1p-24, 0.0};
    static const int64_t sizes[] = {6, 100, 1000, 4096}, pieces[] = {1, 2, 3, 7, 64};
    const uint64_t seed = 5;
    test_rng rng = {seed};
    for (int t = 0; t < 2; t++) {
        for (int s = 0; s < 4; s++) {
            int64_t n = sizes[s];
            for (int64_t i = 0; i < n; i++)
                x[i] = (uint16_t)test_encode(dtypes[t], 3.0 * test_rng_normal(&rng));
            expect_ok(flashc_softmax(1, n, x, n, whole, n, dtypes[t], NULL));
            for (int k = 0; k < 5; k++) {
                softmax_by_pieces(merged, x, dtypes[t], n, pieces[k]);
                flashc_compare_report report;
                expect_ok(flashc_compare(n, merged, dtypes[t], whole, dtypes[t], rtol[t], atol[t], &report));
                if (!report.equal)
                    fail_msg("seed %d, %s, %d elements in %d pieces: %d differ, by up to %.3g", (int)seed,
                             flashc_dtype_name(dtypes[t]), (int)n, (int)pieces[k], (int)report.mismatches,
                             report.max_abs_error);
                int valid;
                expect_ok(flashc_is_softmax(1, n, merged, n, dtypes[t], -1.0, &valid, NULL));
                assert_int_equal(valid, 1);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_to_six_in_f16),
        cmocka_unit_test(sixty_one_thousand_in_bf16),
        cmocka_unit_test(trace_of_1_3_5),
        cmocka_unit_test(trace_of_3_1_4_7_2),
        cmocka_unit_test(trace_of_1_3_2_5),
        cmocka_unit_test(pieces_equal_the_whole_in_16_bits),
    };
    return cmocka_run_group_tests_name("reference example", tests, NULL, NULL);
}
