/* The online-softmax state: any cutting of the keys gives attention over all of them. */
#include "common.h"

#include "softmax/state_arrays.h"
#include "support/values.h"

#include <math.h>

#define U 0x1p-24
#define MAX_KEYS 700

typedef struct problem {
    uint64_t seed; /* printed with a failure */
    int64_t rows, keys, dim;
    float scores[MAX_ROWS * MAX_KEYS];
    float v[MAX_KEYS * MAX_DIM];
} problem;

static problem the_problem;

/* A quarter of the scores is hidden; the range makes the max rise often. */
static problem *random_problem(test_rng *rng, int64_t rows, int64_t keys, int64_t dim)
{
    problem *p = &the_problem;
    p->seed = rng->state; /* the seed, where nothing was drawn yet */
    p->rows = rows;
    p->keys = keys;
    p->dim = dim;
    for (int64_t i = 0; i < rows * keys; i++)
        p->scores[i] = test_rng_chance(rng, 25) ? -INFINITY : (float)(20.0 * test_rng_uniform(rng) - 10.0);
    for (int64_t i = 0; i < keys * dim; i++)
        p->v[i] = (float)test_rng_normal(rng);
    return p;
}

static void update_range(const flashc_softmax_state *state, const problem *p, int64_t first, int64_t n)
{
    expect_ok(flashc_softmax_state_update(state, n, p->scores + first, p->keys, p->v + first * p->dim, p->dim));
}

/* o and lse against plain sums in double, within the bound of flashc.h for n keys in chains of at
 * most n and `pieces` states or updates. */
static void check_result(const problem *p, const float *o, int64_t o_row_stride, const float *lse, int64_t pieces)
{
    for (int64_t row = 0; row < p->rows; row++) {
        const float *scores = p->scores + row * p->keys;
        double max = -(double)INFINITY, sum = 0.0, a = 0.0;
        for (int64_t key = 0; key < p->keys; key++) {
            max = fmax(max, (double)scores[key]);
            if (scores[key] != -INFINITY)
                a = fmax(a, fabs((double)scores[key]));
        }
        for (int64_t key = 0; key < p->keys; key++)
            sum += exp((double)scores[key] - max);
        double chain = 2.0 * (double)(p->keys + pieces);
        for (int64_t col = 0; col < p->dim; col++) {
            double exact = 0.0, weighted = 0.0;
            for (int64_t key = 0; key < p->keys; key++) {
                double term = exp((double)scores[key] - max) / sum * (double)p->v[key * p->dim + col];
                exact += term;
                weighted += fabs(term);
            }
            double found = (double)o[row * o_row_stride + col];
            double bound = U * (8.0 + 4.0 * a + chain) * weighted + test_half_ulp(FLASHC_F32, exact);
            if (!(fabs(found - exact) <= bound))
                fail_msg("seed %llu: o[%d][%d] is %.9g, expected %.9g +- %.3g", (unsigned long long)p->seed,
                         (int)row, (int)col, found, exact, bound);
        }
        double exact = max + log(sum);
        double bound = U * (16.0 * fmax(1.0, fmax(fabs(exact), a)) + chain);
        if (!(fabs((double)lse[row] - exact) <= bound))
            fail_msg("seed %llu: lse[%d] is %.9g, expected %.9g +- %.3g", (unsigned long long)p->seed, (int)row,
                     (double)lse[row], exact, bound);
    }
}

static void any_cut_into_updates_and_states(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 300; seed++) {
        test_rng rng = {seed};
        int64_t rows = test_rng_int(&rng, 1, MAX_ROWS), keys = test_rng_int(&rng, 40, MAX_KEYS);
        problem *p = random_problem(&rng, rows, keys, test_rng_int(&rng, 1, MAX_DIM));
        p->seed = seed;
        static arrays whole, piece;
        make_state(&whole, p->rows, p->dim, (int)test_rng_int(&rng, 0, 2));
        make_state(&piece, p->rows, p->dim, (int)test_rng_int(&rng, 0, 2));
        int64_t first = 0, pieces = 0;
        while (first < p->keys) {
            int64_t n = flashc_min(test_rng_int(&rng, 0, 200), p->keys - first);
            if (test_rng_chance(&rng, 50)) {
                update_range(&whole.state, p, first, n);
            } else {
                expect_ok(flashc_softmax_state_init(&piece.state));
                update_range(&piece.state, p, first, n);
                expect_ok(flashc_softmax_state_merge(&whole.state, &piece.state));
            }
            first += n;
            pieces++;
        }
        static float o[MAX_ROWS * MAX_DIM], lse[MAX_ROWS];
        expect_ok(flashc_softmax_state_finish(&whole.state, o, p->dim, lse));
        check_result(p, o, p->dim, lse, pieces);
    }
}

static void layout_does_not_change_the_bits(void **state)
{
    (void)state;
    test_rng rng = {4};
    problem *p = random_problem(&rng, 3, 300, 7);
    float o[3][3 * 7], lse[3][3];
    for (int layout = 0; layout < 3; layout++) {
        static arrays a, b;
        make_state(&a, 3, 7, layout);
        make_state(&b, 3, 7, 2 - layout);
        update_range(&a.state, p, 0, 100);
        update_range(&b.state, p, 100, 200);
        expect_ok(flashc_softmax_state_merge(&a.state, &b.state));
        expect_ok(flashc_softmax_state_finish(&a.state, o[layout], 7, lse[layout]));
    }
    for (int layout = 1; layout < 3; layout++) {
        assert_memory_equal(o[0], o[layout], sizeof o[0]);
        assert_memory_equal(lse[0], lse[layout], sizeof lse[0]);
    }
}

/* (a + b) + c and a + (b + c) within the bound; a + b and b + a to the bit. */
static void merge_is_associative_and_commutative(void **state)
{
    (void)state;
    test_rng rng = {5};
    problem *p = random_problem(&rng, 4, 600, 6);
    static arrays part[2][3];
    for (int copy = 0; copy < 2; copy++) {
        for (int i = 0; i < 3; i++) {
            make_state(&part[copy][i], 4, 6, 0);
            update_range(&part[copy][i].state, p, 200 * i, 200);
        }
    }
    float o[2][4 * 6], lse[2][4];
    expect_ok(flashc_softmax_state_merge(&part[0][0].state, &part[0][1].state));
    expect_ok(flashc_softmax_state_merge(&part[0][0].state, &part[0][2].state));
    expect_ok(flashc_softmax_state_finish(&part[0][0].state, o[0], 6, lse[0]));
    check_result(p, o[0], 6, lse[0], 3);
    expect_ok(flashc_softmax_state_merge(&part[1][1].state, &part[1][2].state));
    expect_ok(flashc_softmax_state_merge(&part[1][1].state, &part[1][0].state));
    expect_ok(flashc_softmax_state_finish(&part[1][1].state, o[1], 6, lse[1]));
    check_result(p, o[1], 6, lse[1], 3);

    for (int i = 0; i < 2; i++) {
        make_state(&part[i][0], 4, 6, 0);
        make_state(&part[i][1], 4, 6, 0);
        update_range(&part[i][0].state, p, 0, 250);
        update_range(&part[i][1].state, p, 250, 350);
        expect_ok(flashc_softmax_state_merge(&part[i][i].state, &part[i][1 - i].state));
        expect_ok(flashc_softmax_state_finish(&part[i][i].state, o[i], 6, lse[i]));
    }
    assert_memory_equal(o[0], o[1], sizeof o[0]);
    assert_memory_equal(lse[0], lse[1], sizeof lse[0]);
}

static void merge_does_not_change_from(void **state)
{
    (void)state;
    test_rng rng = {6};
    problem *p = random_problem(&rng, 2, 60, 3);
    static arrays a, b, copy;
    make_state(&a, 2, 3, 0);
    make_state(&b, 2, 3, 0);
    update_range(&a.state, p, 0, 30);
    update_range(&b.state, p, 30, 30);
    copy = b;
    expect_ok(flashc_softmax_state_merge(&a.state, &b.state));
    assert_memory_equal(&b, &copy, sizeof b);
}

/* Without a key: O = 0, LSE = -inf; merged with anything it changes nothing, whatever its acc holds. */
static void the_identity(void **state)
{
    (void)state;
    test_rng rng = {7};
    problem *p = random_problem(&rng, 2, 60, 3);
    static arrays empty, other, before;
    float o[6], lse[2];
    make_state(&empty, 2, 3, 0);
    make_state(&other, 2, 3, 0);
    for (int i = 0; i < 3; i++) {
        empty.state.acc[i] = NAN;
        empty.state.acc[empty.state.acc_row_stride + i] = INFINITY;
    }
    expect_ok(flashc_softmax_state_finish(&empty.state, o, 3, lse));
    for (int i = 0; i < 6; i++)
        assert_true(o[i] == 0.0f && !signbit(o[i]));
    assert_true(lse[0] == -INFINITY && lse[1] == -INFINITY);

    expect_ok(flashc_softmax_state_merge(&other.state, &empty.state)); /* identity + identity */
    expect_ok(flashc_softmax_state_finish(&other.state, o, 3, lse));
    assert_true(o[0] == 0.0f && o[5] == 0.0f && lse[0] == -INFINITY && lse[1] == -INFINITY);

    update_range(&other.state, p, 0, 60);
    before = other;
    expect_ok(flashc_softmax_state_merge(&other.state, &empty.state)); /* other + identity */
    assert_memory_equal(&other, &before, sizeof other);
    expect_ok(flashc_softmax_state_merge(&empty.state, &other.state)); /* identity + other */
    float o2[6], lse2[2];
    expect_ok(flashc_softmax_state_finish(&other.state, o, 3, lse));
    expect_ok(flashc_softmax_state_finish(&empty.state, o2, 3, lse2));
    assert_memory_equal(o, o2, sizeof o);
    assert_memory_equal(lse, lse2, sizeof lse);

    /* An update of nothing but hidden keys, and of no keys, leaves an identity; a NaN acc in it does
     * not reach the first keys either. */
    make_state(&empty, 1, 1, 0);
    empty.acc[0] = NAN;
    float scores[] = {-INFINITY, -INFINITY, 0.5f}, v[] = {NAN, INFINITY, 3.0f};
    expect_ok(flashc_softmax_state_update(&empty.state, 2, scores, 2, v, 1));
    expect_ok(flashc_softmax_state_update(&empty.state, 0, NULL, 0, NULL, 1));
    expect_ok(flashc_softmax_state_finish(&empty.state, o, 1, lse));
    assert_true(o[0] == 0.0f && lse[0] == -INFINITY);
    expect_ok(flashc_softmax_state_update(&empty.state, 3, scores, 3, v, 1));
    expect_ok(flashc_softmax_state_finish(&empty.state, o, 1, lse));
    assert_true(o[0] == 3.0f && lse[0] == 0.5f);
}

static void finish_in_place_and_in_parts(void **state)
{
    (void)state;
    test_rng rng = {10};
    problem *p = random_problem(&rng, 3, 50, 4);
    static arrays a;
    make_state(&a, 3, 4, 0);
    update_range(&a.state, p, 0, 50);
    float o[3 * 4], lse[3], lse_only[3];
    expect_ok(flashc_softmax_state_finish(&a.state, o, 4, lse));
    expect_ok(flashc_softmax_state_finish(&a.state, NULL, 0, lse_only));
    assert_memory_equal(lse, lse_only, sizeof lse);
    expect_ok(flashc_softmax_state_finish(&a.state, a.acc, a.state.acc_row_stride, NULL));
    for (int row = 0; row < 3; row++)
        assert_memory_equal(a.acc + row * a.state.acc_row_stride, o + row * 4, 4 * sizeof(float));
    /* Denominators only; nothing at all. */
    flashc_softmax_state no_v = {.rows = 3, .row_max = a.row_max, .row_sum = a.row_sum};
    expect_ok(flashc_softmax_state_init(&no_v));
    expect_ok(flashc_softmax_state_update(&no_v, 50, p->scores, 50, NULL, 0));
    expect_ok(flashc_softmax_state_finish(&no_v, NULL, 0, lse_only));
    assert_memory_equal(lse, lse_only, sizeof lse);
    flashc_softmax_state nothing = {.rows = 0, .head_dim_v = 4};
    expect_ok(flashc_softmax_state_init(&nothing));
    expect_ok(flashc_softmax_state_update(&nothing, 3, NULL, 3, NULL, 4));
    expect_ok(flashc_softmax_state_finish(&nothing, NULL, 4, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_cut_into_updates_and_states),
        cmocka_unit_test(layout_does_not_change_the_bits),
        cmocka_unit_test(merge_is_associative_and_commutative),
        cmocka_unit_test(merge_does_not_change_from),
        cmocka_unit_test(the_identity),
        cmocka_unit_test(finish_in_place_and_in_parts),
    };
    return cmocka_run_group_tests_name("softmax state", tests, NULL, NULL);
}
