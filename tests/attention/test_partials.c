/* Attention over disjoint parts of the keys, merged by flashc_merge_partials(), is attention over all; so are a call's
 * own pieces of the keys. */
#include "support/bound.h"
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/kernels.h"
#include "support/oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const problem_shape whole_shape = {2, 3, 1, 37, 611, 24, 20};
enum { MOST_ROWS = 2 * 3 * 37, WIDTH = 20, MAX_PARTS = 5 };

/* Rows whose visible keys all lie in one part, or in none, exercise the identity of the merge. */
static void hide_some(problem *p)
{
    const int64_t queries = p->params.seqlen_q;
    problem_add_mask(p);
    for (int64_t n = 0; n < 2 * 3 * queries; n++) {
        for (int64_t j = 0; j < 611; j++) {
            int64_t i = n % queries;
            bool hidden = i == 2 || (i == 3 && j >= 100) || (i == 4 && j < 600) || (i > 20 && (i + j) % 3 == 0);
            if (hidden)
                test_set(&p->params.mask, n / queries / 3, n / queries % 3, i, j, 0.0);
        }
    }
}

/* Keys first .. last - 1 of the whole problem; the outputs are packed arrays. */
static void run_part(const problem *whole, int64_t first, int64_t last, float *o, float *lse)
{
    flashc_attention_params part = whole->params;
    part.seqlen_k = last - first;
    part.k.data = test_at(&whole->params.k, 0, 0, first, 0);
    part.v.data = test_at(&whole->params.v, 0, 0, first, 0);
    part.mask.data = test_at(&whole->params.mask, 0, 0, 0, first);
    part.o = flashc_tensor_bhsd(o, FLASHC_F32, 3, part.seqlen_q, WIDTH);
    part.lse = flashc_tensor_bhsd(lse, FLASHC_F32, 3, part.seqlen_q, 1);
    if (flashc_attention_fwd(&part) != FLASHC_OK)
        fail_msg("keys %lld to %lld: %s", (long long)first, (long long)last, flashc_last_error());
}

/* An error of e in each part's LSE moves each weight by at most e, and their sum by as much. */
static void check_rows(const oracle *exact, const float *o, const float *lse, bound_terms terms, int parts)
{
    terms.chain += parts;
    for (int64_t row = 0; row < exact->rows; row++) {
        bool empty = exact->visible[row] == 0;
        double lse_bound = empty ? 0.0 : 2.0 * bound_lse(exact, row, terms);
        double got = (double)lse[row];
        if (got != exact->lse[row] && !(fabs(got - exact->lse[row]) <= lse_bound))
            fail_msg("%d parts: lse of row %lld is %.9g, expected %.9g (bound %.3g)", parts, (long long)row, got,
                     exact->lse[row], lse_bound);
        for (int64_t c = 0; c < WIDTH; c++) {
            double expected = exact->o[row * WIDTH + c], x = (double)o[row * WIDTH + c];
            double bound = bound_o(exact, row, c, terms, FLASHC_F32) +
                           2.0 * lse_bound * exact->weighted_v[row * WIDTH + c];
            if (!(fabs(x - expected) <= bound))
                fail_msg("%d parts: o[%lld][%lld] is %.9g, expected %.9g (bound %.3g)", parts, (long long)row,
                         (long long)c, x, expected, bound);
        }
    }
}

static void split_and_merge(const char *kernel)
{
    problem whole;
    const problem_shape shape = shape_for(kernel, whole_shape);
    const int64_t rows = 2 * 3 * shape.seqlen_q;
    problem_plain(&whole, &shape, FLASHC_F32, 11);
    whole.params.kernel = kernel;
    hide_some(&whole);
    oracle exact;
    oracle_attention(&whole.params, &exact);
    const flashc_explanation plan = plan_of(&whole);
    const bound_terms terms = bound_terms_of(&whole.params, &plan);
    static float o[MAX_PARTS][MOST_ROWS * WIDTH], lse[MAX_PARTS][MOST_ROWS];
    static float merged_o[MOST_ROWS * WIDTH], merged_lse[MOST_ROWS];
    test_rng rng = {12};
    for (int parts = 1; parts <= MAX_PARTS; parts++) {
        const float *o_parts[MAX_PARTS], *lse_parts[MAX_PARTS];
        int64_t first = 0;
        for (int n = 0; n < parts; n++) {
            int64_t last = n == parts - 1 ? 611 : first + test_rng_int(&rng, 0, (611 - first) / 2);
            o_parts[n] = o[n];
            lse_parts[n] = lse[n];
            run_part(&whole, first, last, o[n], lse[n]);
            for (int64_t row = 0; row < rows; row++) { /* the O of an identity may hold anything */
                for (int64_t c = 0; c < WIDTH && isinf(lse[n][row]); c++)
                    o[n][row * WIDTH + c] = NAN;
            }
            first = last;
        }
        expect_ok(flashc_merge_partials(parts, rows, WIDTH, o_parts, lse_parts, merged_o, merged_lse));
        check_rows(&exact, merged_o, merged_lse, terms, parts);
    }
    oracle_free(&exact);
    problem_free(&whole);
}

/* One thread has all pieces of the keys in one run. After 7 of them three nodes of the tree are open (4, 2 and 1
 * pieces), the fewest that leave more than one merge to the end of the run; so also after pieces 1 to 6, which a window
 * leaves. */
static void fold_one_run(const char *kernel)
{
    enum { PIECES = 7, DIM = 8 };
    const int64_t piece = kernel_piece(kernel, DIM, DIM), keys = (PIECES - 1) * piece + 5;
    for (int n = 0; n < 4; n++) {
        const bool decode = n % 2 == 0, windowed = n / 2 == 1;
        problem p = problem_on(kernel, (problem_shape){1, 2, 2, decode ? 1 : 70, keys, DIM, DIM}, FLASHC_F32,
                               13 + (uint64_t)n);
        p.params.num_threads = 1;
        if (windowed) {
            p.params.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
            p.params.window_left = keys - piece - 100; /* begins inside of piece 1 for every row */
        }
        assert_int_equal(plan_of(&p).piece_n, piece);
        assert_int_equal(plan_of(&p).num_threads, 1);
        run_and_check(&p);
        problem_free(&p);
    }
}

int main(void)
{
    static kernel_check merge_check = {split_and_merge}, fold_check = {fold_one_run};
    const struct CMUnitTest tests[] = {
        {"parts_of_the_keys_merge_to_the_whole", test_on_kernels, NULL, NULL, &merge_check},
        {"pieces_of_one_run_fold_to_the_whole", test_on_kernels, NULL, NULL, &fold_check},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
