/* flashc_softmax against three plain passes in double, and its special values. */
#include "flashc.h"

#include "support/expect.h"
#include "support/values.h"

#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define U 0x1p-24
/* flashc.h counts in chunks of 128 elements. */
#define CHUNK 128.0
/* exp is exactly 0 where it would be below the smallest normal f32. */
#define FLUSHED 0x1p-126

static const flashc_dtype dtypes[] = {FLASHC_F32, FLASHC_F16, FLASHC_BF16};

static double get(const void *data, flashc_dtype dtype, int64_t i)
{
    flashc_tensor view = {.data = (void *)(uintptr_t)data, .dtype = dtype, .stride = {1, 0, 0, 0}};
    return test_get(&view, i, 0, 0, 0);
}

static void set(void *data, flashc_dtype dtype, int64_t i, double value)
{
    flashc_tensor view = {.data = data, .dtype = dtype, .stride = {1, 0, 0, 0}};
    test_set(&view, i, 0, 0, 0, value);
}

/* Oracle: p[i] of a row of finite values or -inf with at least one finite; returns the LSE. */
static double oracle_softmax(int64_t cols, const void *x, flashc_dtype dtype, double *p)
{
    double max = -(double)INFINITY, sum = 0.0;
    for (int64_t i = 0; i < cols; i++)
        max = fmax(max, get(x, dtype, i));
    for (int64_t i = 0; i < cols; i++)
        sum += exp(get(x, dtype, i) - max);
    for (int64_t i = 0; i < cols; i++)
        p[i] = exp(get(x, dtype, i) - max) / sum;
    return max + log(sum);
}

static double largest_magnitude(int64_t cols, const void *x, flashc_dtype dtype)
{
    double largest = 0.0;
    for (int64_t i = 0; i < cols; i++) {
        double value = fabs(get(x, dtype, i));
        if (isfinite(value))
            largest = fmax(largest, value);
    }
    return largest;
}

/* Checks one row against the bound of flashc.h; of random data the rounding errors of a sum cancel, so
 * that the tight gate has no term for the length of the chain. */
static void check_row(int64_t cols, const void *x, flashc_dtype dtype, bool tight, const char *what)
{
    size_t size = flashc_dtype_size(dtype);
    void *y = malloc((size_t)cols * size + 1);
    double *p = malloc((size_t)cols * sizeof *p + 1);
    assert_true(y && p);
    float lse;
    expect_ok(flashc_softmax(1, cols, x, cols, y, cols, dtype, &lse));
    double exact_lse = oracle_softmax(cols, x, dtype, p);
    double a = largest_magnitude(cols, x, dtype);
    double chain = tight ? 0.0 : 2.0 * (CHUNK + (double)cols / CHUNK);
    double relative = U * (8.0 + 4.0 * a + chain);
    for (int64_t i = 0; i < cols; i++) {
        double largest = p[i] * (1.0 + relative) + FLUSHED;
        double bound = p[i] * relative + FLUSHED + test_half_ulp(dtype, largest);
        double found = get(y, dtype, i);
        if (!(fabs(found - p[i]) <= bound))
            fail_msg("%s, %s, %lld columns: p[%lld] is %.9g, expected %.9g +- %.3g", what, flashc_dtype_name(dtype),
                     (long long)cols, (long long)i, found, p[i], bound);
    }
    double lse_bound = U * (16.0 * fmax(1.0, fmax(fabs(exact_lse), a)) + chain);
    if (!(fabs((double)lse - exact_lse) <= lse_bound))
        fail_msg("%s, %s, %lld columns: LSE is %.9g, expected %.9g +- %.3g", what, flashc_dtype_name(dtype),
                 (long long)cols, (double)lse, exact_lse, lse_bound);
    int valid;
    expect_ok(flashc_is_softmax(1, cols, y, cols, dtype, -1.0, &valid, NULL));
    if (!valid)
        fail_msg("%s, %s, %lld columns: not a softmax", what, flashc_dtype_name(dtype), (long long)cols);
    free(y);
    free(p);
}

static void every_size_and_type_within_the_bound(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 2, 3, 127, 128, 129, 1000, 1023, 1024, 1025, 100003};
    static const double ranges[] = {0.0, 1.0, 10.0, 80.0};
    test_rng rng = {31};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        int64_t n = sizes[s];
        void *x = malloc((size_t)n * sizeof(float));
        assert_non_null(x);
        for (int t = 0; t < 3; t++) {
            for (int r = 0; r < 4; r++) {
                for (int64_t i = 0; i < n; i++)
                    set(x, dtypes[t], i, ranges[r] * (2.0 * test_rng_uniform(&rng) - 1.0));
                check_row(n, x, dtypes[t], true, "uniform, seed 31");
                for (int64_t i = 0; i < n; i++)
                    set(x, dtypes[t], i, ranges[r] * (double)i / (double)n);
                check_row(n, x, dtypes[t], false, "rising");
                for (int64_t i = 0; i < n; i++)
                    set(x, dtypes[t], i, -ranges[r] * (double)i / (double)n);
                check_row(n, x, dtypes[t], false, "falling");
            }
        }
        free(x);
    }
}

/* Equal elements sum without any rounding: each is 1/n to the last bit but the division's. */
static void equal_elements_are_exact(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 7, 128, 1000, 100003};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        int64_t n = sizes[s];
        float *x = malloc((size_t)n * sizeof *x);
        assert_non_null(x);
        for (int64_t i = 0; i < n; i++)
            x[i] = -3.5f;
        float lse;
        expect_ok(flashc_softmax(1, n, x, n, x, n, FLASHC_F32, &lse));
        for (int64_t i = 0; i < n; i++)
            assert_true(x[i] == 1.0f / (float)n);
        assert_true(lse == (float)(-3.5 + log((double)n)));
        free(x);
    }
}

static void huge_range_and_no_finite_sentinel(void **state)
{
    (void)state;
    float y[4], lse;
    float spread[] = {-1e30f, 1e30f, 0.0f, 1e30f};
    expect_ok(flashc_softmax(1, 4, spread, 4, y, 4, FLASHC_F32, &lse));
    assert_true(y[0] == 0.0f && y[1] == 0.5f && y[2] == 0.0f && y[3] == 0.5f);
    assert_true(lse == 1e30f);
    float low[] = {-2e30f, -2e30f, -INFINITY, -3e38f};
    expect_ok(flashc_softmax(1, 4, low, 4, y, 4, FLASHC_F32, &lse));
    assert_true(y[0] == 0.5f && y[1] == 0.5f && y[2] == 0.0f && y[3] == 0.0f);
    assert_true(lse == -2e30f);
    float lowest[] = {-FLT_MAX, -FLT_MAX, -FLT_MAX, -FLT_MAX};
    expect_ok(flashc_softmax(1, 4, lowest, 4, y, 4, FLASHC_F32, &lse));
    for (int i = 0; i < 4; i++)
        assert_true(y[i] == 0.25f);
    assert_true(lse == -FLT_MAX);
    float extremes[] = {-FLT_MAX, FLT_MAX, -FLT_MAX, 0.0f};
    expect_ok(flashc_softmax(1, 4, extremes, 4, y, 4, FLASHC_F32, &lse));
    assert_true(y[0] == 0.0f && y[1] == 1.0f && y[2] == 0.0f && y[3] == 0.0f);
}

/* Long rows over more than one block, where the max rises late, and rises by 2e30. */
static void long_row_of_huge_range(void **state)
{
    (void)state;
    enum { N = 5000 };
    static float x[N], y[N];
    test_rng rng = {77};
    for (int i = 0; i < N; i++)
        x[i] = (float)(1e30 * (2.0 * test_rng_uniform(&rng) - 1.0));
    x[N - 2] = 1e30f;
    x[N - 1] = 1e30f;
    float lse;
    expect_ok(flashc_softmax(1, N, x, N, y, N, FLASHC_F32, &lse));
    for (int i = 0; i < N; i++)
        assert_true(y[i] == (i < N - 2 ? 0.0f : 0.5f));
    assert_true(lse == 1e30f);
}

static void left_out_elements(void **state)
{
    (void)state;
    /* Two blocks; everything hidden but three elements far apart. */
    enum { N = 3000 };
    static const flashc_dtype all[] = {FLASHC_F32, FLASHC_F16, FLASHC_BF16};
    static float storage[N];
    for (int t = 0; t < 3; t++) {
        for (int visible = 0; visible < 4; visible++) {
            static const int where[] = {5, 1500, 2999};
            for (int i = 0; i < N; i++)
                set(storage, all[t], i, -(double)INFINITY);
            for (int k = 0; k < visible; k++)
                set(storage, all[t], where[k], 2.0);
            float lse;
            expect_ok(flashc_softmax(1, N, storage, N, storage, N, all[t], &lse));
            for (int i = 0; i < N; i++) {
                bool shown = false;
                for (int k = 0; k < visible; k++)
                    shown = shown || where[k] == i;
                double expected = shown ? test_decode(all[t], test_encode(all[t], 1.0 / visible)) : 0.0;
                assert_true((float)get(storage, all[t], i) == (float)expected);
            }
            assert_true(visible ? fabs((double)lse - (2.0 + log(visible))) < 1e-6 : lse == -INFINITY);
        }
    }
}

static void nan_and_positive_infinity_take_their_row_only(void **state)
{
    (void)state;
    enum { ROWS = 5, COLS = 2000 };
    static float x[ROWS * COLS], y[ROWS * COLS];
    for (int special = 0; special < 4; special++) {
        for (int i = 0; i < ROWS * COLS; i++)
            x[i] = (float)(i % 7);
        int at = special < 2 ? 0 : COLS - 1; /* first block, or last */
        x[1 * COLS + at] = special % 2 ? INFINITY : NAN;
        for (int i = 0; i < COLS; i++)
            x[3 * COLS + i] = -INFINITY; /* NaN as the only thing visible */
        x[3 * COLS + at] = special % 2 ? INFINITY : NAN;
        float lse[ROWS];
        expect_ok(flashc_softmax(ROWS, COLS, x, COLS, y, COLS, FLASHC_F32, lse));
        for (int row = 0; row < ROWS; row++) {
            bool bad = row == 1 || row == 3;
            assert_int_equal(isnan(lse[row]) != 0, bad);
            for (int i = 0; i < COLS; i++)
                assert_int_equal(isnan(y[row * COLS + i]) != 0, bad);
        }
    }
}

static void row_strides(void **state)
{
    (void)state;
    enum { ROWS = 3, COLS = 5, STRIDE = 8 };
    for (int t = 0; t < 3; t++) {
        flashc_dtype dtype = dtypes[t];
        int64_t element = (int64_t)flashc_dtype_size(dtype);
        float x[ROWS * STRIDE], y[ROWS * STRIDE], dense[ROWS * COLS], lse[ROWS], dense_lse[ROWS];
        for (int i = 0; i < ROWS * STRIDE; i++) {
            set(x, dtype, i, i * 0.25);
            set(y, dtype, i, 42.0);
        }
        for (int row = 0; row < ROWS; row++)
            expect_ok(flashc_softmax(1, COLS, (char *)x + row * STRIDE * element, 0,
                                     (char *)dense + row * COLS * element, 0, dtype, &dense_lse[row]));
        /* x forwards, y backwards */
        void *last_row = (char *)y + (ROWS - 1) * STRIDE * element;
        expect_ok(flashc_softmax(ROWS, COLS, x, STRIDE, last_row, -STRIDE, dtype, lse));
        for (int row = 0; row < ROWS; row++) {
            assert_true(lse[row] == dense_lse[row]);
            for (int col = 0; col < STRIDE; col++) {
                double expected = col < COLS ? get(dense, dtype, row * COLS + col) : 42.0;
                assert_true(get(y, dtype, (ROWS - 1 - row) * STRIDE + col) == expected);
            }
        }
        /* The same row for all, and in place */
        expect_ok(flashc_softmax(ROWS, COLS, x, 0, y, STRIDE, dtype, NULL));
        assert_memory_equal((char *)y + STRIDE * element, y, (size_t)(COLS * element));
        expect_ok(flashc_softmax(ROWS, COLS, x, STRIDE, x, STRIDE, dtype, NULL));
        for (int row = 0; row < ROWS; row++)
            assert_memory_equal((char *)x + row * STRIDE * element, (char *)dense + row * COLS * element,
                                (size_t)(COLS * element));
    }
}

static void nothing_to_do(void **state)
{
    (void)state;
    float lse[2] = {7.0f, 7.0f};
    expect_ok(flashc_softmax(0, 5, NULL, 5, NULL, 5, FLASHC_F32, lse));
    assert_true(lse[0] == 7.0f);
    expect_ok(flashc_softmax(2, 0, NULL, 0, NULL, 0, FLASHC_BF16, lse));
    assert_true(lse[0] == -INFINITY && lse[1] == -INFINITY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_and_type_within_the_bound),
        cmocka_unit_test(equal_elements_are_exact),
        cmocka_unit_test(huge_range_and_no_finite_sentinel),
        cmocka_unit_test(long_row_of_huge_range),
        cmocka_unit_test(left_out_elements),
        cmocka_unit_test(nan_and_positive_infinity_take_their_row_only),
        cmocka_unit_test(row_strides),
        cmocka_unit_test(nothing_to_do),
    };
    return cmocka_run_group_tests_name("softmax", tests, NULL, NULL);
}
