/* The caller's floating-point mode changes no bit of a result, and no call changes the mode. */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/float_mode.h"
#include "support/kernels.h"
#include "support/stream.h"

#include <string.h>

/* 1 / sqrt(80) must be rounded; few query rows, so that keys are split and states merge. */
static const problem_shape many_rows = {1, 4, 2, 130, 270, 80, 48}, few_rows = {2, 4, 2, 2, 1500, 80, 48};

/* Equal seeds give equal problems, whose results must have equal bits. A column of V is subnormal, for the modes that
 * flush. */
static problem make(const char *kernel, problem_shape shape, int threads)
{
    problem p = problem_on(kernel, shape, FLASHC_F32, 31);
    p.params.num_threads = threads;
    for (int64_t j = 0; j < shape.seqlen_k; j++)
        test_set(&p.params.v, 0, 0, j, 3, 3e-40 * (double)(j % 7));
    return p;
}

/* The two results of a problem and of its twin, which `run` computes in each mode. */
static void check_modes(problem *plain, flashc_status (*run)(void *), const char *what)
{
    problem odd = problem_twin(plain);
    for (int mode = 0; mode < FLOAT_MODES; mode++) {
        problem_snapshot(&odd);
        expect_ok(in_float_mode(mode, run, &odd));
        if (mode == 0) {
            problem_snapshot(plain);
            expect_ok(run(plain));
        }
        assert_same_bits(plain, &odd, what);
    }
    problem_free_twin(&odd);
}

static flashc_status call(void *argument)
{
    return flashc_attention_fwd(&((problem *)argument)->params);
}

/* The odd modes come first: worker threads that a call makes keep the mode they are born with. */
static void one_call(const char *kernel)
{
    for (int threads = 3; threads >= 1; threads--) {
        problem p = make(kernel, many_rows, threads);
        check_modes(&p, call, "a call in another floating-point mode of the caller");
        problem_free(&p);
    }
}

/* The keys in two chunks, of which the first goes through a state of its own. */
static flashc_status chunks_and_merge(void *argument)
{
    const flashc_attention_params *p = &((problem *)argument)->params;
    const int64_t first = 700;
    test_stream s = test_stream_begin(p), rest = test_stream_begin(p);
    rest.state.next_key = first;
    test_stream_chunk(&s, p, 0, first);
    test_stream_chunk(&rest, p, first, p->seqlen_k - first);
    flashc_status status = flashc_attention_state_merge(&s.state, &rest.state);
    if (status == FLASHC_OK)
        status = flashc_attention_finish(&s.state, p);
    test_stream_free(&s);
    test_stream_free(&rest);
    return status;
}

static void states(const char *kernel)
{
    problem p = make(kernel, few_rows, 2);
    check_modes(&p, chunks_and_merge, "chunks in another floating-point mode of the caller");
    problem_free(&p);
}

/* K and V of the first sequence, once more, in front of each one's own. */
static flashc_status with_prefix(void *argument)
{
    const flashc_attention_params *p = &((problem *)argument)->params;
    flashc_shared_prefix prefix;
    flashc_shared_prefix_init(&prefix, sizeof prefix);
    prefix.seqlen = p->seqlen_k;
    prefix.k = p->k;
    prefix.v = p->v;
    return flashc_attention_shared_prefix(p, &prefix);
}

static void shared_prefix(const char *kernel)
{
    problem_shape shape = few_rows;
    shape.seqlen_q = 1;
    problem p = make(kernel, shape, 2);
    if (kernel_most_rows(kernel) >= shape.batch * shape.num_heads / shape.num_heads_k)
        check_modes(&p, with_prefix, "a shared prefix in another floating-point mode of the caller");
    problem_free(&p);
}

/* Arguments that are invalid since a subnormal number is no 0. */
static void refusals(void **state)
{
    (void)state;
    problem p;
    problem_typed(&p, &(problem_shape){1, 1, 1, 3, 5, 8, 8}, FLASHC_F32, FLASHC_I8, FLASHC_F32, FLASHC_F32, 1);
    for (int mode = 0; mode < FLOAT_MODES; mode++)
        for (int64_t stride = 1; stride <= 2; stride++) { /* contiguous scales are looked at in another way */
            float scale[10] = {1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f};
            p.params.k_scale = flashc_tensor_bhsd(scale, FLASHC_F32, 1, 5, 1);
            p.params.k_scale.stride[2] = stride;
            scale[2 * stride] = -1e-40f;
            assert_int_equal(in_float_mode(mode, call, &p), FLASHC_ERR_ARGUMENT);
            assert_non_null(strstr(flashc_last_error(), "k_scale[0][0][2]: expected a finite value, 0 or more"));
            scale[2 * stride] = 1e-40f;
            expect_ok(in_float_mode(mode, call, &p));
            p.params.softcap = 1e-40f;
            assert_int_equal(in_float_mode(mode, call, &p), FLASHC_ERR_ARGUMENT);
            assert_non_null(strstr(flashc_last_error(), "softcap: expected 0 (none) or a positive normal number"));
            p.params.softcap = 0.0f;
        }
    problem_free(&p);
}

/* A call whose operations are more than a double counts one by one: the counts are rounded, to nearest. */
typedef struct counts {
    flashc_attention_params params;
    double flops, item_flops, item_scores;
} counts;

static flashc_status count(void *argument)
{
    counts *c = argument;
    flashc_explanation plan = {.struct_size = sizeof plan};
    flashc_item_work item;
    flashc_status status = flashc_explain(&c->params, &plan);
    if (status == FLASHC_OK)
        status = flashc_explain_items(&c->params, 0, 1, &item);
    if (status == FLASHC_OK) {
        c->flops = plan.flops;
        c->item_flops = item.flops;
        c->item_scores = item.scores;
    }
    return status;
}

static void explanations(void **state)
{
    (void)state;
    float input = 0, output = 0;
    counts first = {.flops = 0};
    for (int mode = FLOAT_MODES - 1; mode >= 0; mode--) {
        counts c;
        flashc_attention_params *p = &c.params;
        flashc_attention_params_init(p, sizeof *p);
        p->seqlen_q = ((int64_t)1 << 40) + 12345677;
        p->seqlen_k = ((int64_t)1 << 48) - 1;
        p->head_dim = p->head_dim_v = 77;
        p->q = p->k = p->v = (flashc_tensor){.data = &input, .dtype = FLASHC_F32};
        p->o = flashc_tensor_bhsd(&output, FLASHC_F32, 1, p->seqlen_q, 77);
        p->num_threads = 1;
        expect_ok(in_float_mode(mode, count, &c));
        if (mode == FLOAT_MODES - 1)
            first = c;
        assert_true(c.flops == first.flops && c.item_flops == first.item_flops && c.item_scores == first.item_scores);
    }
}

int main(void)
{
    static kernel_check checks[] = {{one_call}, {states}, {shared_prefix}};
    const struct CMUnitTest tests[] = {
        {"one_call", test_on_kernels, NULL, NULL, &checks[0]},
        {"chunks_and_merged_states", test_on_kernels, NULL, NULL, &checks[1]},
        {"shared_prefix", test_on_kernels, NULL, NULL, &checks[2]},
        cmocka_unit_test(refusals),
        cmocka_unit_test(explanations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
