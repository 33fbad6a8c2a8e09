/* The caller's floating-point mode changes no bit of what the softmax functions and flashc_compare() give. */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/float_mode.h"
#include "support/values.h"

#include <string.h>

enum { ROWS = 3, COLS = 700, DIM = 5, FIRST = 300, STEPS = 20 };

static float x[ROWS * COLS], v[COLS * DIM];
static double logits[STEPS];

/* All that the functions give, without padding between. */
typedef struct results {
    float y[ROWS * COLS], lse[ROWS];
    float o[ROWS * DIM], o_lse[ROWS];
    float merged[ROWS * DIM], merged_lse[ROWS];
    flashc_trace_step steps[STEPS];
    double max_abs_error;
    int64_t mismatches, valid;
} results;

/* Scores whose smaller weights, and values, are subnormal: flushing would turn them into 0. Here, not in run(): what is
 * divided there is rounded in the odd mode, where the compiler leaves it to run time. */
static void fill(void)
{
    test_rng rng = {3};
    for (int i = 0; i < STEPS; i++)
        logits[i] = (double)(i * 7 % STEPS) / 3.0;
    for (int i = 0; i < ROWS * COLS; i++)
        x[i] = i % 9 == 0 ? -86.0f : (float)test_rng_normal(&rng);
    for (int i = 0; i < COLS * DIM; i++)
        v[i] = i % DIM == 0 ? 3e-40f * (float)(i % 7) : (float)test_rng_normal(&rng);
}

static void two_states(results *r)
{
    float row_max[2][ROWS], row_sum[2][ROWS], acc[2][ROWS * DIM];
    flashc_softmax_state state[2];
    for (int i = 0; i < 2; i++) {
        const int begin = i == 0 ? 0 : FIRST, n = i == 0 ? FIRST : COLS - FIRST;
        state[i] = (flashc_softmax_state){ROWS, DIM, row_max[i], row_sum[i], acc[i], DIM, 1};
        expect_ok(flashc_softmax_state_init(&state[i]));
        expect_ok(flashc_softmax_state_update(&state[i], n, x + begin, COLS, v + begin * DIM, DIM));
    }
    float o[ROWS * DIM], lse[ROWS];
    expect_ok(flashc_softmax_state_finish(&state[1], o, DIM, lse));
    expect_ok(flashc_softmax_state_finish(&state[0], r->merged, DIM, r->merged_lse));
    const float *const o_parts[] = {r->merged, o}, *const lse_parts[] = {r->merged_lse, lse};
    expect_ok(flashc_merge_partials(2, ROWS, DIM, o_parts, lse_parts, r->merged, r->merged_lse));
    expect_ok(flashc_softmax_state_merge(&state[0], &state[1]));
    expect_ok(flashc_softmax_state_finish(&state[0], r->o, DIM, r->o_lse));
}

static flashc_status run(void *argument)
{
    results *r = argument;
    int valid;
    flashc_compare_report report;
    memset(r, 0, sizeof *r);
    expect_ok(flashc_softmax(ROWS, COLS, x, COLS, r->y, COLS, FLASHC_F32, r->lse));
    two_states(r);
    expect_ok(flashc_softmax_trace(STEPS, logits, r->steps));
    expect_ok(flashc_is_softmax(ROWS, COLS, r->y, COLS, FLASHC_F32, 0x1p-18, &valid, NULL));
    static const float zero[COLS * DIM];
    expect_ok(flashc_compare(COLS * DIM, v, FLASHC_F32, zero, FLASHC_F32, 0.0, 0.0, &report));
    assert_int_equal(flashc_compare(1, v, FLASHC_F32, v, FLASHC_F32, -5e-324, 0.0, &report), FLASHC_ERR_ARGUMENT);
    r->valid = valid;
    r->mismatches = report.mismatches;
    r->max_abs_error = report.max_abs_error;
    return FLASHC_OK;
}

static void same_in_every_mode(void **state)
{
    (void)state;
    static results plain, odd;
    fill();
    run(&plain);
    for (int mode = 0; mode < FLOAT_MODES; mode++) {
        in_float_mode(mode, run, &odd);
        assert_memory_equal(plain.y, odd.y, sizeof plain.y);
        assert_memory_equal(plain.lse, odd.lse, sizeof plain.lse);
        assert_memory_equal(plain.o, odd.o, sizeof plain.o);
        assert_memory_equal(plain.o_lse, odd.o_lse, sizeof plain.o_lse);
        assert_memory_equal(plain.merged, odd.merged, sizeof plain.merged);
        assert_memory_equal(plain.merged_lse, odd.merged_lse, sizeof plain.merged_lse);
        assert_memory_equal(plain.steps, odd.steps, sizeof plain.steps);
        assert_int_equal(plain.valid, odd.valid);
        assert_int_equal(plain.mismatches, odd.mismatches);
        assert_true(plain.max_abs_error == odd.max_abs_error);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_in_every_mode)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
