/* Every argument error of the softmax functions: its status, its message, and outputs as they were. */
#include "flashc.h"

#include "support/expect.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* A valid state of 2 rows and 3 columns, rows 6 elements apart. */
typedef struct arrays {
    float row_max[2], row_sum[2], acc[12];
    flashc_softmax_state state;
} arrays;

static void make_state(arrays *a)
{
    memset(a, 0, sizeof *a);
    flashc_softmax_state state = {.rows = 2, .head_dim_v = 3, .row_max = a->row_max, .row_sum = a->row_sum,
                                  .acc = a->acc, .acc_row_stride = 6, .acc_col_stride = 1};
    a->state = state;
    expect_ok(flashc_softmax_state_init(&a->state));
}

/* Rows of no elements are no work, however many. */
static void softmax_of_nothing(void **state)
{
    (void)state;
    expect_ok(flashc_softmax(INT64_MAX / 8, 0, NULL, 0, NULL, 0, FLASHC_F32, NULL));
}

static void expect_overlap(flashc_status status, const char *name, const char *other)
{
    const char *message = flashc_last_error();
    if (status != FLASHC_ERR_ARGUMENT || strncmp(message, name, strlen(name)) != 0 || !strstr(message, other))
        fail_msg("\"%s\", expected %s and \"%s\"", status == FLASHC_OK ? "" : message, name, other);
}

/* Outputs in other arguments; rows that interleave with them are fine. */
static void outputs_overlap(void **state)
{
    (void)state;
    float a[16] = {1, 2, 3, 4, 5, 6, 7, 8}, b[16] = {0};
    expect_overlap(flashc_softmax(2, 4, a, 4, a + 1, 4, FLASHC_F32, NULL), "y: expected", "overlaps x (");
    expect_overlap(flashc_softmax(2, 4, a + 1, 4, a, 4, FLASHC_F32, NULL), "y: expected", "overlaps x (");
    expect_overlap(flashc_softmax(2, 4, a, 4, b, 4, FLASHC_F32, a + 7), "lse: expected", "overlaps x (");
    expect_overlap(flashc_softmax(2, 4, a, 4, b, 4, FLASHC_F32, b), "lse: expected", "overlaps y (");
    for (int i = 0; i < 16; i++)
        assert_true(a[i] == (i < 8 ? (float)(i + 1) : 0.0f) && b[i] == 0.0f);
    expect_ok(flashc_softmax(2, 4, a, 8, a + 4, 8, FLASHC_F32, NULL));
    expect_ok(flashc_softmax(2, 4, a, 4, a, 4, FLASHC_F32, b));

    const float *os[1] = {a}, *ls[1] = {b};
    expect_overlap(flashc_merge_partials(1, 2, 4, os, ls, a, a), "lse: expected", "overlaps o (");
    expect_overlap(flashc_merge_partials(1, 2, 4, os, ls, b, NULL), "o: expected", "overlaps lse_parts[0] (");
    expect_overlap(flashc_merge_partials(1, 2, 4, os, ls, b + 2, a + 6), "lse: expected", "overlaps o_parts[0] (");
    expect_ok(flashc_merge_partials(1, 2, 4, os, ls, a, b));
}

static void softmax_refuses(void **state)
{
    (void)state;
    float x[8] = {1, 2, 3, 4, 5, 6, 7, 8}, y[8] = {9, 9, 9, 9, 9, 9, 9, 9}, lse[2] = {9, 9};
    expect_argument_error(flashc_softmax(-1, 4, x, 4, y, 4, FLASHC_F32, lse), "rows: expected 0 or more, found -1");
    expect_argument_error(flashc_softmax(2, -4, x, 4, y, 4, FLASHC_F32, lse), "cols: expected 0 or more, found -4");
    expect_argument_error(flashc_softmax(2, 4, x, 4, y, 4, FLASHC_BOOL, lse),
                          "dtype: expected f32, f16 or bf16, found bool (4)");
    expect_argument_error(flashc_softmax(2, 4, x, 4, y, 4, (flashc_dtype)0, lse),
                          "dtype: expected f32, f16 or bf16, found ? (0)");
    expect_argument_error(flashc_softmax(2, 4, NULL, 4, y, 4, FLASHC_F32, lse), "x: expected a pointer, found NULL");
    expect_argument_error(flashc_softmax(2, 4, x, 4, NULL, 4, FLASHC_F32, lse), "y: expected a pointer, found NULL");
    expect_argument_error(flashc_softmax(2, 4, x, 4, y, -3, FLASHC_F32, lse),
                          "y: expected rows that do not overlap, |row stride| >= 4, found row stride -3");
    expect_argument_error(flashc_softmax(2, 4, x, 4, y, 0, FLASHC_F32, lse),
                          "y: expected rows that do not overlap, |row stride| >= 4, found row stride 0");
    expect_argument_error(flashc_softmax(2, 4, x, INT64_MIN, y, 4, FLASHC_F32, lse),
                          "x: expected an array that fits in memory, found 2 x 4 elements with row stride "
                          "-9223372036854775808");
    expect_argument_error(flashc_softmax(3, 4, x, 4, y, INT64_MAX / 8, FLASHC_F32, lse),
                          "y: expected an array that fits in memory, found 3 x 4 elements with row stride "
                          "1152921504606846975");
    expect_argument_error(flashc_softmax(1, INT64_MAX, x, 4, y, 4, FLASHC_F16, lse),
                          "x: expected an array that fits in memory, found 1 x 9223372036854775807 elements with "
                          "row stride 4");
    expect_argument_error(flashc_softmax(3, 0, NULL, INT64_MAX, NULL, 0, FLASHC_F32, NULL),
                          "x: expected an array that fits in memory, found 3 x 0 elements with row stride "
                          "9223372036854775807");
    expect_argument_error(flashc_softmax(INT64_MAX, 0, x, 0, y, 0, FLASHC_F16, lse),
                          "lse: expected an array that fits in memory, found 1 x 9223372036854775807 elements with "
                          "row stride 9223372036854775807");
    expect_argument_error(flashc_softmax(2, 2, x, 2, x, 4, FLASHC_F32, lse),
                          "y: expected x's row stride 2 where it is x itself, found 4");
    for (int i = 0; i < 8; i++)
        assert_true(y[i] == 9.0f && x[i] == (float)(i + 1) && lse[i / 4] == 9.0f);
}

static void is_softmax_refuses(void **state)
{
    (void)state;
    float y[4] = {0.5f, 0.5f, 0.5f, 0.5f};
    int valid = 77;
    expect_argument_error(flashc_is_softmax(-1, 2, y, 2, FLASHC_F32, -1.0, &valid, NULL),
                          "rows: expected 0 or more, found -1");
    expect_argument_error(flashc_is_softmax(2, -2, y, 2, FLASHC_F32, -1.0, &valid, NULL),
                          "cols: expected 0 or more, found -2");
    expect_argument_error(flashc_is_softmax(2, 2, NULL, 2, FLASHC_F32, -1.0, &valid, NULL),
                          "y: expected a pointer, found NULL");
    expect_argument_error(flashc_is_softmax(2, 2, y, 2, FLASHC_BOOL, -1.0, &valid, NULL),
                          "dtype: expected f32, f16 or bf16, found bool (4)");
    expect_argument_error(flashc_is_softmax(2, 2, y, 2, FLASHC_F32, -1.0, NULL, NULL),
                          "valid: expected a pointer, found NULL");
    expect_argument_error(flashc_is_softmax(2, 2, y, 2, FLASHC_F32, (double)NAN, &valid, NULL),
                          "tolerance: expected a number, found NaN");
    assert_int_equal(valid, 77);
}

static void state_refuses_bad_layouts(void **state)
{
    (void)state;
    static arrays a;
    make_state(&a);
    expect_argument_error(flashc_softmax_state_init(NULL), "state: expected a pointer, found NULL");
    flashc_softmax_state s = a.state;
    s.rows = -1;
    expect_argument_error(flashc_softmax_state_init(&s), "state->rows: expected 0 or more, found -1");
    s = a.state;
    s.head_dim_v = -2;
    expect_argument_error(flashc_softmax_state_init(&s), "state->head_dim_v: expected 0 or more, found -2");
    s = a.state;
    s.row_max = NULL;
    expect_argument_error(flashc_softmax_state_init(&s), "state->row_max: expected a pointer, found NULL");
    s = a.state;
    s.row_sum = NULL;
    expect_argument_error(flashc_softmax_state_finish(&s, NULL, 0, NULL),
                          "state->row_sum: expected a pointer, found NULL");
    s = a.state;
    s.acc = NULL;
    expect_argument_error(flashc_softmax_state_merge(&a.state, &s), "from->acc: expected a pointer, found NULL");
    s = a.state;
    s.acc_row_stride = INT64_MIN;
    expect_argument_error(flashc_softmax_state_init(&s),
                          "state: expected an array that fits in memory, found 2 x 3 elements with strides "
                          "-9223372036854775808, 1");
    s = a.state;
    s.rows = INT64_MAX;
    expect_argument_error(flashc_softmax_state_init(&s),
                          "state: expected an array that fits in memory, found 9223372036854775807 x 3 elements with "
                          "strides 6, 1");
    static const int64_t overlapping[][2] = {{2, 1}, {0, 1}, {3, 0}, {1, 1}, {-2, 1}, {2, -2}, {1, 1}};
    for (size_t i = 0; i < sizeof overlapping / sizeof overlapping[0]; i++) {
        char message[160];
        snprintf(message, sizeof message,
                 "state->acc: expected elements that do not overlap, found 2 x 3 elements with strides %d, %d",
                 (int)overlapping[i][0], (int)overlapping[i][1]);
        s = a.state;
        s.acc_row_stride = overlapping[i][0];
        s.acc_col_stride = overlapping[i][1];
        expect_argument_error(flashc_softmax_state_init(&s), message);
    }
    static const int64_t separate[][2] = {{3, 1}, {1, 2}, {5, 2}, {1, 7}};
    for (size_t i = 0; i < sizeof separate / sizeof separate[0]; i++) {
        s = a.state;
        s.acc_row_stride = separate[i][0];
        s.acc_col_stride = separate[i][1];
        expect_ok(flashc_softmax_state_init(&s));
    }
}

static void state_refuses(void **state)
{
    (void)state;
    static arrays a, b, before;
    make_state(&a);
    make_state(&b);
    before = a;
    float x[12] = {0};
    expect_argument_error(flashc_softmax_state_update(NULL, 2, x, 2, x, 3), "state: expected a pointer, found NULL");
    expect_argument_error(flashc_softmax_state_update(&a.state, -2, x, 2, x, 3),
                          "n_keys: expected 0 or more, found -2");
    expect_argument_error(flashc_softmax_state_update(&a.state, 2, NULL, 2, x, 3),
                          "scores: expected a pointer, found NULL");
    expect_argument_error(flashc_softmax_state_update(&a.state, 2, x, 2, NULL, 3), "v: expected a pointer, found NULL");
    expect_argument_error(flashc_softmax_state_update(&a.state, 2, x, INT64_MAX, x, 3),
                          "scores: expected an array that fits in memory, found 2 x 2 elements with row stride "
                          "9223372036854775807");
    expect_argument_error(flashc_softmax_state_update(&a.state, 2, x, 2, x, INT64_MIN),
                          "v: expected an array that fits in memory, found 2 x 3 elements with row stride "
                          "-9223372036854775808");
    expect_argument_error(flashc_softmax_state_merge(NULL, &b.state), "into: expected a pointer, found NULL");
    expect_argument_error(flashc_softmax_state_merge(&a.state, NULL), "from: expected a pointer, found NULL");
    expect_argument_error(flashc_softmax_state_merge(&a.state, &a.state),
                          "from: expected another state than into, found the same");
    b.state.rows = 1;
    expect_argument_error(flashc_softmax_state_merge(&a.state, &b.state),
                          "from->rows: expected into->rows (2), found 1");
    b.state.rows = 2;
    b.state.head_dim_v = 1;
    expect_argument_error(flashc_softmax_state_merge(&a.state, &b.state),
                          "from->head_dim_v: expected into->head_dim_v (3), found 1");
    expect_argument_error(flashc_softmax_state_finish(NULL, x, 3, NULL), "state: expected a pointer, found NULL");
    expect_argument_error(flashc_softmax_state_finish(&a.state, x, 2, NULL),
                          "o: expected rows that do not overlap, |row stride| >= 3, found row stride 2");
    expect_argument_error(flashc_softmax_state_finish(&a.state, a.acc, 4, NULL),
                          "o: expected state->acc's strides 6, 1 where it is that array, found 4, 1");
    assert_memory_equal(&a, &before, sizeof a);
}

static void merge_partials_refuses(void **state)
{
    (void)state;
    float a[8] = {1, 2, 3, 4}, b[4] = {5, 6, 7, 8}, la[4] = {0, 0}, lb[2] = {1, 1};
    float o[4] = {9, 9, 9, 9}, lse[2] = {9, 9};
    const float *os[] = {a, b}, *ls[] = {la, lb};
    const float *o_null[] = {a, NULL}, *l_null[] = {la, NULL};
    expect_argument_error(flashc_merge_partials(0, 2, 2, os, ls, o, lse), "n_parts: expected 1 or more, found 0");
    expect_argument_error(flashc_merge_partials(-5, 2, 2, os, ls, o, lse), "n_parts: expected 1 or more, found -5");
    expect_argument_error(flashc_merge_partials(2, -2, 2, os, ls, o, lse), "rows: expected 0 or more, found -2");
    expect_argument_error(flashc_merge_partials(2, 2, -1, os, ls, o, lse), "head_dim_v: expected 0 or more, found -1");
    expect_argument_error(flashc_merge_partials(2, 2, 2, NULL, ls, o, lse), "o_parts: expected a pointer, found NULL");
    expect_argument_error(flashc_merge_partials(2, 2, 2, os, NULL, o, lse),
                          "lse_parts: expected a pointer, found NULL");
    expect_argument_error(flashc_merge_partials(2, 2, 2, os, ls, NULL, lse), "o: expected a pointer, found NULL");
    expect_argument_error(flashc_merge_partials(2, 2, 2, o_null, ls, o, lse),
                          "o_parts[1]: expected a pointer, found NULL");
    expect_argument_error(flashc_merge_partials(2, 2, 2, os, l_null, o, lse),
                          "lse_parts[1]: expected a pointer, found NULL");
    expect_argument_error(flashc_merge_partials(2, 2, 2, os, ls, a + 1, lse),
                          "o: expected o_parts[0] itself or no overlap with it, found a part of it");
    expect_argument_error(flashc_merge_partials(2, 2, 2, os, ls, o, la + 1),
                          "lse: expected lse_parts[0] itself or no overlap with it, found a part of it");
    expect_argument_error(flashc_merge_partials(2, INT64_MAX, 2, os, ls, o, lse),
                          "o: expected an array that fits in memory, found 9223372036854775807 x 2 elements with row "
                          "stride 2");
    expect_argument_error(flashc_merge_partials(2, INT64_MAX, 0, os, ls, o, lse),
                          "lse_parts: expected an array that fits in memory, found 1 x 9223372036854775807 elements "
                          "with row stride 9223372036854775807");
    for (int i = 0; i < 4; i++)
        assert_true(o[i] == 9.0f && lse[i / 2] == 9.0f && a[i] == (float)(i + 1));
}

static void trace_refuses(void **state)
{
    (void)state;
    double x[] = {1.0, (double)NAN, 3.0}, y[] = {1.0, 2.0, -(double)INFINITY};
    flashc_trace_step steps[3], before[3];
    memset(steps, 0x55, sizeof steps);
    memcpy(before, steps, sizeof steps);
    expect_argument_error(flashc_softmax_trace(-3, x, steps), "n: expected 0 or more, found -3");
    expect_argument_error(flashc_softmax_trace(3, NULL, steps), "x: expected a pointer, found NULL");
    expect_argument_error(flashc_softmax_trace(3, x, NULL), "steps: expected a pointer, found NULL");
    expect_argument_error(flashc_softmax_trace(3, x, steps), "x[1]: expected a finite value, found nan");
    expect_argument_error(flashc_softmax_trace(3, y, steps), "x[2]: expected a finite value, found -inf");
    expect_argument_error(flashc_softmax_trace(INT64_MAX / 32, x, steps),
                          "steps: expected an array that fits in memory, found 1 x 288230376151711743 elements with "
                          "row stride 288230376151711743");
    assert_memory_equal(steps, before, sizeof steps);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(softmax_of_nothing),
        cmocka_unit_test(outputs_overlap),
        cmocka_unit_test(softmax_refuses),
        cmocka_unit_test(is_softmax_refuses),
        cmocka_unit_test(state_refuses_bad_layouts),
        cmocka_unit_test(state_refuses),
        cmocka_unit_test(merge_partials_refuses),
        cmocka_unit_test(trace_refuses),
    };
    return cmocka_run_group_tests_name("softmax arguments", tests, NULL, NULL);
}
