/* A shared prefix: the result of each sequence with a prefix of its own, within the stated bound. */
#include "support/bound.h"
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/form.h"
#include "support/kernels.h"
#include "support/problem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Makes the first `prefix` keys of every batch element those of element 0. */
static void share_prefix(problem *p, int64_t prefix)
{
    const flashc_tensor *const tensors[] = {&p->params.k, &p->params.v, &p->params.k_scale, &p->params.v_scale};
    const int64_t cols[] = {p->params.head_dim, p->params.head_dim_v, 1, 1};
    for (int i = 0; i < 4; i++)
        for (int64_t b = 1; tensors[i]->data != NULL && b < p->params.batch; b++)
            for (int64_t h = 0; h < p->params.num_heads_k; h++)
                for (int64_t j = 0; j < prefix; j++)
                    memcpy(test_at(tensors[i], b, h, j, 0), test_at(tensors[i], 0, h, j, 0),
                           (size_t)cols[i] * flashc_dtype_size(tensors[i]->dtype));
}

/* The prefix as it lies in a whole problem, whose own keys then are the rest. */
static flashc_shared_prefix split(const flashc_attention_params *whole, int64_t prefix, flashc_attention_params *own)
{
    flashc_shared_prefix shared;
    flashc_shared_prefix_init(&shared, sizeof shared);
    shared.seqlen = prefix;
    shared.k = whole->k;
    shared.v = whole->v;
    shared.k_scale = whole->k_scale;
    shared.v_scale = whole->v_scale;
    *own = *whole;
    own->seqlen_k -= prefix;
    flashc_tensor *const rows[] = {&own->k, &own->v, &own->k_scale, &own->v_scale};
    for (int i = 0; i < 4; i++)
        if (rows[i]->data != NULL)
            rows[i]->data = test_at(rows[i], 0, 0, prefix, 0);
    return shared;
}

static const problem_shape shapes[] = {
    {3, 4, 2, 1, 1500, 64, 64}, {5, 2, 1, 7, 700, 40, 24},    {2, 6, 2, 70, 600, 32, 32},
    {1, 2, 2, 3, 302, 16, 16},  {4, 3, 1, 1, 130, 128, 128},
};
static const int64_t prefixes[] = {1024, 300, 515, 299, 0};

typedef enum own_form { OWN_PADDED, OWN_PACKED, OWN_LENGTHS, OWN_PAGES, OWN_FORMS } own_form;

/* Runs own on the prefix, as it is or in another form. */
static void run_form(const flashc_attention_params *own, const flashc_shared_prefix *shared, own_form form,
                     uint64_t seed)
{
    const form_kind kind = {.packed_q = form == OWN_PACKED, .packed_k = form == OWN_PACKED,
                            .page_size = form == OWN_PAGES ? 7 : 0};
    char message[1024];
    test_form f;
    test_rng rng = {seed};
    if (form_is_padded(&kind)) {
        expect_ok(flashc_attention_shared_prefix(own, shared));
        return;
    }
    form_make(&f, own, &kind, &rng);
    if (form == OWN_PAGES) /* queries padded: their rows lie as in own */
        f.params.q = own->q;
    expect_ok(flashc_attention_shared_prefix(&f.params, shared));
    if (!form_collect(&f, own, message, sizeof message))
        fail_msg("%s", message);
    form_free(&f);
}

/* Other lengths than the first sequence has, at least so many own keys; what is no key is NaN, or a scale that would be
 * refused. */
static void set_lengths(problem *p, int64_t prefix, int64_t least, int64_t *own_lengths)
{
    int64_t *lengths = problem_add_array(p, ARRAY_SEQLENS_K, p->params.seqlen_k);
    for (int64_t b = 1; b < p->params.batch; b++)
        lengths[b] = b == 1 ? prefix + least : (prefix + 3 * p->params.seqlen_k) / 4;
    for (int64_t b = 0; b < p->params.batch; b++) {
        own_lengths[b] = lengths[b] - prefix;
        for (int64_t n = lengths[b] * p->params.num_heads_k; n < p->params.seqlen_k * p->params.num_heads_k; n++)
            for (problem_tensor which = TENSOR_K; which <= TENSOR_V_SCALE; which++)
                if (problem_view(p, which)->data != NULL && problem_view(p, which)->dtype != FLASHC_I8)
                    test_set(problem_view(p, which), b, n % p->params.num_heads_k, n / p->params.num_heads_k, 0,
                             (double)NAN);
    }
}

static void check_against_oracle(const problem_shape *shape, int64_t prefix, bool causal, own_form form,
                                 flashc_dtype cache)
{
    char message[1024];
    problem p;
    oracle expected;
    flashc_attention_params own;
    int64_t own_lengths[8];
    problem_typed(&p, shape, FLASHC_F32, cache, cache, FLASHC_F32, 40 + (uint64_t)prefix);
    share_prefix(&p, prefix);
    if (form >= OWN_LENGTHS)
        set_lengths(&p, prefix, causal ? shape->seqlen_q : 0, own_lengths); /* all see the prefix, aligned or not */
    const int64_t token = shape->num_heads * shape->head_dim; /* [batch, seqlen, heads, dim] */
    const int64_t strides[4] = {shape->seqlen_q * token, shape->head_dim, token, 1};
    memcpy(p.params.q.stride, strides, sizeof strides);
    if (causal) {
        p.params.causal = 1;
        p.params.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
    }
    float *sinks = problem_add_sinks(&p);
    for (int64_t h = 0; h < shape->num_heads; h++)
        sinks[h] = (float)h / 2;
    p.params.softcap = causal ? 0.0f : 7.0f;
    p.params.num_threads = 2;
    oracle_attention(&p.params, &expected);
    const flashc_shared_prefix shared = split(&p.params, prefix, &own);
    const double flops = plan_of(&p).flops;
    if (form >= OWN_LENGTHS)
        own.seqlens_k = own_lengths;
    static flashc_explanation on_prefix = {.struct_size = sizeof on_prefix}, on_own = {.struct_size = sizeof on_own};
    expect_ok(flashc_explain_shared_prefix(&own, &shared, &on_prefix, &on_own));
    assert_true(on_prefix.flops + on_own.flops == flops && on_prefix.num_items > 0 && on_own.block_n > 0);
    run_form(&own, &shared, form, 3);
    const flashc_explanation plan = plan_of(&p);
    if (!bound_check(&p.params, &expected, &plan, p.zero_mean, message, sizeof message))
        fail_msg("prefix %lld, causal %d, form %d: %s", (long long)prefix, causal, (int)form, message);
    oracle_free(&expected);
    problem_free(&p);
}

static void equals_a_prefix_of_ones_own(void **state)
{
    (void)state;
    static const flashc_dtype caches[] = {FLASHC_F32, FLASHC_F16, FLASHC_I8};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int n = 0; n < 2 * OWN_FORMS; n++)
            check_against_oracle(&shapes[i], prefixes[i], n % 2, (own_form)(n / 2), caches[i % 3]);
}

static void errors(void **state)
{
    (void)state;
    problem p;
    flashc_attention_params own;
    problem_plain(&p, &(problem_shape){2, 2, 1, 3, 40, 16, 16}, FLASHC_F32, 1);
    const flashc_shared_prefix shared = split(&p.params, 10, &own);
    expect_argument_error(flashc_attention_shared_prefix(&own, &shared),
                          "q.stride[0]: expected seqlen_q * stride[2] = 48 with a shared prefix, so that the queries "
                          "of all sequences are one row after the other, found 96");
    own.q.stride[0] = 48;
    flashc_shared_prefix wrong = shared;
    wrong.seqlen = -1;
    expect_argument_error(flashc_attention_shared_prefix(&own, &wrong), "prefix->seqlen: expected 0 to 2^48, found -1");
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
    const flashc_shared_prefix shared = split(&p.params, 10, &own);
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

/* What the two parts run, without a look at an element; the choice of each goes by its own rows. */
static void explanations(void **state)
{
    (void)state;
    problem p;
    flashc_attention_params own;
    problem_plain(&p, &(problem_shape){40, 2, 1, 1, 5000, 16, 16}, FLASHC_F32, 1);
    flashc_shared_prefix shared = split(&p.params, 4000, &own);
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
    share_prefix(&p, 10);
    const flashc_shared_prefix shared = split(&p.params, 10, &good);
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

/* Offsets whose sum with the prefix is beyond 64 bits. */
static void far_offsets(void **state)
{
    (void)state;
    problem p;
    flashc_attention_params own;
    problem_plain(&p, &(problem_shape){1, 1, 1, 2, 40, 16, 16}, FLASHC_F32, 1);
    const flashc_shared_prefix shared = split(&p.params, 10, &own);
    problem_snapshot(&p);
    own.causal = 1;
    own.alignment = FLASHC_ALIGN_EXPLICIT;
    const int64_t far[] = {INT64_MAX, INT64_MIN};
    for (int i = 0; i < 2; i++) { /* all own keys, or none */
        own.offsets = &far[i];
        expect_ok(flashc_attention_shared_prefix(&own, &shared));
        flashc_attention_params plain = p.params;
        plain.seqlen_k = i == 0 ? 40 : 10;
        oracle expected;
        oracle_attention(&plain, &expected);
        char message[1024];
        const flashc_explanation plan = plan_of(&p);
        if (!bound_check(&plain, &expected, &plan, true, message, sizeof message))
            fail_msg("%s", message);
        oracle_free(&expected);
    }
    problem_free(&p);
}

/* A prefix as it is after init is none, on a kernel too that could not run all queries as those of one sequence. */
static void no_prefix(void **state)
{
    (void)state;
    problem p;
    flashc_shared_prefix none;
    flashc_shared_prefix_init(&none, sizeof none);
    problem_plain(&p, &(problem_shape){4, 2, 2, 2, 40, 16, 16}, FLASHC_F32, 1);
    p.params.q.stride[0] = 2 * 16; /* [heads, batch, seqlen, dim] */
    p.params.q.stride[1] = 4 * 2 * 16;
    for (int named = 0; named < 2; named++) {
        oracle expected;
        flashc_explanation plan = {.struct_size = sizeof plan}, own = plan;
        char message[1024];
        p.params.kernel = named ? "decode_generic" : NULL;
        problem_snapshot(&p);
        expect_ok(flashc_explain_shared_prefix(&p.params, &none, &plan, &own));
        expect_ok(flashc_attention_shared_prefix(&p.params, &none));
        oracle_attention(&p.params, &expected);
        if (!bound_check(&p.params, &expected, &own, p.zero_mean, message, sizeof message))
            fail_msg("%s", message);
        oracle_free(&expected);
    }
    none.seqlen = INT64_C(1) << 48;
    none.k = none.v = (flashc_tensor){.data = p.params.k.data, .dtype = FLASHC_F32, .stride = {0, 0, 0, 1}};
    expect_argument_error(flashc_attention_shared_prefix(&p.params, &none),
                          "prefix->seqlen: expected at most 2^48 keys together with seqlen_k = 40, found "
                          "281474976710656");
    problem_free(&p);
}

/* The caller's workspace is nobody's: no call said how large it would have to be. */
static void workspace_is_not_used(void **state)
{
    (void)state;
    problem p;
    flashc_attention_params own;
    _Alignas(64) unsigned char workspace[64];
    problem_plain(&p, &(problem_shape){2, 2, 1, 1, 40, 16, 16}, FLASHC_F32, 1);
    const flashc_shared_prefix shared = split(&p.params, 10, &own);
    memset(workspace, 0x55, sizeof workspace);
    own.workspace = workspace;
    for (int i = 0; i < 2; i++) { /* too small for any call, and said to be large enough for this one */
        own.workspace_size = i == 0 ? sizeof workspace : SIZE_MAX / 2;
        expect_ok(flashc_attention_shared_prefix(&own, &shared));
        for (size_t byte = 0; byte < sizeof workspace; byte++)
            assert_int_equal(workspace[byte], 0x55);
    }
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_a_prefix_of_ones_own),
        cmocka_unit_test(explanations),
        cmocka_unit_test(errors),
        cmocka_unit_test(refused_options),
        cmocka_unit_test(errors_of_sequences),
        cmocka_unit_test(far_offsets),
        cmocka_unit_test(no_prefix),
        cmocka_unit_test(workspace_is_not_used),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
