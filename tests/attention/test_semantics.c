/* The lines of flashc.h's semantics that are not about hidden keys: NaN and infinity, positions,
 * grouped heads, broadcast, the range of logits, output types, empty sizes. On every kernel. */
#include "support/bound.h"
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/kernels.h"
#include "support/oracle.h"
#include "support/stream.h"

#include <math.h>
#include <string.h>

static const problem_shape usual = {2, 4, 2, 70, 300, 20, 24};

static void make(problem *p, const char *kernel)
{
    *p = problem_on(kernel, usual, FLASHC_F32, 7);
}

static void set_all(problem *p, problem_tensor which, double value)
{
    int64_t size[4];
    problem_sizes(p, which, size);
    for (int64_t n = 0; n < size[0] * size[1] * size[2] * size[3]; n++)
        test_set(problem_view(p, which), n / size[3] / size[2] / size[1], n / size[3] / size[2] % size[1],
                 n / size[3] % size[2], n % size[3], value);
}

/* A clean run and one where one element is special: elements outside the row (or, of V, the column)
 * that it belongs to keep their bits; the rest is as the oracle says. */
static void special_value(const char *kernel, problem_tensor which, double value)
{
    problem clean, special;
    make(&clean, kernel);
    make(&special, kernel);
    if (which == TENSOR_BIAS) {
        problem_add_bias(&clean, FLASHC_F32);
        problem_add_bias(&special, FLASHC_F32);
    }
    const int64_t queries = clean.params.seqlen_q, query = queries / 2;
    const int64_t row = which == TENSOR_Q || which == TENSOR_BIAS ? query : 33;
    test_set(problem_view(&special, which), 1, 1, row, 5, value);
    run_problem(&clean);
    run_and_check(&special);
    for (int64_t n = 0; n < 2 * 4 * queries * 24; n++) {
        int64_t c = n % 24, i = n / 24 % queries, h = n / 24 / queries % 4, b = n / 24 / queries / 4;
        bool hit = b == 1 && h == 1 && i == query;
        if (which == TENSOR_K)
            hit = b == 1 && h / 2 == 1;
        else if (which == TENSOR_V)
            hit = b == 1 && h / 2 == 1 && c == 5;
        if (!hit && test_get_bits(&clean.params.o, b, h, i, c) != test_get_bits(&special.params.o, b, h, i, c))
            fail_msg("%s: %g in row %lld of %s[1][1] reaches o[%d][%d][%d][%d]", kernel, value, (long long)row,
                     problem_tensor_name(which), (int)b, (int)h, (int)i, (int)c);
        if (!(hit && which != TENSOR_V) &&
            test_get_bits(&clean.params.lse, b, h, i, 0) != test_get_bits(&special.params.lse, b, h, i, 0))
            fail_msg("%s: %g in row %lld of %s[1][1] reaches lse[%d][%d][%d]", kernel, value, (long long)row,
                     problem_tensor_name(which), (int)b, (int)h, (int)i);
        /* No exp is small here, so that infinity stays infinity. */
        if (which == TENSOR_V && hit && isinf(value) && test_get(&special.params.o, b, h, i, c) != value)
            fail_msg("%s: %g in v gives %g", kernel, value, test_get(&special.params.o, b, h, i, c));
    }
    problem_free(&clean);
    problem_free(&special);
}

static void special_values(const char *kernel)
{
    static const double values[] = {(double)NAN, (double)INFINITY, -(double)INFINITY};
    for (int n = 0; n < 3; n++) {
        special_value(kernel, TENSOR_Q, values[n]);
        special_value(kernel, TENSOR_K, values[n]);
        special_value(kernel, TENSOR_V, values[n]);
        special_value(kernel, TENSOR_BIAS, values[n]);
    }
}

/* A bias of NaN or +inf does nothing where the mask hides it; a bias of -inf hides a NaN score. */
static void hidden_bias(const char *kernel)
{
    problem p;
    make(&p, kernel);
    problem_add_mask(&p);
    problem_add_bias(&p, FLASHC_F32);
    for (int64_t i = 0; i < p.params.seqlen_q; i++) {
        test_set(&p.params.mask, 0, 0, i, 17, 0.0);
        test_set(&p.params.bias, 0, 0, i, 17, i % 2 == 0 ? (double)NAN : (double)INFINITY);
        test_set(&p.params.bias, 1, 2, i, 40, -(double)INFINITY);
        test_set(&p.params.bias, 1, 3, i, 40, -(double)INFINITY);
    }
    test_set(&p.params.k, 1, 1, 40, 3, (double)NAN);
    run_and_check(&p);
    for (int64_t i = 0; i < p.params.seqlen_q; i++) {
        assert_true(isfinite(test_get(&p.params.lse, 0, 0, i, 0)));
        assert_true(isfinite(test_get(&p.params.lse, 1, 2, i, 0)));
    }
    problem_free(&p);
}

/* Every alignment against a mask written out by hand. */
static void positions(const char *kernel)
{
    static const int64_t offsets[] = {-71, -70, -69, -8, -7, -1, 0, 1, 63, 64, 229, 230, 231, 300, INT64_MIN,
                                      INT64_MAX};
    for (int n = -2; n < (int)(sizeof offsets / sizeof offsets[0]); n++) {
        problem causal, masked;
        make(&causal, kernel);
        make(&masked, kernel);
        const int64_t queries = causal.params.seqlen_q;
        int64_t offset = n == -2 ? 0 : n == -1 ? 300 - queries : offsets[n];
        if (n >= 0)
            problem_add_causal(&causal, offset);
        causal.params.causal = 1;
        causal.params.alignment = n == -2 ? FLASHC_ALIGN_TOP_LEFT
                                  : n == -1 ? FLASHC_ALIGN_BOTTOM_RIGHT
                                            : FLASHC_ALIGN_EXPLICIT;
        problem_add_mask(&masked);
        for (int64_t e = 0; e < (int64_t)2 * 4 * queries * 300; e++) {
            int64_t j = e % 300, i = e / 300 % queries;
            /* Sums of such sizes fit into a double's 64-bit exponent range, if not exactly. */
            if ((double)j > (double)i + (double)offset)
                test_set(&masked.params.mask, e / 300 / queries / 4, e / 300 / queries % 4, i, j, 0.0);
        }
        oracle exact;
        oracle_attention(&masked.params, &exact);
        run_and_check(&causal);
        check_against(&causal, &exact, true);
        oracle_free(&exact);
        problem_free(&causal);
        problem_free(&masked);
    }
}

/* Query head h reads K/V head h / group: the result is that of K and V with repeated heads. Stride
 * 0 over an axis is the same as the axis written out. */
static void grouped_and_broadcast(const char *kernel)
{
    problem grouped, full;
    problem_shape repeated = shape_for(kernel, usual);
    repeated.num_heads_k = repeated.num_heads;
    make(&grouped, kernel);
    problem_plain(&full, &repeated, FLASHC_F32, 7);
    full.params.q = grouped.params.q;
    problem_add_bias(&grouped, FLASHC_F32);
    problem_add_bias(&full, FLASHC_F32);
    grouped.params.bias.stride[0] = grouped.params.bias.stride[1] = 0;
    grouped.params.bias.stride[2] = 0;
    for (int64_t j = 0; j < 300; j++)
        test_set(&grouped.params.bias, 0, 0, 0, j, sin((double)j));
    for (int64_t n = 0; n < 2 * 4; n++) {
        for (int64_t j = 0; j < 300; j++) {
            for (int64_t d = 0; d < 20; d++)
                test_set(&full.params.k, n / 4, n % 4, j, d, test_get(&grouped.params.k, n / 4, n % 4 / 2, j, d));
            for (int64_t c = 0; c < 24; c++)
                test_set(&full.params.v, n / 4, n % 4, j, c, test_get(&grouped.params.v, n / 4, n % 4 / 2, j, c));
            for (int64_t i = 0; i < repeated.seqlen_q; i++)
                test_set(&full.params.bias, n / 4, n % 4, i, j, sin((double)j));
        }
    }
    oracle exact;
    oracle_attention(&full.params, &exact);
    run_and_check(&grouped);
    check_against(&grouped, &exact, true);
    oracle_free(&exact);
    problem_free(&grouped);
    problem_free(&full);
}

/* Logits as low as any finite stand-in for minus infinity are logits like others. One of three keys
 * is visible with this logit in each place; or all of them: O is then the mean. */
static void far_logits(const char *kernel)
{
    static const double BF16_INFINITE = 0x1.ffp127; /* from here on bf16 rounds to infinity */
    static const double logits[] = {-1e4, -65504.0, -1e9, -1e30, -2e38, -3e38, -3.4e38, 1e30, 3e38};
    for (size_t n = 0; n < sizeof logits / sizeof logits[0]; n++) {
        for (int by_bias = 0; by_bias < 2; by_bias++) {
            problem p;
            problem_plain(&p, &(problem_shape){1, 1, 1, 3, 300, 1, 4}, FLASHC_F32, 3);
            p.params.kernel = kernel;
            p.params.softmax_scale = 1.0f;
            problem_add_mask(&p);
            problem_add_bias(&p, FLASHC_F32);
            set_all(&p, TENSOR_Q, by_bias ? 0.0 : 1.0);
            set_all(&p, TENSOR_K, by_bias ? 0.0 : logits[n]);
            set_all(&p, TENSOR_BIAS, by_bias ? logits[n] : 0.0);
            for (int64_t j = 0; j < 300; j++) { /* row 0 sees key 0 alone, row 1 key 299, row 2 all */
                test_set(&p.params.mask, 0, 0, 0, j, j == 0);
                test_set(&p.params.mask, 0, 0, 1, j, j == 299);
            }
            run_problem(&p);
            const flashc_explanation plan = plan_of(&p);
            const bound_terms terms = bound_terms_of(&p.params, &plan);
            const bool finite = by_bias || !terms.logits_rounded || fabs(logits[n]) < BF16_INFINITE;
            for (int64_t c = 0; c < 4 && finite; c++) {
                /* All scores are equal and so is their error: u (8 + 2(n + T)) |v|, without A, is left. */
                double mean = 0.0, bound = 0x1p-24 * (8.0 + 2.0 * (double)terms.chain) * 4.0 +
                                           (pow(1.0 + 0x1p-8, terms.weights_rounded) - 1.0) * 4.0;
                for (int64_t j = 0; j < 300; j++)
                    mean += test_get(&p.params.v, 0, 0, j, c) / 300.0;
                double first = test_get(&p.params.v, 0, 0, 0, c), last = test_get(&p.params.v, 0, 0, 299, c);
                bool good = fabs(test_get(&p.params.o, 0, 0, 0, c) - first) <= bound &&
                            fabs(test_get(&p.params.o, 0, 0, 1, c) - last) <= bound &&
                            fabs(test_get(&p.params.o, 0, 0, 2, c) - mean) <= bound;
                /* 16 u |LSE|, of the bound. */
                const double lse_bound = 16 * 0x1p-24 + (terms.logits_rounded ? 0x1.01p-7 : 0.0);
                for (int64_t i = 0; i < 2 && good; i++)
                    good = fabs(test_get(&p.params.lse, 0, 0, i, 0) / logits[n] - 1.0) <= lse_bound;
                if (!good) {
                    problem_print(stderr, &p);
                    fail_msg("logits of %g by %s: o = %.9g %.9g %.9g (expected %.9g %.9g %.9g), lse = %.9g %.9g",
                             logits[n], by_bias ? "bias" : "q . k", test_get(&p.params.o, 0, 0, 0, c),
                             test_get(&p.params.o, 0, 0, 1, c), test_get(&p.params.o, 0, 0, 2, c),
                             first, last, mean,
                             test_get(&p.params.lse, 0, 0, 0, 0), test_get(&p.params.lse, 0, 0, 1, 0));
                }
            }
            problem_free(&p);
        }
    }
}

/* Two keys whose logits differ by just less, and just more, than 87.34: exp is right, and exactly 0. */
static void smallest_exp(const char *kernel)
{
    static const double gaps[] = {87.0, 87.3, 87.4, 88.0, 95.0, 103.0, 200.0};
    for (size_t n = 0; n < sizeof gaps / sizeof gaps[0]; n++) {
        problem p;
        problem_plain(&p, &(problem_shape){1, 1, 1, 1, 2, 1, 1}, FLASHC_F32, 3);
        p.params.kernel = kernel;
        problem_add_bias(&p, FLASHC_F32);
        set_all(&p, TENSOR_Q, 0.0);
        test_set(&p.params.v, 0, 0, 0, 0, 1e38);
        test_set(&p.params.v, 0, 0, 1, 0, 0.0);
        test_set(&p.params.bias, 0, 0, 0, 0, -gaps[n]);
        run_problem(&p);
        double got = test_get(&p.params.o, 0, 0, 0, 0), gap = -test_get(&p.params.bias, 0, 0, 0, 0);
        double expected = gap < 87.34 ? exp(-gap) * 1e38 : 0.0;
        /* u (8 + cA + 2(n + T)) with c = 4, relative: one term carries the whole sum */
        const flashc_explanation plan = plan_of(&p);
        const double bf16 = pow(1.0 + 0x1p-8, bound_terms_of(&p.params, &plan).weights_rounded) - 1.0;
        double bound = (0x1p-24 * (8.0 + 4.0 * gap + 2.0 * 3.0) + bf16) * expected;
        if (!(fabs(got - expected) <= bound))
            fail_msg("%s: exp(-%g) * 1e38 = %.9g, expected %.9g", kernel, gap, got, expected);
        problem_free(&p);
    }
}

/* Each type of o holds the nearest value: exact for one visible key; f16 overflows to infinity. Zeros
 * of f32 are +0 whatever the sign of V's zeros. */
static void output_types(const char *kernel)
{
    static const double values[] = {1.0, -1.0, 65519.0, 65520.0, -65520.0, 1.00390625, 1.01171875, -0.0,
                                    1e-30, -1e-30, 0.333333343267440796, 3.4e38, -1e-8, (double)NAN,
                                    (double)INFINITY, -(double)INFINITY};
    for (flashc_dtype dtype = FLASHC_F32; dtype <= FLASHC_BF16; dtype++) {
        problem p;
        problem_plain(&p, &(problem_shape){1, 1, 1, 3, 1, 8, 16}, FLASHC_F32, 3);
        p.params.kernel = kernel;
        p.params.o.dtype = dtype; /* the rows of f32 have room for any type */
        for (int64_t c = 0; c < 16; c++)
            test_set(&p.params.v, 0, 0, 0, c, values[c]);
        run_problem(&p);
        for (int64_t n = 0; n < 3 * 16; n++) {
            uint32_t got = test_get_bits(&p.params.o, 0, 0, n / 16, n % 16);
            double value = (double)(float)values[n % 16];
            if (plan_of(&p).compute == FLASHC_COMPUTE_BF16) /* V itself is rounded */
                value = test_decode(FLASHC_BF16, test_encode(FLASHC_BF16, value));
            uint32_t expected = test_encode(dtype, value);
            bool zero = value == 0.0;
            if (isnan(values[n % 16]) ? !isnan(test_decode(dtype, got)) : got != (zero ? 0 : expected))
                fail_msg("%s: %.9g as %s is %x, expected %x", kernel, values[n % 16], flashc_dtype_name(dtype), got,
                         zero ? 0 : expected);
        }
        problem_free(&p);
    }
}

/* The smallest number of f32, negative, a third of which is none: the zero is +0 in one call and from a state. */
static void zeros_of_underflow(const char *kernel)
{
    problem p = problem_on(kernel, (problem_shape){1, 2, 1, 9, 3, 8, 13}, FLASHC_F32, 3);
    set_all(&p, TENSOR_Q, 0.0);
    set_all(&p, TENSOR_V, 0.0);
    for (int64_t c = 0; c < 13; c++)
        test_set(&p.params.v, 0, 0, 1, c, -0x1p-149);
    for (int chunked = 0; chunked < 2; chunked++) {
        problem_snapshot(&p);
        if (chunked) {
            test_stream s = test_stream_begin(&p.params);
            test_stream_chunk(&s, &p.params, 0, 3);
            expect_ok(flashc_attention_finish(&s.state, &p.params));
            test_stream_free(&s);
        } else {
            run_problem(&p);
        }
        for (int64_t n = 0; n < 2 * p.params.seqlen_q * 13; n++)
            assert_int_equal(test_get_bits(&p.params.o, 0, n % 2, n / 26, n / 2 % 13), 0);
    }
    problem_free(&p);
}

/* Any size but head_dim may be 0. No keys: O = 0, LSE = -inf (the oracle says so too). */
static void empty_sizes(const char *kernel)
{
    static const problem_shape shapes[] = {{0, 4, 2, 7, 9, 8, 8}, {1, 0, 2, 7, 9, 8, 8}, {1, 4, 2, 0, 9, 8, 8},
                                           {1, 4, 2, 7, 0, 8, 8}, {1, 4, 2, 7, 9, 8, 0}, {1, 4, 2, 0, 0, 8, 0},
                                           {2, 1, 1, 300, 0, 1, 3}, {1, 0, 0, 7, 9, 8, 8}};
    for (size_t n = 0; n < sizeof shapes / sizeof shapes[0]; n++) {
        for (int variant = 0; variant < 4; variant++) {
            problem p = problem_on(kernel, shapes[n], FLASHC_F32, 3);
            p.params.causal = variant % 2;
            p.params.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
            if (variant >= 2)
                problem_add_block_mask(&p, 4, 4);
            run_and_check(&p);
            problem_free(&p);
        }
    }
}

int main(void)
{
    static kernel_check checks[] = {{special_values}, {hidden_bias},  {positions},    {grouped_and_broadcast},
                                    {far_logits},     {smallest_exp}, {output_types}, {empty_sizes},
                                    {zeros_of_underflow}};
    const struct CMUnitTest tests[] = {
        {"nan_and_infinity_reach_their_row_or_column", test_on_kernels, NULL, NULL, &checks[0]},
        {"bias_of_hidden_keys_is_not_used", test_on_kernels, NULL, NULL, &checks[1]},
        {"alignments_are_masks", test_on_kernels, NULL, NULL, &checks[2]},
        {"groups_and_broadcast_are_copies", test_on_kernels, NULL, NULL, &checks[3]},
        {"no_finite_stand_in_for_infinity", test_on_kernels, NULL, NULL, &checks[4]},
        {"exp_is_zero_below_its_limit", test_on_kernels, NULL, NULL, &checks[5]},
        {"output_types_round_to_nearest", test_on_kernels, NULL, NULL, &checks[6]},
        {"sizes_of_zero", test_on_kernels, NULL, NULL, &checks[7]},
        {"zeros_are_positive", test_on_kernels, NULL, NULL, &checks[8]},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
