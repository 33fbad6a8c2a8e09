/* Merging states that lie one lane per row, as attention's do, gives the bits that it gives row by row, and both
 * are the union; with and without rows that have seen no key, whose acc is garbage. */
#include "softmax/state.h"

#include "support/cmocka.h"
#include "support/expect.h"
#include "support/values.h"

#include <math.h>
#include <string.h>

enum { MAX_ROWS = 150, MAX_DIM = 9 };

/* exp and a product each way, the addition, and the exponent's own rounding for differences of up to 30. */
static const double TOLERANCE = (4.0 + 30.0) * 0x1p-24;

typedef struct arrays {
    float row_max[MAX_ROWS], row_sum[MAX_ROWS], acc[MAX_ROWS * MAX_DIM];
    flashc_softmax_state state;
} arrays;

static void random_state(arrays *a, int64_t rows, int64_t dim, int percent_empty, test_rng *rng)
{
    a->state = (flashc_softmax_state){rows, dim, a->row_max, a->row_sum, a->acc, dim, 1};
    for (int64_t row = 0; row < rows; row++) {
        const bool empty = test_rng_chance(rng, percent_empty);
        a->row_max[row] = empty ? -INFINITY : (float)(15.0 * (2.0 * test_rng_uniform(rng) - 1.0));
        a->row_sum[row] = empty ? 0.0f : (float)(1.0 + test_rng_uniform(rng));
        for (int64_t col = 0; col < dim; col++)
            a->acc[row * dim + col] = empty ? NAN : (float)test_rng_normal(rng);
    }
}

/* The same state, one lane per row. */
static void transpose(arrays *to, const arrays *from)
{
    const int64_t rows = from->state.rows, dim = from->state.head_dim_v;
    *to = *from;
    to->state = (flashc_softmax_state){rows, dim, to->row_max, to->row_sum, to->acc, 1, rows};
    for (int64_t row = 0; row < rows; row++)
        for (int64_t col = 0; col < dim; col++)
            to->acc[col * rows + row] = from->acc[row * dim + col];
}

static double part(const arrays *a, int64_t row, double x, double max)
{
    return a->row_max[row] == -INFINITY ? 0.0 : x * exp((double)a->row_max[row] - max);
}

static void check(const arrays *a, const arrays *b, int64_t rows, int64_t dim)
{
    static arrays by_row, lanes, from_lanes;
    by_row = *a;
    by_row.state = (flashc_softmax_state){rows, dim, by_row.row_max, by_row.row_sum, by_row.acc, dim, 1};
    transpose(&lanes, a);
    transpose(&from_lanes, b);
    expect_ok(flashc_softmax_state_merge(&by_row.state, &b->state));
    expect_ok(flashc_softmax_state_merge(&lanes.state, &from_lanes.state));
    assert_memory_equal(by_row.row_max, lanes.row_max, (size_t)rows * sizeof(float));
    assert_memory_equal(by_row.row_sum, lanes.row_sum, (size_t)rows * sizeof(float));
    for (int64_t row = 0; row < rows; row++) {
        const double max = fmax((double)a->row_max[row], (double)b->row_max[row]);
        if (max == -(double)INFINITY)
            continue;
        const double sum = part(a, row, (double)a->row_sum[row], max) + part(b, row, (double)b->row_sum[row], max);
        assert_true((double)lanes.row_max[row] == max);
        assert_true(fabs((double)lanes.row_sum[row] - sum) <= TOLERANCE * sum);
        for (int64_t col = 0; col < dim; col++) {
            const float got = lanes.acc[col * rows + row];
            assert_memory_equal(&got, &by_row.acc[row * dim + col], sizeof got);
            const double x = part(a, row, (double)a->acc[row * dim + col], max);
            const double y = part(b, row, (double)b->acc[row * dim + col], max);
            assert_true(fabs((double)got - (x + y)) <= TOLERANCE * (fabs(x) + fabs(y)));
        }
    }
}

static void layouts_agree(void **state)
{
    (void)state;
    static const int64_t all_rows[] = {1, 2, 63, 64, 65, 128, 150};
    static const int percents[] = {0, 1, 30, 100};
    static arrays a, b;
    test_rng rng = {17};
    for (size_t r = 0; r < sizeof all_rows / sizeof all_rows[0]; r++)
        for (int64_t dim = 0; dim <= MAX_DIM; dim++)
            for (int n = 0; n < 16; n++) {
                random_state(&a, all_rows[r], dim, percents[n % 4], &rng);
                random_state(&b, all_rows[r], dim, percents[n / 4], &rng);
                check(&a, &b, all_rows[r], dim);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(layouts_agree)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
