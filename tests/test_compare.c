/* flashc_compare(). */
#include "flashc.h"

#include "support/cmocka.h"
#include "support/expect.h"

#include <math.h>

static void compare_finds_the_largest_excess(void **state)
{
    (void)state;
    float a[] = {1.0f, 100.0f, 2.5f, 0.0f};
    float b[] = {1.0f, 101.0f, 2.0f, -0.0f};
    flashc_compare_report r;
    /* |a-b| = 0 1 0.5 0 against 0.01|b| + 0.1 = 0.11 1.11 0.12 0.1 */
    expect_ok(flashc_compare(4, a, FLASHC_F32, b, FLASHC_F32, 0.01, 0.1, &r));
    assert_int_equal(r.equal, 0);
    assert_int_equal(r.mismatches, 1);
    assert_int_equal(r.worst, 2);
    assert_true(r.max_abs_error == 1.0);
    assert_int_equal(r.max_abs_index, 1);
    /* The tolerance itself is inside. */
    expect_ok(flashc_compare(4, a, FLASHC_F32, b, FLASHC_F32, 0.0, 1.0, &r));
    assert_int_equal(r.equal, 1);
    assert_int_equal(r.mismatches, 0);
    assert_int_equal(r.worst, 1);
    expect_ok(flashc_compare(4, a, FLASHC_F32, b, FLASHC_F32, 0.0, nextafter(1.0, 0.0), &r));
    assert_int_equal(r.equal, 0);
    /* rtol is relative to b, not to a: 1 <= 101/100.5, but not 1 <= 100/100.5. */
    expect_ok(flashc_compare(1, &a[1], FLASHC_F32, &b[1], FLASHC_F32, 1.0 / 100.5, 0.0, &r));
    assert_int_equal(r.equal, 1);
    expect_ok(flashc_compare(1, &b[1], FLASHC_F32, &a[1], FLASHC_F32, 1.0 / 100.5, 0.0, &r));
    assert_int_equal(r.equal, 0);
}

static void compare_nan_and_infinity(void **state)
{
    (void)state;
    float a[] = {NAN, INFINITY, -INFINITY, 1.0f};
    float b[] = {NAN, INFINITY, -INFINITY, 1.5f};
    flashc_compare_report r;
    expect_ok(flashc_compare(3, a, FLASHC_F32, b, FLASHC_F32, 0.0, 0.0, &r));
    assert_int_equal(r.equal, 1);
    assert_int_equal(r.worst, 0);
    assert_true(r.max_abs_error == 0.0);
    assert_int_equal(r.max_abs_index, -1); /* nothing is finite in both */
    expect_ok(flashc_compare(4, a, FLASHC_F32, b, FLASHC_F32, 0.0, 1.0, &r));
    assert_int_equal(r.equal, 1);
    assert_int_equal(r.worst, 3);
    assert_int_equal(r.max_abs_index, 3);

    float pairs[][2] = {{NAN, 1.0f}, {1.0f, NAN}, {INFINITY, 1.0f}, {1.0f, INFINITY}, {INFINITY, -INFINITY},
                        {NAN, INFINITY}, {-INFINITY, NAN}, {-INFINITY, INFINITY}};
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        expect_ok(flashc_compare(1, &pairs[i][0], FLASHC_F32, &pairs[i][1], FLASHC_F32, 1e30, 1e30, &r));
        assert_int_equal(r.equal, 0);
        assert_int_equal(r.mismatches, 1);
        assert_int_equal(r.worst, 0);
    }
}

static void compare_across_types(void **state)
{
    (void)state;
    float exact[] = {1.0f, 61000.0f};
    uint16_t rounded[] = {0x3f80, 0x476e}; /* bf16 1, 60928 */
    flashc_compare_report r;
    expect_ok(flashc_compare(2, exact, FLASHC_F32, rounded, FLASHC_BF16, 0.0, 71.0, &r));
    assert_int_equal(r.mismatches, 1);
    assert_int_equal(r.worst, 1);
    assert_true(r.max_abs_error == 72.0);
    expect_ok(flashc_compare(2, rounded, FLASHC_BF16, exact, FLASHC_F32, 0.0, 72.0, &r));
    assert_int_equal(r.equal, 1);
    expect_ok(flashc_compare(0, NULL, FLASHC_BF16, NULL, FLASHC_F16, 0.0, 0.0, &r));
    assert_int_equal(r.equal, 1);
    assert_int_equal(r.worst, -1);
}

static void compare_refuses(void **state)
{
    (void)state;
    float a[2] = {1, 2}, b[2] = {1, 2};
    flashc_compare_report r = {.worst = 77};
    expect_argument_error(flashc_compare(-2, a, FLASHC_F32, b, FLASHC_F32, 0.0, 0.0, &r),
                          "n: expected an array that fits in memory, found -2 elements");
    expect_argument_error(flashc_compare(2, NULL, FLASHC_F32, b, FLASHC_F32, 0.0, 0.0, &r),
                          "a: expected a pointer, found NULL");
    expect_argument_error(flashc_compare(2, a, FLASHC_F32, NULL, FLASHC_F32, 0.0, 0.0, &r),
                          "b: expected a pointer, found NULL");
    expect_argument_error(flashc_compare(2, a, FLASHC_BOOL, b, FLASHC_F32, 0.0, 0.0, &r),
                          "a_dtype: expected f32, f16 or bf16, found bool (4)");
    expect_argument_error(flashc_compare(2, a, FLASHC_F32, b, (flashc_dtype)0, 0.0, 0.0, &r),
                          "b_dtype: expected f32, f16 or bf16, found ? (0)");
    expect_argument_error(flashc_compare(2, a, FLASHC_F32, b, FLASHC_F32, -1.0, 0.0, &r),
                          "rtol: expected a finite value, 0 or more, found -1");
    expect_argument_error(flashc_compare(2, a, FLASHC_F32, b, FLASHC_F32, 0.0, (double)INFINITY, &r),
                          "atol: expected a finite value, 0 or more, found inf");
    expect_argument_error(flashc_compare(2, a, FLASHC_F32, b, FLASHC_F32, 0.0, 0.0, NULL),
                          "out: expected a pointer, found NULL");
    assert_int_equal(r.worst, 77);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compare_finds_the_largest_excess),
        cmocka_unit_test(compare_nan_and_infinity),
        cmocka_unit_test(compare_across_types),
        cmocka_unit_test(compare_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
