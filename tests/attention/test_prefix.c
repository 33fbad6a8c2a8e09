/* A shared prefix: the result of each sequence with a prefix of its own, within the stated bound. */
#include "support/bound.h"
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/form.h"
#include "support/kernels.h"
#include "support/problem.h"

#include <math.h>
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

/* Runs own on the prefix, as it is or packed. */
static void run_form(const flashc_attention_params *own, const flashc_shared_prefix *shared, bool packed, uint64_t seed)
{
    char message[1024];
    test_form f;
    test_rng rng = {seed};
    if (!packed) {
        expect_ok(flashc_attention_shared_prefix(own, shared));
        return;
    }
    form_make(&f, own, &(form_kind){.packed_q = true, .packed_k = true}, &rng);
    expect_ok(flashc_attention_shared_prefix(&f.params, shared));
    if (!form_collect(&f, own, message, sizeof message))
        fail_msg("%s", message);
    form_free(&f);
}

static void check_against_oracle(const problem_shape *shape, int64_t prefix, bool causal, bool packed,
                                 flashc_dtype cache)
{
    char message[1024];
    problem p;
    oracle expected;
    flashc_attention_params own;
    problem_typed(&p, shape, FLASHC_F32, cache, cache, FLASHC_F32, 40 + (uint64_t)prefix);
    share_prefix(&p, prefix);
    const int64_t token = shape->num_heads * shape->head_dim; /* [batch, seqlen, heads, dim] */
    const int64_t strides[4] = {shape->seqlen_q * token, shape->head_dim, token, 1};
    memcpy(p.params.q.stride, strides, sizeof strides);
    if (causal)
        problem_add_causal(&p, shape->seqlen_k - shape->seqlen_q);
    float *sinks = problem_add_sinks(&p);
    for (int64_t h = 0; h < shape->num_heads; h++)
        sinks[h] = (float)h / 2;
    p.params.softcap = causal ? 0.0f : 7.0f;
    p.params.num_threads = 2;
    oracle_attention(&p.params, &expected);
    const flashc_shared_prefix shared = split(&p.params, prefix, &own);
    if (causal)
        own.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
    run_form(&own, &shared, packed, 3);
    const flashc_explanation plan = plan_of(&p);
    if (!bound_check(&p.params, &expected, &plan, p.zero_mean, message, sizeof message))
        fail_msg("prefix %lld, causal %d, packed %d: %s", (long long)prefix, causal, packed, message);
    oracle_free(&expected);
    problem_free(&p);
}

static void equals_a_prefix_of_ones_own(void **state)
{
    (void)state;
    static const flashc_dtype caches[] = {FLASHC_F32, FLASHC_F16, FLASHC_I8};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int form = 0; form < 4; form++)
            check_against_oracle(&shapes[i], prefixes[i], form % 2, form / 2, caches[i % 3]);
}

static void errors(void **state)
{
    (void)state;
    problem p;
    flashc_attention_params own;
    problem_plain(&p, &(problem_shape){2, 2, 1, 3, 40, 16, 16}, FLASHC_F32, 1);
    const flashc_shared_prefix shared = split(&p.params, 10, &own);
    expect_argument_error(flashc_attention_shared_prefix(&own, &shared),
                          "q.stride[0]: expected seqlen_q * stride[2] = 48 with a shared prefix, so that the queries of "
                          "all sequences are one row after the other, found 96");
    own.q.stride[0] = 48;
    flashc_shared_prefix wrong = shared;
    wrong.seqlen = -1;
    expect_argument_error(flashc_attention_shared_prefix(&own, &wrong), "prefix->seqlen: expected 0 to 2^48, found -1");
    wrong = shared;
    wrong.k.data = NULL;
    expect_argument_error(flashc_attention_shared_prefix(&own, &wrong), "k.data: expected a pointer to [1, 1, 10, 16] elements, found NULL");
    wrong.struct_size = 0;
    assert_int_equal(flashc_attention_shared_prefix(&own, &wrong), FLASHC_ERR_ARGUMENT);
    expect_argument_error(flashc_attention_shared_prefix(NULL, &shared), "params: expected a pointer, found NULL");
    own.window_left = 5;
    expect_argument_error(flashc_attention_shared_prefix(&own, &shared),
                          "window: expected none with a shared prefix, found one");
    own.window_left = -1;
    own.causal = 1;
    assert_int_equal(flashc_attention_shared_prefix(&own, &shared), FLASHC_ERR_ARGUMENT); /* UNSET */
    own.alignment = FLASHC_ALIGN_EXPLICIT;
    expect_argument_error(flashc_attention_shared_prefix(&own, &shared), "offsets: expected one per batch element, found NULL");
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_a_prefix_of_ones_own),
        cmocka_unit_test(errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
