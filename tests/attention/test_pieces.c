/* Keys that are cut into pieces: as many as there can be, and rows that see some of them, up to and beyond their
 * edges, by one thread and by several that share them. */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/kernels.h"

#include <math.h>

/* All keys are one row, so that scores are 0 and values 3. Of the bounds, 8 u and 16 u are left: sums of fewer than
 * 2^22 ones and threes are exact. */
static void check_one_row(const char *kernel, int64_t seqlen_k, int threads)
{
    static float data[2] = {0.0f, 3.0f};
    float o = 0.0f, lse = 0.0f;
    flashc_attention_params p;
    flashc_attention_params_init(&p, sizeof p);
    p.kernel = kernel;
    p.num_threads = threads;
    p.seqlen_q = p.head_dim = p.head_dim_v = 1;
    p.seqlen_k = seqlen_k;
    p.q = p.k = (flashc_tensor){.data = &data[0], .dtype = FLASHC_F32};
    p.v = (flashc_tensor){.data = &data[1], .dtype = FLASHC_F32};
    p.o = flashc_tensor_bhsd(&o, FLASHC_F32, 1, 1, 1);
    p.lse = flashc_tensor_bhsd(&lse, FLASHC_F32, 1, 1, 1);
    expect_ok(flashc_attention_fwd(&p));
    if (!(fabsf(o - 3.0f) <= 8 * 0x1p-24f * 3.0f && fabsf(lse - logf((float)seqlen_k)) <= 16 * 0x1p-24f * lse))
        fail_msg("%s, %d threads: o = %.9g, lse = %.9g of %lld keys", kernel, threads, (double)o, (double)lse,
                 (long long)seqlen_k);
}

/* There are 1,024 at most: beyond that pieces get longer. */
static void most_pieces(const char *kernel)
{
    const int64_t keys = 1024 * kernel_piece(kernel, 1, 1);
    for (int threads = 1; threads <= 3; threads += 2) {
        check_one_row(kernel, keys, threads);
        check_one_row(kernel, keys + 1, threads);
        check_one_row(kernel, 2 * keys + 1, threads);
    }
}

/* The last row's last key, and the first row's first one if there is a window, at an edge of a piece or a key beside
 * it. Row blocks have room for more rows than there are. */
static void edges(const char *kernel)
{
    enum { QUERIES = 3, PIECES = 5 };
    const int64_t piece = kernel_piece(kernel, 8, 8);
    problem p = problem_on(kernel, (problem_shape){1, 2, 1, QUERIES, PIECES * piece, 8, 8}, FLASHC_F32, 61);
    for (int n = 0; n < 48; n++) {
        const int64_t last = (2 + n / 24 * 2) * piece + n % 3 - 2; /* the key that the last query sees last */
        problem_add_causal(&p, last - (p.params.seqlen_q - 1));
        p.params.window_left = n / 3 % 4 == 0 ? -1 : last - p.params.seqlen_q - piece - n / 3 % 4 + 3;
        p.params.num_threads = n / 12 % 2 == 0 ? 3 : 8;
        run_and_check(&p);
    }
    problem_free(&p);
}

int main(void)
{
    static kernel_check most = {most_pieces}, at_edges = {edges};
    const struct CMUnitTest tests[] = {
        {"as_many_pieces_as_there_can_be", test_on_kernels, NULL, NULL, &most},
        {"rows_that_end_at_edges_of_pieces", test_on_kernels, NULL, NULL, &at_edges},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
