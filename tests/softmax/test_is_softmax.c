/* flashc_is_softmax: what it takes for a softmax, and by which tolerance. */
#include "flashc.h"

#include "support/cmocka.h"
#include "support/expect.h"

#include <stdlib.h>

static void is_softmax_judges(void **state)
{
    (void)state;
    float y[] = {0.25f, 0.75f, 0.5f, 0.5f, 0.5f, 0.501f, 1.5f, -0.5f, NAN, 1.0f};
    int valid;
    int64_t bad_row;
    expect_ok(flashc_is_softmax(2, 2, y, 2, FLASHC_F32, -1.0, &valid, &bad_row));
    assert_int_equal(valid, 1);
    assert_int_equal(bad_row, -1);
    expect_ok(flashc_is_softmax(5, 2, y, 2, FLASHC_F32, -1.0, &valid, &bad_row));
    assert_int_equal(valid, 0);
    assert_int_equal(bad_row, 2); /* sums to 1.001 */
    expect_ok(flashc_is_softmax(5, 2, y, 2, FLASHC_F32, 0.002, &valid, &bad_row));
    assert_int_equal(valid, 0);
    assert_int_equal(bad_row, 3); /* negative, though it sums to 1 */
    expect_ok(flashc_is_softmax(1, 2, y + 8, 2, FLASHC_F32, 1e30, &valid, &bad_row));
    assert_int_equal(valid, 0); /* NaN */
    expect_ok(flashc_is_softmax(1, 2, y + 4, 2, FLASHC_F32, (double)INFINITY, &valid, NULL));
    assert_int_equal(valid, 1);
    float exact[] = {0.5f, 0.5f};
    expect_ok(flashc_is_softmax(1, 2, exact, 2, FLASHC_F32, 0.0, &valid, NULL));
    assert_int_equal(valid, 1);
    /* The same row twice, and rows taken backwards */
    expect_ok(flashc_is_softmax(9, 2, exact, 0, FLASHC_F32, 0.0, &valid, &bad_row));
    assert_int_equal(valid, 1);
    expect_ok(flashc_is_softmax(5, 2, y + 8, -2, FLASHC_F32, 0.002, &valid, &bad_row));
    assert_int_equal(bad_row, 0);
    /* Every row of none; a row of no elements is no softmax, also where the tolerance would let its sum of 0 pass. */
    expect_ok(flashc_is_softmax(0, 2, NULL, 2, FLASHC_F16, -1.0, &valid, &bad_row));
    assert_int_equal(valid, 1);
    for (int i = 0; i < 2; i++) {
        expect_ok(flashc_is_softmax(1, 0, NULL, 0, FLASHC_F16, i == 0 ? -1.0 : 1.0, &valid, &bad_row));
        assert_int_equal(valid, 0);
        assert_int_equal(bad_row, 0);
    }
}

/* The default tolerance is the header's: just inside passes, just outside fails. */
static void is_softmax_default_tolerance(void **state)
{
    (void)state;
    double f32_tolerance = 4 * 0x1p-25 + 1e-6;
    float inside[4] = {0.25f, 0.25f, 0.25f, 0.25f + (float)(0.9 * f32_tolerance)};
    float outside[4] = {0.25f, 0.25f, 0.25f, 0.25f + (float)(1.1 * f32_tolerance)};
    int valid;
    expect_ok(flashc_is_softmax(1, 4, inside, 4, FLASHC_F32, -1.0, &valid, NULL));
    assert_int_equal(valid, 1);
    expect_ok(flashc_is_softmax(1, 4, outside, 4, FLASHC_F32, -1.0, &valid, NULL));
    assert_int_equal(valid, 0);
    /* 16-bit: 0.5 + 0.5 + d, with d the unit roundoff (inside by 1e-6) and one a little larger. */
    double steps[][2] = {{0x1p-11, 0x1p-11 + 0x1p-16}, {0x1p-8, 0x1p-8 + 0x1p-14}};
    for (int t = 0; t < 2; t++) {
        flashc_dtype dtype = t ? FLASHC_BF16 : FLASHC_F16;
        for (int i = 0; i < 2; i++) {
            const float row[3] = {0.5f, 0.5f, (float)steps[t][i]};
            float back[3];
            uint16_t y[3];
            expect_ok(flashc_convert(y, dtype, row, FLASHC_F32, 3));
            expect_ok(flashc_convert(back, FLASHC_F32, y, dtype, 3));
            assert_true((double)back[2] == steps[t][i]); /* the type has it */
            expect_ok(flashc_is_softmax(1, 3, y, 3, dtype, -1.0, &valid, NULL));
            assert_int_equal(valid, i == 0);
        }
    }
}

/* In f16 small weights are multiples of 2^-24: so many of them may be off by half of that each. */
static void is_softmax_of_many_small_weights(void **state)
{
    (void)state;
    enum { COLS = 100000 }; /* 1 / COLS is 167.8 * 2^-24 */
    uint16_t *y = malloc(COLS * sizeof *y);
    const uint16_t codes[2] = {168, 169};
    assert_non_null(y);
    for (int i = 0; i < 2; i++) {
        int valid;
        for (int col = 0; col < COLS; col++)
            y[col] = codes[i];
        expect_ok(flashc_is_softmax(1, COLS, y, COLS, FLASHC_F16, -1.0, &valid, NULL));
        assert_int_equal(valid, i == 0);
    }
    free(y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_softmax_judges),
        cmocka_unit_test(is_softmax_default_tolerance),
        cmocka_unit_test(is_softmax_of_many_small_weights),
    };
    return cmocka_run_group_tests_name("is_softmax", tests, NULL, NULL);
}
