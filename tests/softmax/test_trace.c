/* The step-by-step trace: its identities on random data and its limits. */
#include "flashc.h"

#include "support/expect.h"
#include "support/values.h"

#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* Double arithmetic: a few roundings of 2^-53 per step, on exponents of at most 40. */
#define RELATIVE 1e-13

static void assert_close(double found, double expected)
{
    if (!(fabs(found - expected) <= RELATIVE * fabs(expected)))
        fail_msg("expected %.17g, found %.17g", expected, found);
}

/* Every field from its definition, prefix by prefix, without recurrence. */
static void every_field_as_defined(void **state)
{
    (void)state;
    enum { MAX_N = 60 };
    for (uint64_t seed = 0; seed < 100; seed++) {
        test_rng rng = {seed};
        double x[MAX_N];
        flashc_trace_step steps[MAX_N];
        int n = (int)test_rng_int(&rng, 1, MAX_N);
        for (int i = 0; i < n; i++)
            x[i] = 40.0 * test_rng_uniform(&rng) - 20.0;
        expect_ok(flashc_softmax_trace(n, x, steps));
        double last_max = x[0];
        for (int i = 0; i < n; i++)
            last_max = x[i] > last_max ? x[i] : last_max;
        double total = 0.0;
        for (int i = 0; i < n; i++)
            total += exp(x[i] - last_max);
        double previous_max = -(double)INFINITY;
        for (int i = 0; i < n; i++) {
            double max = x[0], standard = 0.0, online = 0.0;
            for (int j = 0; j <= i; j++)
                max = x[j] > max ? x[j] : max;
            for (int j = 0; j <= i; j++) {
                standard += exp(x[j] - last_max);
                online += exp(x[j] - max);
            }
            assert_true(steps[i].x == x[i] && steps[i].row_max == max);
            assert_close(steps[i].denom_standard, standard);
            assert_close(steps[i].denom_online, online);
            assert_close(steps[i].scale, exp(last_max - max));
            assert_close(steps[i].correction, exp(previous_max - max));
            assert_close(steps[i].denom_online, steps[i].denom_standard * steps[i].scale);
            assert_close(steps[i].p_standard, exp(x[i] - last_max) / total);
            assert_close(steps[i].p_online, exp(x[i] - last_max) / total);
            previous_max = max;
        }
        assert_close(steps[n - 1].denom_online, steps[n - 1].denom_standard);
    }
}

static void extremes(void **state)
{
    (void)state;
    flashc_trace_step steps[3];
    double x[] = {-DBL_MAX, DBL_MAX, 0.0};
    expect_ok(flashc_softmax_trace(3, x, steps));
    assert_true(steps[0].row_max == -DBL_MAX && steps[1].row_max == DBL_MAX && steps[2].row_max == DBL_MAX);
    assert_true(steps[2].denom_online == 1.0 && steps[2].denom_standard == 1.0);
    assert_true(steps[0].p_online == 0.0 && steps[1].p_online == 1.0 && steps[2].p_online == 0.0);
    expect_ok(flashc_softmax_trace(1, x, steps));
    assert_true(steps[0].correction == 0.0 && steps[0].scale == 1.0 && steps[0].p_online == 1.0);
    expect_ok(flashc_softmax_trace(0, NULL, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_as_defined),
        cmocka_unit_test(extremes),
    };
    return cmocka_run_group_tests_name("softmax trace", tests, NULL, NULL);
}
