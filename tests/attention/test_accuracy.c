/* 16-bit results beside the best that their type allows: the exact result, rounded. Standard normal data, many
 * elements; every kernel, on inputs of the type it gives back. And data that make rounding errors large. */
#include "support/bound.h"
#include "support/kernels.h"

#include "support/cmocka.h"

#include <math.h>

/* Root mean square and largest error, as multiples of those that rounding the exact result makes. */
typedef struct ratios {
    double rms, largest;
} ratios;

static ratios measure(const char *kernel, flashc_dtype dtype)
{
    problem p = problem_on(kernel, (problem_shape){1, 4, 2, 96, 1000, 64, 64}, dtype, 17);
    p.params.o.dtype = dtype; /* the memory of f32 has room */
    oracle exact;
    oracle_attention(&p.params, &exact);
    run_problem(&p);
    double sum = 0, best_sum = 0, largest = 0, best_largest = 0;
    for (int64_t at = 0; at < exact.rows * exact.head_dim_v; at++) {
        const int64_t row = at / exact.head_dim_v, queries = p.params.seqlen_q;
        const double got = test_get(&p.params.o, 0, row / queries, row % queries, at % exact.head_dim_v);
        const double best = test_decode(dtype, test_encode(dtype, exact.o[at])) - exact.o[at];
        const double error = got - exact.o[at];
        sum += error * error;
        best_sum += best * best;
        largest = fmax(largest, fabs(error));
        best_largest = fmax(best_largest, fabs(best));
    }
    oracle_free(&exact);
    problem_free(&p);
    return (ratios){.rms = sqrt(sum / best_sum), .largest = largest / best_largest};
}

/* f32 arithmetic loses nothing that 16 bits could show; weights of bf16 are as coarse as the result itself. */
static void near_the_rounded_exact_result(const char *kernel)
{
    for (flashc_dtype dtype = FLASHC_F16; dtype <= FLASHC_BF16; dtype++) {
        problem p;
        problem_plain(&p, &(problem_shape){1, 1, 1, 1, 64, 64, 64}, dtype, 1);
        p.params.kernel = kernel;
        const bool bf16 = plan_of(&p).compute == FLASHC_COMPUTE_BF16;
        problem_free(&p);
        if (bf16 && dtype != FLASHC_BF16)
            continue;
        const ratios found = measure(kernel, dtype);
        print_message("%s, %s: rms %.3f, largest %.3f of rounding alone\n", kernel, flashc_dtype_name(dtype),
                      found.rms, found.largest);
        if (!(found.rms <= (bf16 ? 1.5 : 1.1) && found.largest <= (bf16 ? 2.0 : 1.1))) /* NaN is in rms */
            fail_msg("%s, %s: the error is %.3f (rms) and %.3f (largest) times that of rounding alone", kernel,
                     flashc_dtype_name(dtype), found.rms, found.largest);
    }
}

/* 70,000 keys of large numbers: q . k, the sum of the weights, and that of the weighted V, each beyond the largest f16,
 * and beyond the integers that f16 and bf16 tell apart. */
static void long_sums_of_16_bit_numbers(const char *kernel)
{
    enum { KEYS = 70000, DIM = 64, DIM_V = 16 };
    for (flashc_dtype dtype = FLASHC_F16; dtype <= FLASHC_BF16; dtype++) {
        problem p = problem_on(kernel, (problem_shape){1, 1, 1, 1, KEYS, DIM, DIM_V}, dtype, 1);
        p.params.softmax_scale = 1e-4f; /* the same score for all keys: 23.04 */
        for (int64_t i = 0; i < p.params.seqlen_q * DIM; i++)
            test_set(&p.params.q, 0, 0, i / DIM, i % DIM, 60.0);
        for (int64_t j = 0; j < KEYS; j++) {
            for (int64_t d = 0; d < DIM; d++)
                test_set(&p.params.k, 0, 0, j, d, 60.0);
            for (int64_t d = 0; d < DIM_V; d++)
                test_set(&p.params.v, 0, 0, j, d, (j + d) % 2 == 0 ? 65024.0 : 1.0);
        }
        p.zero_mean = false;
        run_and_check(&p);
        problem_free(&p);
    }
}

static void set_all(const flashc_tensor *t, int64_t rows, int64_t columns, double value)
{
    for (int64_t n = 0; n < rows * columns; n++)
        test_set(t, 0, 0, n / columns, n % columns, value);
}

/* All products of q . k are the same number, so that the roundings of a sum of theirs may all go one way; and rows
 * longer than a tile of many of them can be. */
static void long_rows(const char *kernel)
{
    static const int64_t head_dims[] = {192, 512, 1000, 40000};
    for (int n = 0; n < 4; n++) {
        problem p = problem_on(kernel, (problem_shape){1, 1, 1, 2, 3, head_dims[n], 8}, FLASHC_F32, 23);
        if (n < 3) {
            set_all(&p.params.q, p.params.seqlen_q, head_dims[n], 0.7);
            set_all(&p.params.k, 3, head_dims[n], 1.1);
            p.zero_mean = false;
        }
        run_and_check(&p);
        problem_free(&p);
    }
}

/* Distances that f32 does not hold: ALiBi of scores of 0 is the rounded exact product, in tiles of any place. */
static void far_alibi_is_rounded_once(const char *kernel)
{
    static const int64_t offsets[] = {(1 << 24) - 290, (1 << 24) + 1, 35769082, ((int64_t)1 << 33) + 1, -75018629};
    for (size_t n = 0; n < sizeof offsets / sizeof offsets[0]; n++) {
        problem p = problem_on(kernel, (problem_shape){1, 2, 1, 5, 600, 8, 8}, FLASHC_F32, 7);
        float *slopes = problem_add_alibi(&p, false);
        problem_add_outputs(&p, FLASHC_SCORES_MASKED, FLASHC_F32);
        problem_add_array(&p, ARRAY_OFFSETS, offsets[n]);
        p.params.alignment = FLASHC_ALIGN_EXPLICIT;
        p.params.softmax_scale = 0.0f;
        slopes[0] = 0.000261809f;
        slopes[1] = -slopes[0];
        run_problem(&p);
        const int64_t queries = p.params.seqlen_q;
        for (int64_t at = 0; at < 2 * queries * 600; at++) {
            const int64_t j = at % 600, i = at / 600 % queries, h = at / 600 / queries;
            const double exact = -(double)slopes[h] * fabs((double)(offsets[n] + i - j));
            const double got = test_get(&p.params.scores, 0, h, i, j);
            if (!(fabs(got - exact) <= test_half_ulp(FLASHC_F32, exact)))
                fail_msg("%s: at %lld from key %lld %.9g, expected %.9g", kernel, (long long)(offsets[n] + i),
                         (long long)j, got, exact);
        }
        problem_free(&p);
    }
}

/*
 * Dot products whose every rounding is as large as can be and goes the same way: a first product L, then products of a
 * little more than half the step of f32 numbers above L, which each sum takes for a whole step. The other key has the
 * same logit in one product, so that the error of the difference is all in the weights. L is a power of two: steps
 * above it are the largest for its size.
 */
static void roundings_that_pile_up(const char *kernel)
{
    static const int64_t head_dims[] = {2, 16, 64, 65, 128, 512, 2048};
    double largest = 0.0;
    for (size_t n = 0; n < sizeof head_dims / sizeof head_dims[0]; n++) {
        const int64_t dim = head_dims[n];
        for (double logit = 1.0; logit <= 128.0; logit *= 8.0) {
            problem p = problem_on(kernel, (problem_shape){1, 1, 1, 1, 2, dim, 1}, FLASHC_F32, 1);
            const double rest = logit * 0x1.02p-24;
            p.params.softmax_scale = 1.0f;
            set_all(&p.params.q, 1, dim, 1.0);
            set_all(&p.params.k, 2, dim, 0.0);
            for (int64_t d = 0; d < dim; d++)
                test_set(&p.params.k, 0, 0, 0, d, d == 0 ? logit : rest);
            test_set(&p.params.k, 0, 0, 1, 0, logit + (double)(dim - 1) * rest);
            test_set(&p.params.v, 0, 0, 0, 0, 1.0);
            test_set(&p.params.v, 0, 0, 1, 0, -1.0);
            run_problem(&p);
            oracle exact;
            oracle_attention(&p.params, &exact);
            const flashc_explanation plan = plan_of(&p);
            char message[512];
            if (!bound_check_any_data(&p.params, &exact, &plan, message, sizeof message))
                fail_msg("%s, head_dim %lld, logit %g: %s", kernel, (long long)dim, logit, message);
            const double with_c_4 = bound_o(&exact, 0, 0, bound_terms_of(&p.params, &plan), FLASHC_F32);
            largest = fmax(largest, fabs(test_get(&p.params.o, 0, 0, 0, 0) - exact.o[0]) / with_c_4);
            oracle_free(&exact);
            problem_free(&p);
        }
    }
    print_message("%s: at most %.2f times the bound with c = 4\n", kernel, largest);
}

/* Inputs halfway between numbers of bf16: products are off by all that flashc.h says, 2^-7 of them, and so is LSE. */
static void inputs_that_bf16_rounds_most(const char *kernel)
{
    const double tie = 1.0 + ldexp(1.0, -8);
    for (int exponent = 0; exponent < 7; exponent += 3) {
        problem p = problem_on(kernel, (problem_shape){1, 1, 1, 1, 2, 1, 8}, FLASHC_F32, 5);
        p.params.softmax_scale = 1.0f;
        test_set(&p.params.q, 0, 0, 0, 0, tie);
        test_set(&p.params.k, 0, 0, 0, 0, ldexp(tie, exponent));
        test_set(&p.params.k, 0, 0, 1, 0, -ldexp(tie, exponent));
        p.zero_mean = false;
        run_and_check(&p);
        const double exact = ldexp(tie * tie, exponent), error = fabs(test_get(&p.params.lse, 0, 0, 0, 0) - exact);
        if (exponent > 0 && plan_of(&p).compute == FLASHC_COMPUTE_BF16)
            assert_true(error > 0.99 * ldexp(exact, -7));
        problem_free(&p);
    }
}

int main(void)
{
    static kernel_check checks[] = {{near_the_rounded_exact_result}, {long_sums_of_16_bit_numbers}, {long_rows},
                                    {far_alibi_is_rounded_once}, {roundings_that_pile_up},
                                    {inputs_that_bf16_rounds_most}};
    const struct CMUnitTest tests[] = {
        {"near_the_rounded_exact_result", test_on_kernels, NULL, NULL, &checks[0]},
        {"long_sums_of_16_bit_numbers", test_on_kernels, NULL, NULL, &checks[1]},
        {"long_rows", test_on_kernels, NULL, NULL, &checks[2]},
        {"far_alibi_is_rounded_once", test_on_kernels, NULL, NULL, &checks[3]},
        {"roundings_that_pile_up", test_on_kernels, NULL, NULL, &checks[4]},
        {"inputs_that_bf16_rounds_most", test_on_kernels, NULL, NULL, &checks[5]},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
