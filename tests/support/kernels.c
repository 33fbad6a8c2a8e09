#include "support/kernels.h"

#include "support/bound.h"
#include "support/cmocka.h"
#include "support/oracle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int runnable_kernels(const char *names[MAX_KERNELS])
{
    static bool told;
    const char *wanted = getenv("FLASHC_TEST_KERNELS");
    int count = 0;
    for (int i = 0; i < flashc_kernel_count() && count < MAX_KERNELS; i++) {
        flashc_kernel kernel;
        if (flashc_kernel_get(i, &kernel) != FLASHC_OK) {
            fprintf(stderr, "flashc_kernel_get(%d): %s\n", i, flashc_last_error());
            exit(1);
        }
        if (wanted && !strstr(kernel.name, wanted))
            continue;
        if (kernel.unavailable == NULL)
            names[count++] = kernel.name;
        else if (!told)
            fprintf(stderr, "not run: %s: %s\n", kernel.name, kernel.unavailable);
    }
    told = true;
    if (count == 0) {
        fprintf(stderr, "no kernel that was asked for runs on this machine; the generic one must\n");
        exit(1);
    }
    return count;
}

void for_each_kernel(void (*check)(const char *kernel))
{
    const char *names[MAX_KERNELS];
    int count = runnable_kernels(names);
    for (int i = 0; i < count; i++)
        check(names[i]);
}

void test_on_kernels(void **state)
{
    const kernel_check *wanted = *state;
    for_each_kernel(wanted->check);
}

/* Explains a call of one head on tensors where nothing is: explain reads no data. */
static flashc_status explain_shape(const char *kernel, int64_t rows, int64_t keys, int64_t head_dim,
                                   int64_t head_dim_v, flashc_explanation *plan)
{
    flashc_attention_params p;
    flashc_attention_params_init(&p, sizeof p);
    p.kernel = kernel;
    p.seqlen_q = rows;
    p.seqlen_k = keys;
    p.head_dim = head_dim;
    p.head_dim_v = head_dim_v;
    p.q = flashc_tensor_bhsd((void *)((uintptr_t)1 << 40), FLASHC_F32, 1, rows, head_dim);
    p.k = flashc_tensor_bhsd((void *)((uintptr_t)2 << 40), FLASHC_F32, 1, keys, head_dim);
    p.v = flashc_tensor_bhsd((void *)((uintptr_t)3 << 40), FLASHC_F32, 1, keys, head_dim_v);
    p.o = flashc_tensor_bhsd((void *)((uintptr_t)4 << 40), FLASHC_F32, 1, rows, head_dim_v);
    plan->struct_size = sizeof *plan;
    return flashc_explain(&p, plan);
}

int64_t kernel_most_rows(const char *kernel)
{
    flashc_explanation plan;
    if (explain_shape(kernel, 4096, 64, 64, 64, &plan) == FLASHC_OK)
        return INT64_MAX;
    int64_t rows = 0;
    while (explain_shape(kernel, rows + 1, 64, 64, 64, &plan) == FLASHC_OK)
        rows++;
    return rows;
}

problem_shape shape_for(const char *kernel, problem_shape shape)
{
    const int64_t group = shape.num_heads > 0 ? shape.num_heads / shape.num_heads_k : 1;
    const int64_t most = kernel_most_rows(kernel) / group;
    if (shape.seqlen_q > most)
        shape.seqlen_q = most > 1 ? most : 1;
    return shape;
}

problem problem_on(const char *kernel, problem_shape shape, flashc_dtype dtype, uint64_t seed)
{
    problem p;
    shape = shape_for(kernel, shape);
    problem_plain(&p, &shape, dtype, seed);
    p.params.kernel = kernel;
    return p;
}

int64_t kernel_piece(const char *kernel, int64_t head_dim, int64_t head_dim_v)
{
    flashc_explanation plan;
    if (explain_shape(kernel, 1, 100000, head_dim, head_dim_v, &plan) != FLASHC_OK || plan.piece_n < 1) {
        fprintf(stderr, "%s: a decode call over 100,000 keys is not split: %s\n", kernel, flashc_last_error());
        exit(1);
    }
    return plan.piece_n;
}

flashc_explanation plan_of(const problem *p)
{
    flashc_explanation plan = {.struct_size = sizeof plan};
    if (flashc_explain(&p->params, &plan) != FLASHC_OK) {
        problem_print(stderr, p);
        fail_msg("flashc_explain: %s", flashc_last_error());
    }
    return plan;
}

void run_problem(problem *p)
{
    flashc_status status = flashc_attention_fwd(&p->params);
    if (status != FLASHC_OK) {
        problem_print(stderr, p);
        fail_msg("flashc_attention_fwd: %s: %s", flashc_status_string(status), flashc_last_error());
    }
}

void check_against(const problem *p, const oracle *exact, bool zero_mean)
{
    char message[512];
    const flashc_explanation plan = plan_of(p);
    if (!bound_check(&p->params, exact, &plan, zero_mean, message, sizeof message) ||
        !bound_check_outputs(&p->params, exact, &plan, message, sizeof message)) {
        problem_print(stderr, p);
        fail_msg("%s", message);
    }
}

void check_exact(const problem *p)
{
    oracle exact;
    oracle_attention(&p->params, &exact);
    check_against(p, &exact, p->zero_mean);
    oracle_free(&exact);
}

void run_and_check(problem *p)
{
    char message[512];
    problem_snapshot(p);
    run_problem(p);
    if (!problem_unharmed(p, false, message, sizeof message)) {
        problem_print(stderr, p);
        fail_msg("%s", message);
    }
    check_exact(p);
}

void assert_same_bits(const problem *a, const problem *b, const char *what)
{
    for (problem_tensor which = TENSOR_O; which < TENSORS; which++) {
        const flashc_tensor *x = problem_view(a, which), *y = problem_view(b, which);
        int64_t size[4];
        problem_sizes(a, which, size);
        for (int64_t n = 0; x->data != NULL && n < size[0] * size[1] * size[2] * size[3]; n++) {
            int64_t j = n % size[3], i = n / size[3] % size[2], h = n / size[3] / size[2] % size[1];
            int64_t batch = n / size[3] / size[2] / size[1];
            if (test_get_bits(x, batch, h, i, j) == test_get_bits(y, batch, h, i, j))
                continue;
            problem_print(stderr, a);
            fail_msg("%s: %s[%lld][%lld][%lld][%lld] is %.9g and %.9g: the bits differ", what,
                     problem_tensor_name(which), (long long)batch, (long long)h, (long long)i, (long long)j,
                     test_get(x, batch, h, i, j), test_get(y, batch, h, i, j));
        }
    }
}
