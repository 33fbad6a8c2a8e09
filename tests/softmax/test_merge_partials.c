/* Merging partial attention results (O, LSE) over disjoint keys. */
#include "softmax/state.h"

#include "support/expect.h"
#include "support/values.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define U 0x1p-24
#define MAX_PARTS 33
#define ROWS 3
#define MAX_DIM 40
#define KEYS_PER_PART 7

typedef struct parts {
    int64_t n, dim;
    float o[MAX_PARTS][ROWS * MAX_DIM], lse[MAX_PARTS][ROWS];
    const float *o_parts[MAX_PARTS], *lse_parts[MAX_PARTS];
    float scores[MAX_PARTS][ROWS * KEYS_PER_PART];
    float v[MAX_PARTS][KEYS_PER_PART * MAX_DIM];
} parts;

static parts the_parts;

/* Parts computed from scores and V; some of their rows see no key, and hold NaN in O. */
static parts *make_parts(uint64_t seed, int64_t n, int64_t dim)
{
    test_rng rng = {seed};
    parts *p = &the_parts;
    p->n = n;
    p->dim = dim;
    for (int64_t part = 0; part < n; part++) {
        float row_max[ROWS], row_sum[ROWS], acc[ROWS * MAX_DIM];
        flashc_softmax_state state = {.rows = ROWS, .head_dim_v = dim, .row_max = row_max, .row_sum = row_sum,
                                      .acc = acc, .acc_row_stride = dim, .acc_col_stride = 1};
        for (int64_t row = 0; row < ROWS; row++) {
            bool unseen = test_rng_chance(&rng, 20);
            for (int key = 0; key < KEYS_PER_PART; key++)
                p->scores[part][row * KEYS_PER_PART + key] =
                    unseen ? -INFINITY : (float)(20.0 * test_rng_uniform(&rng) - 10.0);
        }
        for (int64_t i = 0; i < KEYS_PER_PART * dim; i++)
            p->v[part][i] = (float)test_rng_normal(&rng);
        expect_ok(flashc_softmax_state_init(&state));
        expect_ok(flashc_softmax_state_update(&state, KEYS_PER_PART, p->scores[part], KEYS_PER_PART, p->v[part], dim));
        expect_ok(flashc_softmax_state_finish(&state, p->o[part], dim, p->lse[part]));
        for (int64_t row = 0; row < ROWS; row++) {
            for (int64_t col = 0; col < dim && p->lse[part][row] == -INFINITY; col++)
                p->o[part][row * dim + col] = NAN;
        }
        p->o_parts[part] = p->o[part];
        p->lse_parts[part] = p->lse[part];
    }
    return p;
}

static void agrees_with_attention_over_all_keys(void **state)
{
    (void)state;
    static const int64_t dims[] = {1, 15, 16, 17, 40};
    for (uint64_t seed = 0; seed < 200; seed++) {
        int64_t n = 1 + (int64_t)(seed % MAX_PARTS);
        parts *p = make_parts(seed, n, dims[seed % 5]);
        float o[ROWS * MAX_DIM], lse[ROWS];
        expect_ok(flashc_merge_partials(n, ROWS, p->dim, p->o_parts, p->lse_parts, o, lse));
        for (int64_t row = 0; row < ROWS; row++) {
            double sum = 0.0;
            for (int64_t part = 0; part < n; part++)
                for (int key = 0; key < KEYS_PER_PART; key++)
                    sum += exp((double)p->scores[part][row * KEYS_PER_PART + key]);
            /* Scores are at most 10. Each part carries its own rounding of O, and an LSE that is wrong by
             * half an ulp of at most 12 (16 u in the bound of LSE), which scales its weight. */
            double chain = 2.0 * (double)(KEYS_PER_PART + n);
            double relative = U * (8.0 + 4.0 * 10.0 + 2.0 * 16.0 * 12.0 + chain);
            for (int64_t col = 0; col < p->dim; col++) {
                double exact = 0.0, weighted = 0.0;
                for (int64_t part = 0; part < n && sum > 0.0; part++) {
                    for (int key = 0; key < KEYS_PER_PART; key++) {
                        double term = exp((double)p->scores[part][row * KEYS_PER_PART + key]) / sum *
                                      (double)p->v[part][key * p->dim + col];
                        exact += term;
                        weighted += fabs(term);
                    }
                }
                double found = (double)o[row * p->dim + col];
                if (!(fabs(found - exact) <= relative * weighted))
                    fail_msg("seed %d: o[%d][%d] is %.9g, expected %.9g", (int)seed, (int)row, (int)col, found, exact);
            }
            double exact = log(sum);
            if (!(lse[row] == (float)exact || fabs((double)lse[row] - exact) <= U * (16.0 * 12.0 + chain)))
                fail_msg("seed %d: lse[%d] is %.9g, expected %.9g", (int)seed, (int)row, (double)lse[row], exact);
        }
    }
}

/* The documented tree by hand: the left subtree takes the largest power of two below count. */
static void merge_by_hand(const parts *p, int64_t first, int64_t count, const flashc_softmax_state *into)
{
    if (count == 1) {
        for (int64_t row = 0; row < ROWS; row++) {
            into->row_max[row] = p->lse[first][row];
            into->row_sum[row] = p->lse[first][row] == -INFINITY ? 0.0f : 1.0f;
            memcpy(into->acc + row * p->dim, p->o[first] + row * p->dim, (size_t)p->dim * sizeof(float));
        }
        return;
    }
    int64_t left = 1;
    while (left * 2 < count)
        left *= 2;
    float row_max[ROWS], row_sum[ROWS], acc[ROWS * MAX_DIM];
    flashc_softmax_state right = *into;
    right.row_max = row_max;
    right.row_sum = row_sum;
    right.acc = acc;
    merge_by_hand(p, first, left, into);
    merge_by_hand(p, first + left, count - left, &right);
    expect_ok(flashc_softmax_state_merge(into, &right));
}

static void the_tree_is_fixed_to_the_bit(void **state)
{
    (void)state;
    for (int64_t n = 1; n <= MAX_PARTS; n++) {
        parts *p = make_parts((uint64_t)n, n, 21);
        float row_max[ROWS], row_sum[ROWS], acc[ROWS * MAX_DIM];
        flashc_softmax_state root = {.rows = ROWS, .head_dim_v = 21, .row_max = row_max, .row_sum = row_sum,
                                     .acc = acc, .acc_row_stride = 21, .acc_col_stride = 1};
        float by_hand[ROWS * 21], lse_by_hand[ROWS], o[ROWS * 21], lse[ROWS];
        merge_by_hand(p, 0, n, &root);
        expect_ok(flashc_softmax_state_finish(&root, by_hand, 21, lse_by_hand));
        expect_ok(flashc_merge_partials(n, ROWS, 21, p->o_parts, p->lse_parts, o, lse));
        assert_memory_equal(o, by_hand, sizeof o);
        assert_memory_equal(lse, lse_by_hand, sizeof lse);
    }
}

static void output_may_be_any_part(void **state)
{
    (void)state;
    enum { N = 6, DIM = 20 };
    float o[ROWS * DIM], lse[ROWS];
    expect_ok(flashc_merge_partials(N, ROWS, DIM, make_parts(3, N, DIM)->o_parts, the_parts.lse_parts, o, lse));
    for (int target = 0; target < N; target++) {
        parts *p = make_parts(3, N, DIM);
        int lse_target = (target + 2) % N;
        expect_ok(flashc_merge_partials(N, ROWS, DIM, p->o_parts, p->lse_parts, p->o[target], p->lse[lse_target]));
        assert_memory_equal(p->o[target], o, sizeof o);
        assert_memory_equal(p->lse[lse_target], lse, sizeof lse);
        p = make_parts(3, N, DIM);
        expect_ok(flashc_merge_partials(N, ROWS, DIM, p->o_parts, p->lse_parts, p->o[target], NULL));
        assert_memory_equal(p->o[target], o, sizeof o);
    }
}

static void one_part_is_itself(void **state)
{
    (void)state;
    parts *p = make_parts(11, 1, 9);
    float o[ROWS * 9], lse[ROWS];
    p->lse[0][1] = -INFINITY;
    expect_ok(flashc_merge_partials(1, ROWS, 9, p->o_parts, p->lse_parts, o, lse));
    assert_memory_equal(lse, p->lse[0], sizeof lse);
    for (int i = 0; i < ROWS * 9; i++)
        assert_true(o[i] == (p->lse[0][i / 9] == -INFINITY ? 0.0f : p->o[0][i]));
}

static void identities(void **state)
{
    (void)state;
    float garbage[2] = {NAN, INFINITY}, value[2] = {3.0f, -4.0f}, empty = -INFINITY, some = 2.5f;
    float o[2] = {9, 9}, lse = 9;
    const float *none[] = {garbage, garbage, garbage}, *lse_none[] = {&empty, &empty, &empty};
    for (int64_t n = 1; n <= 3; n++) {
        expect_ok(flashc_merge_partials(n, 1, 2, none, lse_none, o, &lse));
        assert_true(o[0] == 0.0f && o[1] == 0.0f && !signbit(o[1]) && lse == -INFINITY);
    }
    for (int at = 0; at < 3; at++) {
        const float *o_parts[] = {garbage, garbage, garbage}, *lse_parts[] = {&empty, &empty, &empty};
        o_parts[at] = value;
        lse_parts[at] = &some;
        expect_ok(flashc_merge_partials(3, 1, 2, o_parts, lse_parts, o, &lse));
        assert_true(o[0] == 3.0f && o[1] == -4.0f && lse == 2.5f);
    }
}

/* NaN in a part's LSE takes the row, in O its column; an LSE of +inf is no attention's result. */
static void nan_and_infinity(void **state)
{
    (void)state;
    for (int at = 0; at < 4; at++) {
        float o_part[4][4] = {{1, 1, 1, 1}, {1, 1, 1, 1}, {1, 1, 1, 1}, {1, 1, 1, 1}};
        float lse_part[4][2] = {{0, 1}, {-1, 3}, {2, -INFINITY}, {5, 0}};
        const float *o_parts[] = {o_part[0], o_part[1], o_part[2], o_part[3]};
        const float *lse_parts[] = {lse_part[0], lse_part[1], lse_part[2], lse_part[3]};
        float o[4], lse[2];
        float keep = lse_part[at][0];
        o_part[at][1] = NAN;
        expect_ok(flashc_merge_partials(4, 2, 2, o_parts, lse_parts, o, lse));
        assert_true(o[0] == 1.0f && isnan(o[1]) && isfinite(lse[0]));
        o_part[at][1] = 1.0f;
        static const float specials[] = {NAN, INFINITY};
        for (int i = 0; i < 2; i++) {
            lse_part[at][0] = specials[i];
            expect_ok(flashc_merge_partials(4, 2, 2, o_parts, lse_parts, o, lse));
            assert_true(isnan(o[0]) && isnan(o[1]) && isnan(lse[0]));
            assert_true(fabsf(o[2] - 1.0f) < 1e-6f && fabsf(o[3] - 1.0f) < 1e-6f && isfinite(lse[1]));
            expect_ok(flashc_merge_partials(1, 1, 2, &o_parts[at], &lse_parts[at], o, lse));
            assert_true(isnan(o[0]) && isnan(o[1]) && isnan(lse[0]));
        }
        lse_part[at][0] = keep;
    }
}

static void far_apart_and_far_down(void **state)
{
    (void)state;
    float a[] = {1.0f}, b[] = {5.0f}, lse_a[] = {-2e30f}, lse_b[] = {-3e38f}, o, lse;
    const float *o_parts[] = {a, b}, *lse_parts[] = {lse_a, lse_b};
    expect_ok(flashc_merge_partials(2, 1, 1, o_parts, lse_parts, &o, &lse));
    assert_true(o == 1.0f && lse == -2e30f);
    lse_b[0] = 1e30f;
    expect_ok(flashc_merge_partials(2, 1, 1, o_parts, lse_parts, &o, &lse));
    assert_true(o == 5.0f && lse == 1e30f);
    lse_a[0] = lse_b[0] = -3e38f;
    expect_ok(flashc_merge_partials(2, 1, 1, o_parts, lse_parts, &o, &lse));
    assert_true(o == 3.0f && lse == -3e38f);
    lse_a[0] = lse_b[0] = 3.4e38f;
    a[0] = b[0] = 1.7e38f; /* their sum is the most that there may be */
    expect_ok(flashc_merge_partials(2, 1, 1, o_parts, lse_parts, &o, &lse));
    assert_true(o == 1.7e38f && lse == 3.4e38f);
}

static void without_columns_or_rows(void **state)
{
    (void)state;
    float lse_a[2] = {0.0f, 1.0f}, lse_b[2] = {0.0f, -INFINITY}, lse[2];
    const float *lse_parts[] = {lse_a, lse_b};
    expect_ok(flashc_merge_partials(2, 2, 0, NULL, lse_parts, NULL, lse));
    assert_true(lse[0] == (float)log(2.0) && lse[1] == 1.0f);
    expect_ok(flashc_merge_partials(2, 0, 4, NULL, NULL, NULL, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_attention_over_all_keys),
        cmocka_unit_test(the_tree_is_fixed_to_the_bit),
        cmocka_unit_test(output_may_be_any_part),
        cmocka_unit_test(one_part_is_itself),
        cmocka_unit_test(identities),
        cmocka_unit_test(nan_and_infinity),
        cmocka_unit_test(far_apart_and_far_down),
        cmocka_unit_test(without_columns_or_rows),
    };
    return cmocka_run_group_tests_name("merge partials", tests, NULL, NULL);
}
