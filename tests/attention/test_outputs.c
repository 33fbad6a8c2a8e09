/* Scores at each stage, softmax weights, their sum for each key, and row max, against the float64 oracle. */
#include "support/bound.h"
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int64_t RANDOM_COUNT = 24;
static const double U = 0x1p-24;

/* The outputs, packed; every element is NaN before the call. */
typedef struct outputs {
    float *scores, *key_mass, *row_max;
    size_t size[3];
} outputs;

static float *nan_array(int64_t count, size_t *bytes)
{
    *bytes = ((size_t)count + 1) * sizeof(float);
    float *array = malloc(*bytes);
    memset(array, 0xff, *bytes);
    return array;
}

static outputs add_outputs(problem *p, flashc_score_stage stage)
{
    flashc_attention_params *s = &p->params;
    outputs out;
    out.scores = nan_array(s->batch * s->num_heads * s->seqlen_q * s->seqlen_k, &out.size[0]);
    out.key_mass = nan_array(s->batch * s->num_heads * s->seqlen_k, &out.size[1]);
    out.row_max = nan_array(s->batch * s->num_heads * s->seqlen_q, &out.size[2]);
    s->scores = flashc_tensor_bhsd(out.scores, FLASHC_F32, s->num_heads, s->seqlen_q, s->seqlen_k);
    s->scores_stage = stage;
    s->key_mass = flashc_tensor_bhsd(out.key_mass, FLASHC_F32, s->num_heads, s->seqlen_k, 1);
    s->row_max = flashc_tensor_bhsd(out.row_max, FLASHC_F32, s->num_heads, s->seqlen_q, 1);
    return out;
}

static void free_outputs(outputs *out)
{
    free(out->scores);
    free(out->key_mass);
    free(out->row_max);
}

static void check_close(const problem *p, const char *what, int64_t row, int64_t key, double got, double exact,
                        double bound)
{
    if (got == exact || (isnan(got) && isnan(exact)) || fabs(got - exact) <= bound)
        return;
    problem_print(stderr, p);
    fail_msg("%s of row %lld, key %lld is %.9g, expected %.9g (bound %.3g)", what, (long long)row, (long long)key, got,
             exact, bound);
}

/* Is it a query, and a key, of its batch element? */
static bool is_query(const flashc_attention_params *s, int64_t b, int64_t i)
{
    return s->seqlens_q == NULL || i < s->seqlens_q[b];
}

static bool is_key(const flashc_attention_params *s, int64_t b, int64_t j)
{
    return (s->leftpad_k == NULL || j >= s->leftpad_k[b]) && (s->seqlens_k == NULL || j < s->seqlens_k[b]);
}

/* Before the masks: straight from q and k. */
static double early_score(const flashc_attention_params *s, int64_t row, int64_t j, double *magnitude)
{
    const int64_t i = row % s->seqlen_q, h = row / s->seqlen_q % s->num_heads, b = row / s->seqlen_q / s->num_heads;
    const int64_t head_k = h / (s->num_heads / s->num_heads_k);
    const double scale = s->softmax_scale == FLASHC_SCALE_DEFAULT ? 1.0 / sqrt((double)s->head_dim)
                                                                  : (double)s->softmax_scale;
    const double k_scale = s->k_scale.data != NULL ? test_get(&s->k_scale, b, head_k, j, 0) : 1.0;
    double dot = 0.0;
    *magnitude = 0.0;
    for (int64_t d = 0; d < s->head_dim; d++) {
        const double x = scale * k_scale * test_get(&s->q, b, h, i, d) * test_get(&s->k, b, head_k, j, d);
        dot += x;
        *magnitude += fabs(x);
    }
    if (s->scores_stage == FLASHC_SCORES_CAPPED && s->softcap > 0.0f) {
        *magnitude += (double)s->softcap;
        return (double)s->softcap * tanh(dot / (double)s->softcap);
    }
    return dot;
}

static void check_outputs(const problem *p, const outputs *out, const oracle *exact, const flashc_explanation *plan)
{
    const flashc_attention_params *s = &p->params;
    const bound_terms terms = bound_terms_of(s, plan);
    const double rounded = terms.logits_rounded ? 0x1p-8 * (2.0 + 0x1p-8) : 0.0;
    double *mass = calloc((size_t)(s->batch * s->num_heads * s->seqlen_k) + 1, sizeof *mass);
    double *slack = calloc((size_t)(s->batch * s->num_heads * s->seqlen_k) + 1, sizeof *slack);
    for (int64_t row = 0; row < exact->rows; row++) {
        const int64_t i = row % s->seqlen_q, b = row / s->seqlen_q / s->num_heads;
        double max = -(double)INFINITY, error = exact->magnitude[row] * (8.0 * U + rounded) + 8.0 * U;
        for (int64_t j = 0; j < s->seqlen_k; j++) {
            const double score = exact->scores[row * s->seqlen_k + j], got = (double)out->scores[row * s->seqlen_k + j];
            const double weight = score == -(double)INFINITY ? 0.0 : exp(score - exact->lse[row]);
            const double off =
                0x1p-125 + (weight > 0.0 ? weight * expm1(error + bound_lse(exact, row, terms)) : 0.0);
            const bool inside = is_query(s, b, i) && is_key(s, b, j);
            double early = -(double)INFINITY, magnitude = 0.0;
            max = fmax(max, score);
            if (s->scores_stage == FLASHC_SCORES_WEIGHTS)
                check_close(p, "weight", row, j, got, weight, off);
            else if (s->scores_stage == FLASHC_SCORES_MASKED)
                check_close(p, "masked score", row, j, got, score, error);
            else {
                if (inside)
                    early = early_score(s, row, j, &magnitude);
                check_close(p, "score", row, j, got, early, magnitude * (8.0 * U + rounded) + 8.0 * U);
            }
            mass[row / s->seqlen_q * s->seqlen_k + j] += weight;
            slack[row / s->seqlen_q * s->seqlen_k + j] += off + weight * U * (double)s->seqlen_q;
        }
        check_close(p, "row_max", row, -1, (double)out->row_max[row], max, error);
    }
    for (int64_t n = 0; n < s->batch * s->num_heads * s->seqlen_k; n++)
        check_close(p, "key_mass", n / s->seqlen_k, n % s->seqlen_k, (double)out->key_mass[n], mass[n], slack[n]);
    free(mass);
    free(slack);
}

static void random_problems(const char *kernel)
{
    for (int64_t i = 0; i < RANDOM_COUNT; i++) {
        problem p;
        problem_random(&p, 9000 + (uint64_t)i, kernel);
        if (p.params.lse.data == NULL) {
            p.params.lse = flashc_tensor_bhsd(NULL, FLASHC_F32, p.params.num_heads, p.params.seqlen_q, 1);
            problem_allocate(&p, TENSOR_LSE, false);
        }
        outputs first = add_outputs(&p, (flashc_score_stage)(i % 4));
        if (run_and_check(&p)) {
            const flashc_explanation plan = plan_of(&p);
            oracle exact;
            oracle_attention(&p.params, &exact);
            check_outputs(&p, &first, &exact, &plan);
            oracle_free(&exact);
            outputs again = add_outputs(&p, (flashc_score_stage)(i % 4));
            p.params.num_threads = 4 - p.params.num_threads;
            assert_true(run_problem(&p));
            if (memcmp(first.scores, again.scores, first.size[0]) != 0 ||
                memcmp(first.key_mass, again.key_mass, first.size[1]) != 0 ||
                memcmp(first.row_max, again.row_max, first.size[2]) != 0)
                fail_msg("%s: the bits of scores, key_mass or row_max depend on the threads", kernel);
            free_outputs(&again);
        }
        free_outputs(&first);
        problem_free(&p);
    }
}

/* NaN in a key: its column alone before the masks, whole rows of weights where it is seen, nothing where it is hidden. */
static void nan_in_a_key(const char *kernel)
{
    const problem_shape shape = shape_for(kernel, (problem_shape){1, 1, 1, 5, 200, 16, 8});
    problem p;
    problem_plain(&p, &shape, FLASHC_F32, 3);
    p.params.kernel = kernel;
    problem_add_mask(&p);
    test_set(&p.params.k, 0, 0, 100, 2, (double)NAN);
    test_set(&p.params.mask, 0, 0, 0, 100, 0.0);
    test_set(&p.params.mask, 0, 0, shape.seqlen_q - 1, 7, 0.0);
    outputs out = add_outputs(&p, FLASHC_SCORES_WEIGHTS);
    assert_true(run_problem(&p));
    double sum = 0.0;
    for (int64_t j = 0; j < 200; j++) {
        sum += (double)out.scores[j];
        for (int64_t i = 1; i < shape.seqlen_q; i++)
            assert_true(i == shape.seqlen_q - 1 && j == 7 ? out.scores[i * 200 + j] == 0.0f
                                                          : isnan(out.scores[i * 200 + j]));
    }
    assert_true(fabs(sum - 1.0) < 1e-5 && out.scores[100] == 0.0f && isfinite(out.row_max[0]));
    assert_true(shape.seqlen_q == 1 || isnan(out.row_max[1]));
    free_outputs(&out);
    problem_free(&p);
}

/* MLA: V is the first 512 of K's 576 columns. */
static void mla(const char *kernel)
{
    const problem_shape shape = shape_for(kernel, (problem_shape){1, 16, 1, 3, 300, 576, 512});
    problem p;
    problem_plain(&p, &shape, FLASHC_F32, 4);
    p.params.kernel = kernel;
    if (kernel_most_rows(kernel) >= 16) {
        p.params.v = p.params.k;
        problem_add_causal(&p, 290);
        assert_true(run_and_check(&p));
    }
    problem_free(&p);
}

static void errors(void **unused)
{
    (void)unused;
    problem p;
    const problem_shape shape = {1, 2, 1, 3, 50, 8, 8};
    problem_plain(&p, &shape, FLASHC_F32, 1);
    outputs out = add_outputs(&p, FLASHC_SCORES_WEIGHTS);
    p.params.lse.data = NULL;
    expect_argument_error(flashc_attention_fwd(&p.params),
                          "lse: expected an output beside scores of FLASHC_SCORES_WEIGHTS, which is made from it, found "
                          "NULL");
    p.params.scores.data = NULL;
    expect_argument_error(flashc_attention_fwd(&p.params),
                          "lse: expected an output beside key_mass, which is made from it, found NULL");
    p.params.scores_stage = (flashc_score_stage)4;
    expect_argument_error(flashc_attention_fwd(&p.params), "scores_stage: expected a flashc_score_stage (0 to 3), found 4");
    free_outputs(&out);
    problem_free(&p);
}

int main(void)
{
    static kernel_check random = {random_problems}, special = {nan_in_a_key}, latent = {mla};
    const struct CMUnitTest tests[] = {
        {"random_problems", test_on_kernels, NULL, NULL, &random},
        {"nan_in_a_key", test_on_kernels, NULL, NULL, &special},
        {"mla", test_on_kernels, NULL, NULL, &latent},
        cmocka_unit_test(errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
