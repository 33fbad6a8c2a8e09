/* Axes of one element: their strides may be anything, and nothing is computed from them that leaves 64 bits. */
#include "support/bound.h"
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/form.h"
#include "support/kernels.h"

/* INT64_MAX or INT64_MIN, in turn. */
static void make_wild(flashc_tensor *view, const int64_t size[4], int first)
{
    for (int axis = 0; axis < 4 && view->data != NULL; axis++)
        if (size[axis] == 1)
            view->stride[axis] = (axis + first) % 2 == 0 ? INT64_MAX : INT64_MIN;
}

static void single_axes(const char *kernel)
{
    static const problem_shape shapes[] = {{1, 1, 1, 1, 1, 1, 1},  {1, 1, 1, 1, 9, 16, 16}, {1, 1, 1, 40, 1, 16, 16},
                                           {1, 1, 1, 40, 9, 1, 1}, {2, 2, 1, 1, 300, 8, 8}, {2, 3, 3, 5, 1, 8, 8}};
    static const flashc_dtype types[] = {FLASHC_F32, FLASHC_BF16, FLASHC_I8};
    for (size_t n = 0; n < 3 * sizeof shapes / sizeof shapes[0]; n++) {
        problem p = problem_on(kernel, shapes[n / 3], types[n % 3], 61);
        problem_add_mask(&p);
        problem_add_bias(&p, FLASHC_F32);
        problem_add_block_mask(&p, 64, 512);
        problem_add_outputs(&p, FLASHC_SCORES_MASKED, FLASHC_F32);
        for (problem_tensor which = TENSOR_Q; which < TENSORS; which++) {
            int64_t size[4];
            problem_sizes(&p, which, size);
            make_wild(params_view(&p.params, which), size, (int)(n % 2));
        }
        run_and_check(&p);
        problem_free(&p);
    }
}

/* Pages of one row. */
static void single_rows_of_pages(const char *kernel)
{
    static const flashc_dtype types[] = {FLASHC_F32, FLASHC_BF16, FLASHC_I8, FLASHC_F8_E4M3, FLASHC_Q8_0};
    for (int n = 0; n < 10; n++) {
        problem p = problem_on(kernel, (problem_shape){2, 2, 2, n < 5 ? 1 : 40, 70, 32, 32}, types[n % 5], 62);
        test_form f;
        test_rng rng = {1};
        char message[256];
        oracle exact;
        form_make(&f, &p.params, &(form_kind){.page_size = 1}, &rng);
        for (problem_tensor which = TENSOR_K; which <= TENSOR_V_SCALE; which++)
            make_wild(params_view(&f.params, which), (const int64_t[4]){2, 2, 1, 2}, n);
        expect_ok(flashc_attention_fwd(&f.params));
        if (!form_collect(&f, &p.params, message, sizeof message))
            fail_msg("%s", message);
        oracle_attention(&p.params, &exact);
        check_against(&p, &exact, p.zero_mean);
        oracle_free(&exact);
        form_free(&f);
        problem_free(&p);
    }
}

/* Rows of q8_0 that are one block. */
static void single_blocks(const char *kernel)
{
    problem p = problem_on(kernel, (problem_shape){2, 2, 2, 3, 300, 32, 32}, FLASHC_Q8_0, 63);
    for (int n = 0; n < 2; n++) {
        p.params.k.stride[3] = n == 0 ? INT64_MAX : -1;
        p.params.v.stride[3] = n == 0 ? INT64_MIN : 0;
        run_and_check(&p);
    }
    problem_free(&p);
}

int main(void)
{
    kernel_check axes = {single_axes}, pages = {single_rows_of_pages}, blocks = {single_blocks};
    const struct CMUnitTest tests[] = {
        {"single_axes", test_on_kernels, NULL, NULL, &axes},
        {"single_rows_of_pages", test_on_kernels, NULL, NULL, &pages},
        {"single_blocks", test_on_kernels, NULL, NULL, &blocks},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
