/* The online-softmax state and values that are special: hidden keys, NaN, infinity, the largest and the smallest. */
#include "softmax/state.h"

#include "softmax/state_arrays.h"
#include "support/values.h"

#include <float.h>
#include <math.h>

/* Whatever V holds where a key is hidden, the bits are those without it; per row. */
static void hidden_keys_have_no_influence(void **state)
{
    (void)state;
    static arrays clean, poisoned;
    float scores[2][4] = {{1.0f, -INFINITY, 2.0f, -INFINITY}, {-INFINITY, -INFINITY, 0.25f, -INFINITY}};
    float v[4][2] = {{1, 2}, {3, 4}, {5, 6}, {7, 8}};
    make_state(&clean, 2, 2, 0);
    make_state(&poisoned, 2, 2, 0);
    expect_ok(flashc_softmax_state_update(&clean.state, 4, &scores[0][0], 4, &v[0][0], 2));
    v[1][0] = NAN;
    v[1][1] = INFINITY;
    v[3][0] = -INFINITY;
    v[3][1] = NAN;
    expect_ok(flashc_softmax_state_update(&poisoned.state, 4, &scores[0][0], 4, &v[0][0], 2));
    assert_memory_equal(clean.row_max, poisoned.row_max, 2 * sizeof(float));
    assert_memory_equal(clean.row_sum, poisoned.row_sum, 2 * sizeof(float));
    assert_memory_equal(clean.acc, poisoned.acc, sizeof clean.acc);
}

static void nan_in_v_reaches_its_column_only(void **state)
{
    (void)state;
    static arrays a;
    float scores[2][3] = {{0, 1, 2}, {0, -INFINITY, 2}};
    float v[3][3] = {{1, 1, 1}, {NAN, 1, INFINITY}, {1, 1, 1}};
    make_state(&a, 2, 3, 1);
    expect_ok(flashc_softmax_state_update(&a.state, 3, &scores[0][0], 3, &v[0][0], 3));
    /* The max rises by more than exp can follow: 0 * infinity is not a number either. */
    float later[2] = {200.0f, 200.0f}, one[3] = {1, 1, 1};
    float o[2][3], lse[2];
    for (int step = 0; step < 2; step++) {
        expect_ok(flashc_softmax_state_finish(&a.state, &o[0][0], 3, lse));
        assert_true(isnan(o[0][0]) && o[0][1] == 1.0f && !isfinite(o[0][2]));
        assert_true(o[1][0] == 1.0f && o[1][1] == 1.0f && o[1][2] == 1.0f);
        assert_true(isfinite(lse[0]) && isfinite(lse[1]));
        expect_ok(flashc_softmax_state_update(&a.state, 1, later, 1, one, 3));
    }
}

/* A NaN score or +inf makes its row NaN for good, before, between or after other keys, through merges
 * from either side; the other rows do not notice. */
static void nan_scores_take_their_row_only(void **state)
{
    (void)state;
    static const float specials[] = {NAN, INFINITY};
    for (int special = 0; special < 2; special++) {
        for (int at = 0; at < 3; at++) {
            for (int from_right = 0; from_right < 2; from_right++) {
                static arrays a, b;
                make_state(&a, 2, 2, 0);
                make_state(&b, 2, 2, 0);
                float v[2] = {0.0f, 5.0f};
                for (int step = 0; step < 3; step++) {
                    float scores[2] = {step == at ? specials[special] : (float)step, (float)step};
                    expect_ok(flashc_softmax_state_update(step == 1 ? &b.state : &a.state, 1, scores, 1, v, 2));
                }
                arrays *into = from_right ? &b : &a, *from = from_right ? &a : &b;
                expect_ok(flashc_softmax_state_merge(&into->state, &from->state));
                float o[4], lse[2];
                expect_ok(flashc_softmax_state_finish(&into->state, o, 2, lse));
                assert_true(isnan(o[0]) && isnan(o[1]) && isnan(lse[0]));
                assert_true(o[2] == 0.0f && fabsf(o[3] - 5.0f) < 1e-5f && isfinite(lse[1]));
            }
        }
    }
    /* NaN as all that is visible is not the identity. A kernel whose max drops NaN leaves this: */
    static arrays dropped, fresh;
    make_state(&dropped, 1, 1, 0);
    make_state(&fresh, 1, 1, 0);
    dropped.row_sum[0] = NAN;
    dropped.acc[0] = NAN;
    float o, lse;
    expect_ok(flashc_softmax_state_merge(&fresh.state, &dropped.state));
    expect_ok(flashc_softmax_state_finish(&fresh.state, &o, 1, &lse));
    assert_true(isnan(o) && isnan(lse));
}

static void huge_logits(void **state)
{
    (void)state;
    static arrays a;
    make_state(&a, 1, 1, 0);
    float scores[] = {-FLT_MAX, -FLT_MAX, -2e30f, -2e30f, 1e30f}, v[] = {1, 3, 5, 7, 9};
    static const float expected_o[] = {2.0f, 6.0f, 9.0f}, expected_lse[] = {-FLT_MAX, -2e30f, 1e30f};
    for (int step = 0; step < 3; step++) {
        float o, lse;
        expect_ok(flashc_softmax_state_update(&a.state, step < 2 ? 2 : 1, scores + 2 * step, 2, v + 2 * step, 1));
        expect_ok(flashc_softmax_state_finish(&a.state, &o, 1, &lse));
        assert_true(o == expected_o[step] && lse == expected_lse[step]);
    }
}

/* Within 1 ulp where the result is a normal number, exactly 0 below. */
static void weights_are_exp(void **state)
{
    (void)state;
    test_rng rng = {9};
    for (int i = 0; i < 1000000; i++) {
        float x = (float)(-100.0 * test_rng_uniform(&rng));
        double exact = exp((double)x), found = (double)flashc_exp(x);
        double expected = exact < 0x1p-126 ? 0.0 : exact;
        if (!(fabs(found - expected) <= 2.0 * test_half_ulp(FLASHC_F32, expected)))
            fail_msg("exp(%.9g) is %.9g, expected %.9g", (double)x, found, expected);
    }
    assert_true(exp((double)FLASHC_EXP_MIN) >= 0x1p-126);
    assert_true(exp((double)nextafterf(FLASHC_EXP_MIN, -100.0f)) < 0x1p-126);
    assert_true(flashc_exp(FLASHC_EXP_MIN) >= FLT_MIN);
    assert_true(flashc_exp(nextafterf(FLASHC_EXP_MIN, -100.0f)) == 0.0f);
    assert_true(flashc_exp(-INFINITY) == 0.0f && flashc_exp(0.0f) == 1.0f && isnan(flashc_exp(NAN)));
}

/* A negative partial sum that a later key shrinks away is +0. */
static void zero_is_positive(void **state)
{
    (void)state;
    static arrays a;
    make_state(&a, 1, 1, 0);
    float scores[] = {0.0f, 80.0f}, v[] = {-1e-20f, -0.0f}, o, lse;
    for (int i = 0; i < 2; i++)
        expect_ok(flashc_softmax_state_update(&a.state, 1, scores + i, 1, v + i, 1));
    expect_ok(flashc_softmax_state_finish(&a.state, &o, 1, &lse));
    assert_true(o == 0.0f && !signbit(o));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hidden_keys_have_no_influence),
        cmocka_unit_test(nan_in_v_reaches_its_column_only),
        cmocka_unit_test(nan_scores_take_their_row_only),
        cmocka_unit_test(huge_logits),
        cmocka_unit_test(weights_are_exp),
        cmocka_unit_test(zero_is_positive),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
