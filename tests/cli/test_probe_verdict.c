/* The verdict behind `explain --probe`, which is pure: when do timings speak against the kernel that was chosen? */
#include "cli/bench.h"
#include "cli/probe.h"

#include "support/cmocka.h"

#include <math.h>
#include <string.h>

enum { ROUNDS = 12 };

static flashc_probe_verdict judge(const double *speed)
{
    double chosen[ROUNDS], rival[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        rival[i] = 1e-3 * (1 + i % 3); /* the machine's own pace changes, for both */
        chosen[i] = rival[i] * speed[i];
    }
    return flashc_probe_judge(ROUNDS, chosen, rival);
}

static flashc_probe_verdict judge_steady(double speed)
{
    double all[ROUNDS];
    for (int i = 0; i < ROUNDS; i++)
        all[i] = speed;
    return judge(all);
}

static void only_more_than_the_margin_disagrees(void **state)
{
    (void)state;
    assert_false(judge_steady(0.5).disagrees);
    assert_false(judge_steady(1.0).disagrees);
    assert_false(judge_steady(1.0 + FLASHC_PROBE_MARGIN - 1e-6).disagrees);
    assert_true(judge_steady(1.0 + FLASHC_PROBE_MARGIN + 1e-6).disagrees);
    assert_true(judge_steady(5.0).disagrees);
    assert_true(fabs(judge_steady(1.25).speed - 1.25) < 1e-12);
}

static void disturbed_rounds_do_not_decide(void **state)
{
    (void)state;
    /* Fast, but for three rounds of twelve in which something else ran in the rival's time. */
    const double fast[ROUNDS] = {1.1, 1.1, 0.01, 1.1, 1.1, 1.1, 0.02, 1.1, 1.1, 1.1, 1.1, 0.01};
    assert_true(judge(fast).disagrees);
    /* Equal, but for three rounds in which it ran in the chosen kernel's. */
    const double equal[ROUNDS] = {1.0, 50.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0, 1.0, 70.0, 1.0, 1.0};
    assert_false(judge(equal).disagrees);
    assert_true(fabs(judge(equal).speed - 1.0) < 1e-12);
}

static void rounds_that_differ_too_much_say_nothing(void **state)
{
    (void)state;
    const double unclear[ROUNDS] = {1.2, 0.9, 1.3, 0.8, 1.2, 0.9, 1.3, 0.8, 1.2, 0.9, 1.3, 1.2};
    const flashc_probe_verdict verdict = judge(unclear);
    assert_true(verdict.speed > 1.0 + FLASHC_PROBE_MARGIN && verdict.low < 1.0 && verdict.high > 1.0);
    assert_false(verdict.disagrees);
}

static void few_rounds(void **state)
{
    (void)state;
    const double chosen[] = {3.0, 5.0}, rival[] = {2.0, 2.0};
    assert_true(flashc_probe_judge(1, chosen, rival).disagrees);
    assert_true(fabs(flashc_probe_judge(1, chosen, rival).speed - 1.5) < 1e-12);
    assert_true(fabs(flashc_probe_judge(2, chosen, rival).speed - 2.0) < 1e-12);
}

/* Of numbers in any order; the spread is that of a sample. */
static void statistics(void **state)
{
    (void)state;
    static const struct {
        int n;
        double values[4];
        double mean, median, stddev, cv, min, max;
    } cases[] = {{4, {3, 10, 1, 2}, 4, 2.5, 4.08248290463863, 1.0206207261596576, 1, 10},
                 {3, {5, -1, 2}, 2, 2, 3, 1.5, -1, 5},
                 {1, {7}, 7, 7, 0, 0, 7, 7},
                 {2, {-1, 1}, 0, 0, 1.4142135623730951, 0, -1, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const double expected[] = {cases[i].mean, cases[i].median, cases[i].stddev,
                                   cases[i].cv,   cases[i].min,    cases[i].max};
        static const flashc_bench_statistic which[] = {FLASHC_BENCH_MEAN, FLASHC_BENCH_MEDIAN, FLASHC_BENCH_STDDEV,
                                                       FLASHC_BENCH_CV,   FLASHC_BENCH_MIN,    FLASHC_BENCH_MAX};
        for (int s = 0; s < 6; s++) {
            double values[4];
            memcpy(values, cases[i].values, sizeof values);
            const double found = flashc_bench_statistic_of(cases[i].n, values, which[s]);
            if (!(fabs(found - expected[s]) <= 1e-12))
                fail_msg("statistic %d of case %zu: expected %g, found %g", s, i, expected[s], found);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_more_than_the_margin_disagrees),
        cmocka_unit_test(disturbed_rounds_do_not_decide),
        cmocka_unit_test(rounds_that_differ_too_much_say_nothing),
        cmocka_unit_test(few_rounds),
        cmocka_unit_test(statistics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
