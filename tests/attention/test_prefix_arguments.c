/* What a shared prefix refuses, all of it before any work, and the plans of its two parts. */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/prefix.h"

#include <math.h>
#include <stdio.h>

static void errors(void **state)
{
    (void)state;
    problem p;
    flashc_attention_params own;
    problem_plain(&p, &(problem_shape){2, 2, 1, 3, 40, 16, 16}, FLASHC_F32, 1);
    const flashc_shared_prefix shared = test_prefix_split(&p.params, 10, &own);
    expect_argument_error(flashc_attention_shared_prefix(&own, &shared),
                          "q.stride[0]: expected seqlen_q * stride[2] = 48 with a shared prefix, so that the queries "
                          "of all sequences are one row after the other, found 96");
    own.q.stride[0] = 48;
    flashc_shared_prefix wrong = shared;
    wrong.seqlen = -1;
    expect_argument_error(flashc_attention_shared_prefix(&own, &wrong), "prefix->seqlen: expected 0 to 2^48, found -1");
    wrong.seqlen = (INT64_C(1) << 48) - 29;
    expect_argument_error(flashc_attention_shared_prefix(&own, &wrong),
                          "prefix->seqlen: expected at most 2^48 keys together with seqlen_k = 30, found "
                          "281474976710627");
    wrong = shared;
    wrong.k.data = NULL;
    expect_argument_error(flashc_attention_shared_prefix(&own, &wrong),
                          "prefix->k.data: expected a pointer to [1, 1, 10, 16] elements, found NULL");
    flashc_attention_params heads = own; /* none, so that any number of queries is no work */
    heads.num_heads = heads.num_heads_k = 0;
    heads.seqlen_q = INT64_C(1) << 40;
    heads.batch = INT64_C(1) << 40;
    expect_argument_error(flashc_attention_shared_prefix(&heads, &shared),
                          "batch, seqlen_q: expected at most 2^48 queries with a shared prefix, found 1099511627776 * "
                          "1099511627776");
    heads.batch = INT64_C(1) << 9; /* too many also where their product is a number of 64 bits */
    expect_argument_error(flashc_attention_shared_prefix(&heads, &shared),
                          "batch, seqlen_q: expected at most 2^48 queries with a shared prefix, found 512 * "
                          "1099511627776");
    wrong.struct_size = 0;
    assert_int_equal(flashc_attention_shared_prefix(&own, &wrong), FLASHC_ERR_ARGUMENT);
    expect_argument_error(flashc_attention_shared_prefix(NULL, &shared), "params: expected a pointer, found NULL");
    own.window_left = 5;
    expect_argument_error(flashc_attention_shared_prefix(&own, &shared),
                          "window: expected none with a shared prefix, found one");
    own.window_left = -1;
    problem_free(&p);
}

static void score_mod(void *user_data, const flashc_score_block *block)
{
    (void)user_data, (void)block;
}

/* Each option that a prefix does not go with. */
static void refused_options(void **state)
{
    (void)state;
    problem p;
    flashc_attention_params own;
    problem_plain(&p, &(problem_shape){2, 2, 1, 1, 40, 16, 16}, FLASHC_F32, 1);
    const flashc_shared_prefix shared = test_prefix_split(&p.params, 10, &own);
    static const int64_t lengths[2] = {1, 1};
    static const float slopes[2] = {0.5f, 0.25f};
    static uint8_t visible[2] = {1, 1};
    static float scores[2 * 2 * 30];
    const flashc_tensor block_mask = {visible, FLASHC_BOOL, {0, 0, 0, 0}};
    for (int i = 0; i < 9; i++) {
        static const char *const names[] = {"seqlens_q", "leftpad_k", "mask", "block_mask", "bias", "alibi_slopes",
                                            "score_mod", "scores", "key_mass"};
        flashc_attention_params wrong = own;
        char message[96];
        switch (i) {
        case 0: wrong.seqlens_q = lengths; break;
        case 1: wrong.leftpad_k = lengths; break;
        case 2: wrong.mask = block_mask; break;
        case 3: wrong.block_mask = block_mask, wrong.block_mask_m = wrong.block_mask_n = 64; break;
        case 4: wrong.bias = (flashc_tensor){scores, FLASHC_F32, {0, 0, 0, 0}}; break;
        case 5: wrong.alibi_slopes = slopes, wrong.alignment = FLASHC_ALIGN_TOP_LEFT; break;
        case 6: wrong.score_mod = score_mod; break;
        case 7: wrong.scores = flashc_tensor_bhsd(scores, FLASHC_F32, 2, 1, 30); break;
        default: wrong.key_mass = (flashc_tensor){scores, FLASHC_F32, {60, 30, 1, 0}}; break;
        }
        expect_ok(flashc_attention_fwd(&wrong));
        snprintf(message, sizeof message, "%s: expected none with a shared prefix, found one", names[i]);
        expect_argument_error(flashc_attention_shared_prefix(&wrong, &shared), message);
    }
    problem_free(&p);
}

static int no_work(void *user_data, int64_t done, int64_t total)
{
    (void)user_data, (void)done, (void)total;
    fail_msg("there was work before a check");
    return 1;
}

/* What is per sequence has flashc_attention_fwd()'s checks and words, and all of it before any work. */
static void errors_of_sequences(void **state)
{
    (void)state;
    problem p;
    flashc_attention_params good;
    problem_typed(&p, &(problem_shape){2, 2, 1, 1, 40, 16, 16}, FLASHC_F32, FLASHC_I8, FLASHC_F32, FLASHC_F32, 1);
    test_prefix_share(&p, 10);
    const flashc_shared_prefix shared = test_prefix_split(&p.params, 10, &good);
    good.progress = no_work;
    const int64_t lengths[2] = {3, 31}, cu[3] = {0, 31, 30};
    flashc_attention_params own = good;
    own.seqlens_k = lengths;
    expect_argument_error(flashc_attention_shared_prefix(&own, &shared), "seqlens_k[1]: expected 0 to 30, found 31");
    own = good;
    own.cu_seqlens_k = cu;
    expect_argument_error(flashc_attention_shared_prefix(&own, &shared),
                          "cu_seqlens_k[2]: expected at least 31 (the entry before), found 30");
    own = good;
    own.causal = 1;
    expect_argument_error(flashc_attention_shared_prefix(&own, &shared),
                          "alignment: causal needs FLASHC_ALIGN_TOP_LEFT, _BOTTOM_RIGHT or _EXPLICIT, found UNSET");
    own.alignment = FLASHC_ALIGN_EXPLICIT;
    expect_argument_error(flashc_attention_shared_prefix(&own, &shared),
                          "offsets: FLASHC_ALIGN_EXPLICIT needs one per batch element, found NULL");
    own = good;
    own.o.data = NULL;
    expect_argument_error(flashc_attention_shared_prefix(&own, &shared),
                          "o.data: expected a pointer to [2, 2, 1, 16] elements, found NULL");
    own = good;
    own.sinks = (float[2]){0.0f, NAN};
    expect_argument_error(flashc_attention_shared_prefix(&own, &shared),
                          "sinks[1]: expected a finite value, or -inf for none, found nan");
    test_set(&p.params.k_scale, 1, 0, 12, 0, -1.0);
    expect_argument_error(flashc_attention_shared_prefix(&good, &shared),
                          "k_scale[1][0][2]: expected a finite value, 0 or more, found -1");
    test_set(&p.params.k_scale, 1, 0, 12, 0, 1.0);
    test_set(&p.params.k_scale, 0, 0, 9, 0, (double)INFINITY);
    expect_argument_error(flashc_attention_shared_prefix(&good, &shared),
                          "prefix->k_scale[0][0][9]: expected a finite value, 0 or more, found inf");
    test_set(&p.params.k_scale, 0, 0, 9, 0, 1.0);
    flashc_shared_prefix wrong = shared;
    wrong.k_scale.data = NULL;
    expect_argument_error(flashc_attention_shared_prefix(&good, &wrong),
                          "prefix->k_scale.data: expected a scale for each row with k of type i8, found NULL");
    good.progress = NULL;
    expect_ok(flashc_attention_shared_prefix(&good, &shared));
    problem_free(&p);
}

/* What the two parts run, without a look at an element; the choice of each goes by its own rows. */
static void explanations(void **state)
{
    (void)state;
    problem p;
    flashc_attention_params own;
    problem_plain(&p, &(problem_shape){40, 2, 1, 1, 5000, 16, 16}, FLASHC_F32, 1);
    flashc_shared_prefix shared = test_prefix_split(&p.params, 4000, &own);
    flashc_explanation on_prefix = {.struct_size = sizeof on_prefix}, on_own = {.struct_size = sizeof on_own};
    flashc_explanation alone = {.struct_size = sizeof alone};
    flashc_tensor *const nowhere[] = {&own.q, &own.k, &own.v, &own.o, &shared.k, &shared.v};
    for (int i = 0; i < 6; i++)
        nowhere[i]->data = (void *)(uintptr_t)(64 * (i + 1));
    own.lse.data = NULL;
    expect_ok(flashc_explain_shared_prefix(&own, &shared, &on_prefix, &on_own));
    expect_ok(flashc_explain(&own, &alone));
    assert_string_equal(on_own.kernel, alone.kernel);
    assert_true(on_own.flops == alone.flops && on_own.num_items == alone.num_items);
    flashc_attention_params all = own; /* 80 rows for each K/V head */
    all.batch = 1;
    all.seqlen_q = 40;
    all.q.stride[2] = own.q.stride[0];
    all.o = flashc_tensor_bhsd(own.o.data, FLASHC_F32, 2, 40, 16);
    all.seqlen_k = 4000;
    all.k = shared.k;
    all.v = shared.v;
    expect_ok(flashc_explain(&all, &alone));
    assert_string_equal(on_prefix.kernel, alone.kernel);
    assert_true(on_prefix.flops == alone.flops && on_prefix.block_m == alone.block_m);

    expect_argument_error(flashc_explain_shared_prefix(&own, &shared, NULL, &on_own),
                          "prefix_plan: expected a pointer, found NULL");
    on_own.struct_size = 8;
    char message[128];
    snprintf(message, sizeof message, "own_plan->struct_size: expected %zu, found 8", sizeof on_own);
    expect_argument_error(flashc_explain_shared_prefix(&own, &shared, &on_prefix, &on_own), message);
    on_own.struct_size = sizeof on_own;
    own.bias = own.q;
    expect_argument_error(flashc_explain_shared_prefix(&own, &shared, &on_prefix, &on_own),
                          "bias: expected none with a shared prefix, found one");
    expect_argument_error(flashc_explain_shared_prefix(&p.params, NULL, &on_prefix, &on_own),
                          "prefix: expected a pointer, found NULL");
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors),
        cmocka_unit_test(refused_options),
        cmocka_unit_test(errors_of_sequences),
        cmocka_unit_test(explanations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
