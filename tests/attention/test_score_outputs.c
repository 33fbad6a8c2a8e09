/* Scores at each stage, softmax weights, their sum for each key, and row max, against the float64 oracle. */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/form.h"
#include "support/kernels.h"

#include <math.h>

static const int64_t RANDOM_COUNT = 24;

static void random_problems(const char *kernel)
{
    for (int64_t i = 0; i < RANDOM_COUNT; i++) {
        problem p;
        problem_random(&p, 9000 + (uint64_t)i, kernel);
        if (p.params.lse.data == NULL)
            problem_pack(&p, TENSOR_LSE, FLASHC_F32);
        for (problem_tensor which = TENSOR_ROW_MAX; which < TENSORS; which++)
            guarded_free(&p.buffer[which]);
        problem_add_outputs(&p, (flashc_score_stage)(i % 4), FLASHC_F32);
        run_and_check(&p);
        problem again = problem_twin(&p);
        again.params.num_threads = 4 - p.params.num_threads;
        run_problem(&again);
        assert_same_bits(&p, &again, "another number of threads");
        problem_free_twin(&again);
        problem_free(&p);
    }
}

/* NaN in a key: its column alone before the masks, whole rows of weights where it is seen, nothing where hidden. */
static void nan_in_a_key(const char *kernel)
{
    problem p = problem_on(kernel, (problem_shape){1, 1, 1, 5, 200, 16, 8}, FLASHC_F32, 3);
    problem_add_mask(&p);
    test_set(&p.params.k, 0, 0, 100, 2, (double)NAN);
    test_set(&p.params.mask, 0, 0, 0, 100, 0.0);
    test_set(&p.params.mask, 0, 0, p.params.seqlen_q - 1, 7, 0.0);
    problem_add_outputs(&p, FLASHC_SCORES_WEIGHTS, FLASHC_F32);
    run_and_check(&p);
    const float *scores = p.params.scores.data, *row_max = p.params.row_max.data;
    for (int64_t j = 0; j < 200; j++) {
        for (int64_t i = 1; i < p.params.seqlen_q; i++)
            assert_true(i == p.params.seqlen_q - 1 && j == 7 ? scores[i * 200 + j] == 0.0f
                                                          : isnan(scores[i * 200 + j]));
    }
    assert_true(scores[100] == 0.0f && isfinite(row_max[0]));
    assert_true(p.params.seqlen_q == 1 || isnan(row_max[1]));
    problem_free(&p);
}

/* Sequences without queries, without keys and without either, and none but such: padded, packed and in pages, with all
 * outputs. */
static void empty_sequences(const char *kernel)
{
    static const form_kind kinds[] = {{.packed_q = false}, {.packed_q = true, .packed_k = true}, {.packed_k = true},
                                      {.packed_q = true, .page_size = 4}, {.page_size = 1, .page_size_v = 16}};
    static const int64_t lengths[2][5][2] = {{{0, 0}, {0, 7}, {3, 0}, {2, 300}, {0, 0}},
                                             {{0, 0}, {0, 9}, {0, 0}, {4, 0}, {0, 0}}};
    for (int n = 0; n < 40; n++) {
        const int64_t(*length)[2] = lengths[n / 20];
        problem p;
        char message[256];
        test_form f;
        test_rng rng = {1};
        p = problem_on(kernel, (problem_shape){5, 2, 2, 4, 300, 8, 8}, n % 2 ? FLASHC_F32 : FLASHC_I8, (uint64_t)n);
        int64_t *seqlens_q = problem_add_array(&p, ARRAY_SEQLENS_Q, 0);
        int64_t *seqlens_k = problem_add_array(&p, ARRAY_SEQLENS_K, 0);
        for (int b = 0; b < 5; b++) {
            seqlens_q[b] = length[b][0];
            seqlens_k[b] = length[b][1];
        }
        problem_add_outputs(&p, (flashc_score_stage)(n / 5 % 4), FLASHC_F32);
        if (n % 3 == 0)
            problem_add_sinks(&p)[1] = 0.25f;
        form_make(&f, &p.params, &kinds[n % 5], &rng);
        problem_snapshot(&p);
        expect_ok(flashc_attention_fwd(&f.params));
        if (!form_collect(&f, &p.params, message, sizeof message))
            fail_msg("%s", message);
        check_exact(&p);
        form_free(&f);
        problem_free(&p);
    }
}

/* Logits so large that a weight may be off by more than a double holds, and below the smallest double in one row, but
 * not in the other: the bound must not come out as 0 times infinity. */
static void weights_beyond_doubles(const char *kernel)
{
    const problem_shape shape = shape_for(kernel, (problem_shape){1, 1, 1, 2, 40, 2, 8});
    for (flashc_score_stage stage = FLASHC_SCORES_SCALED; stage <= FLASHC_SCORES_WEIGHTS; stage++) {
        problem p;
        problem_plain(&p, &shape, FLASHC_F32, 5);
        p.zero_mean = false;
        p.params.kernel = kernel;
        for (int64_t d = 0; d < 2; d++) {
            test_set(&p.params.q, 0, 0, 0, d, 4e4);
            test_set(&p.params.q, 0, 0, 1, d, 1e4);
            for (int64_t j = 0; j < shape.seqlen_k; j++)
                test_set(&p.params.k, 0, 0, j, d, d == 0 ? 3e4 : j == 0 ? -3e4 : -3e4 - 0x1p-5);
        }
        problem_add_outputs(&p, stage, FLASHC_F32);
        run_and_check(&p);
        problem_free(&p);
    }
}

/* MLA: V is the first 512 of K's 576 columns. */
static void mla(const char *kernel)
{
    problem p = problem_on(kernel, (problem_shape){1, 16, 1, 3, 300, 576, 512}, FLASHC_F32, 4);
    if (kernel_most_rows(kernel) >= 16) {
        p.params.v = p.params.k;
        problem_add_causal(&p, 290);
        run_and_check(&p);
    }
    problem_free(&p);
}

static void errors(void **unused)
{
    (void)unused;
    problem p;
    const problem_shape shape = {1, 2, 1, 3, 50, 8, 8};
    problem_plain(&p, &shape, FLASHC_F32, 1);
    problem_add_outputs(&p, FLASHC_SCORES_WEIGHTS, FLASHC_F32);
    p.params.lse.data = NULL;
    expect_argument_error(flashc_attention_fwd(&p.params),
                          "lse: expected an output beside scores of FLASHC_SCORES_WEIGHTS, which is made from it, "
                          "found NULL");
    p.params.scores.data = NULL;
    expect_argument_error(flashc_attention_fwd(&p.params),
                          "lse: expected an output beside key_mass, which is made from it, found NULL");
    p.params.seqlen_q = 0; /* then there is no LSE that could have an address */
    p.params.scores = flashc_tensor_bhsd(NULL, FLASHC_F32, 2, 0, 50);
    expect_ok(flashc_attention_fwd(&p.params));
    for (int64_t i = 0; i < 2 * 50; i++)
        assert_true(((const float *)p.params.key_mass.data)[i] == 0.0f);
    p.params.scores_stage = (flashc_score_stage)4;
    expect_argument_error(flashc_attention_fwd(&p.params),
                          "scores_stage: expected a flashc_score_stage (0 to 3), found 4");
    problem_free(&p);
}

int main(void)
{
    static kernel_check random = {random_problems}, special = {nan_in_a_key}, latent = {mla},
                        empty = {empty_sequences}, beyond = {weights_beyond_doubles};
    const struct CMUnitTest tests[] = {
        {"random_problems", test_on_kernels, NULL, NULL, &random},
        {"nan_in_a_key", test_on_kernels, NULL, NULL, &special},
        {"empty_sequences", test_on_kernels, NULL, NULL, &empty},
        {"weights_beyond_doubles", test_on_kernels, NULL, NULL, &beyond},
        {"mla", test_on_kernels, NULL, NULL, &latent},
        cmocka_unit_test(errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
