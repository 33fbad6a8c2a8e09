/* Each kernel's functions on scores against their definition, one by one, in float64. */
#include "kernels/tiles.h"
#include "support/memory.h"

#include <float.h>
#include <math.h>
#include <string.h>

static void test_scale_keys(void **state)
{
    (void)state;
    enum { MOST = 50 };
    const int64_t ld = leading(MOST), keys[] = {1, 4, 7, 16, 33, MOST};
    float *scores = floats(tile_size(MOST)), *scale = floats(64);
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
        for (int64_t row = 0; row < TILE_ROWS; row++)
            for (int64_t key = 0; key < MOST; key++)
                scores[at(ld, row, key)] = (float)(row + 100 * key);
        for (int64_t key = 0; key < 64; key++)
            scale[key] = 0.25f * (float)key;
        kernel->vector->scale_keys(scores, ld, keys[k], TILE_ROWS, scale);
        for (int64_t row = 0; row < TILE_ROWS; row++)
            for (int64_t key = 0; key < keys[k]; key++)
                assert_true(scores[at(ld, row, key)] == (float)(row + 100 * key) * 0.25f * (float)key);
    }
    free(scores);
    free(scale);
}

/* exp through the softmax step: one key per lane against a max of 0, over the whole range down to
 * where it must be exactly zero. 3 u: rounding of f and of the polynomial's last steps; 0.03 u per unit of
 * |x| for ln2 in one f32. */
static void test_exp_error_and_underflow(void **state)
{
    (void)state;
    enum { LANES = TILE_ROWS, KEYS = 2000 };
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
            const double bf16 = kernel->vector->groups_weights ? 0x1p-8 : 0.0;
            const double bound = U * (3 + 0.03 * fabs((double)exact[i])) + bf16;
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
    assert_float_equal(row_sum[5], 2.0f + expf(-1.0f), (8 * U));
    assert_true(row_max[6] == 3.0f && weight(scores, ld, 6, 0) == 1.0f);
    assert_float_equal(row_sum[6], 2.0f * expf(-2.0f) + 1.0f, (8 * U));
}

/* The largest score is found wherever it stands. */
static void test_softmax_step_finds_the_max(void **state)
{
    (void)state;
    enum { MOST = 23 };
    const int64_t ld = leading(MOST);
    float *scores = floats(tile_size(MOST)), row_max[TILE_ROWS], row_sum[TILE_ROWS], correction[TILE_ROWS];
    for (int n = 0; n < MOST * MOST; n++) {
        const int keys = 1 + n / MOST, largest = n % MOST;
        for (size_t i = 0; i < tile_size(MOST); i++)
            scores[i] = -1.0f;
        for (int row = 0; row < TILE_ROWS; row++) {
            scores[at(ld, row, largest)] = (float)(row + 2);
            row_max[row] = 1.0f, row_sum[row] = 0.0f;
        }
        kernel->vector->softmax(scores, ld, keys, TILE_ROWS, row_max, row_sum, correction);
        for (int row = 0; row < TILE_ROWS; row++)
            assert_true(row_max[row] == (largest < keys ? (float)(row + 2) : 1.0f));
    }
    free(scores);
}

static void test_hide(void **state)
{
    (void)state;
    enum { LANES = TILE_ROWS, KEYS = 37 };
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
    enum { LANES = TILE_ROWS, KEYS = 997 };
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
    enum { LANES = TILE_ROWS, KEYS = 37 };
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
    const int64_t most = TILE_ROWS, keys[] = {1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 50};
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++)
        for (int64_t n_rows = 1; n_rows <= most; n_rows++)
            for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++)
                for (int variant = 0; variant < 4; variant++)
                    check_add_rows(dtypes[d], n_rows, keys[k], 1 + variant / 2 * 2, variant % 2 == 1);
}

/* One element after the other, among the valid ones or beyond them. */
static void test_all_finite_sees_valid_elements_only(void **state)
{
    (void)state;
    enum { ROWS = TILE_ROWS, MOST = 21 };
    const int64_t ld = leading(MOST);
    float *acc = floats(tile_size(MOST));
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < tile_size(MOST); i++)
        acc[i] = 3e38f;
    for (int n_rows = 1; n_rows <= ROWS; n_rows += n_rows < 9 ? 1 : 13)
        for (int n_cols = 1; n_cols <= MOST; n_cols++)
            for (int i = 0; i < ROWS * MOST; i++) {
                const int lane = i % ROWS, col = i / ROWS;
                acc[at(ld, lane, col)] = bad[i % 3];
                assert_int_equal(kernel->vector->all_finite(acc, ld, n_rows, n_cols), lane >= n_rows || col >= n_cols);
                acc[at(ld, lane, col)] = 3e38f;
            }
    free(acc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scale_keys),
        cmocka_unit_test(test_exp_error_and_underflow),
        cmocka_unit_test(test_softmax_step_special_values),
        cmocka_unit_test(test_softmax_step_finds_the_max),
        cmocka_unit_test(test_hide),
        cmocka_unit_test(test_softcap),
        cmocka_unit_test(test_alibi),
        cmocka_unit_test(test_add_rows),
        cmocka_unit_test(test_all_finite_sees_valid_elements_only),
    };
    return RUN_ON_EACH_KERNEL(tests) != 0;
}
