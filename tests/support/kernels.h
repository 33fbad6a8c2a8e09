/* The kernels that tests walk: every row of the library's table that this machine can run. */
#ifndef FLASHC_TESTS_KERNELS_H
#define FLASHC_TESTS_KERNELS_H

#include "support/oracle.h"
#include "support/problem.h"

#include <stdbool.h>

enum { MAX_KERNELS = 64 };

/* The environment variable FLASHC_TEST_KERNELS keeps the walk to the kernels whose names contain it. */

/* Fills names with the kernels that run here and returns their number (at least 1, or the test
 * program exits with a message). The first call prints "not run: NAME: reason" for the others. */
int runnable_kernels(const char *names[MAX_KERNELS]);

/* Calls check once for each of them. */
void for_each_kernel(void (*check)(const char *kernel));

/* A cmocka test that runs its check on each kernel: {"name", test_on_kernels, NULL, NULL, &check}. */
typedef struct kernel_check {
    void (*check)(const char *kernel);
} kernel_check;
void test_on_kernels(void **state);

/* The most query rows per K/V head (seqlen_q * num_heads / num_heads_k) that the kernel takes; INT64_MAX if any. */
int64_t kernel_most_rows(const char *kernel);

/* The shape with seqlen_q cut down to what the kernel takes. */
problem_shape shape_for(const char *kernel, problem_shape shape);

/* problem_plain() of that shape, on the kernel. */
problem problem_on(const char *kernel, problem_shape shape, flashc_dtype dtype, uint64_t seed);

/* The length of a key piece in a decode call of these dims on this kernel (flashc_explanation.piece_n). */
int64_t kernel_piece(const char *kernel, int64_t head_dim, int64_t head_dim_v);

/* The plan of the problem's call. Fails the test if there is none. */
flashc_explanation plan_of(const problem *p);

/* Fails unless the results of p, every output that it has, are within the stated bound of these, and the tight one if
 * zero_mean. */
void check_against(const problem *p, const oracle *exact, bool zero_mean);

/* The same against the oracle's results, the tight bound if p->zero_mean. */
void check_exact(const problem *p);

/* Runs the problem on its kernel and compares with the oracle by the header's bound, the tight gate
 * if p->zero_mean, and checks that nothing but outputs was written. Fails the cmocka test with the
 * problem printed, also where the kernel refuses it. */
void run_and_check(problem *p);

/* Runs it, which must succeed, without looking at the results. */
void run_problem(problem *p);

/* Two problems of one shape have equal bits in every output; else fails the test, saying what. */
void assert_same_bits(const problem *a, const problem *b, const char *what);

#endif
