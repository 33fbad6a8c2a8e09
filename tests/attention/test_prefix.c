/* A shared prefix: the result of each sequence with a prefix of its own, within the stated bound. */
#include "support/bound.h"
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/form.h"
#include "support/kernels.h"
#include "support/prefix.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    test_prefix_share(&p, prefix);
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
    const flashc_shared_prefix shared = test_prefix_split(&p.params, prefix, &own);
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

/* Offsets whose sum with the prefix is beyond 64 bits. */
static void far_offsets(void **state)
{
    (void)state;
    problem p;
    flashc_attention_params own;
    problem_plain(&p, &(problem_shape){1, 1, 1, 2, 40, 16, 16}, FLASHC_F32, 1);
    const flashc_shared_prefix shared = test_prefix_split(&p.params, 10, &own);
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
    const flashc_shared_prefix shared = test_prefix_split(&p.params, 10, &own);
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
        cmocka_unit_test(far_offsets),
        cmocka_unit_test(no_prefix),
        cmocka_unit_test(workspace_is_not_used),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
