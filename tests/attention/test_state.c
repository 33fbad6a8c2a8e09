/* Keys chunk by chunk through a state: the bits of one call where chunks end at tiles, the stated bound elsewhere. */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/kernels.h"
#include "support/stream.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int64_t RANDOM_COUNT = 25;

static void random_problems(const char *kernel)
{
    int64_t split = 0, several = 0, left_padded = 0, bottom_right = 0, scores = 0;
    for (int64_t i = 0; i < RANDOM_COUNT; i++) {
        problem p;
        problem_random(&p, 7000 + (uint64_t)i, kernel);
        p.params.key_mass.data = NULL;
        if (p.params.scores_stage == FLASHC_SCORES_WEIGHTS)
            p.params.scores.data = NULL;
        run_problem(&p);
        const flashc_explanation plan = plan_of(&p);
        problem streamed = problem_twin(&p);
        test_rng rng = {(uint64_t)i};
        split += plan.piece_n > 0 && p.params.seqlen_k > plan.piece_n;
        several += p.params.seqlen_k > plan.block_n;
        left_padded += p.params.leftpad_k != NULL;
        scores += p.params.scores.data != NULL;
        bottom_right += p.params.alignment == FLASHC_ALIGN_BOTTOM_RIGHT;
        /* Where lengths of queries differ, so may the pieces; where padding does, tiles end elsewhere. */
        if (p.params.seqlens_q == NULL && p.params.leftpad_k == NULL) {
            test_stream_all(&streamed, plan.block_n, &rng);
            assert_same_bits(&p, &streamed, "one call and chunks of tiles");
        }
        test_stream_all(&streamed, 1, &rng);
        check_exact(&streamed);
        problem_free_twin(&streamed);
        problem_free(&p);
    }
    printf("%s: %lld random problems, %lld with split keys, %lld longer than a tile, %lld padded on the left, %lld "
           "aligned at the bottom right, %lld with scores\n", kernel, (long long)RANDOM_COUNT, (long long)split,
           (long long)several, (long long)left_padded, (long long)bottom_right, (long long)scores);
    if (split == 0 || several == 0 || left_padded == 0 || bottom_right == 0 || scores == 0)
        fail_msg("%s: no problem of one of these kinds", kernel);
}

/* Many pieces, in chunks of a few and of parts of one, with the state moved in between. */
static void decode_over_pieces(const char *kernel)
{
    const int64_t piece = kernel_piece(kernel, 24, 20);
    problem p = problem_on(kernel, (problem_shape){2, 4, 2, 2, 21 * piece + 77, 24, 20}, FLASHC_F32, 5);
    problem_add_causal(&p, p.params.seqlen_k - 300);
    p.params.window_left = 11 * piece;
    problem_add_sinks(&p)[1] = 0.5f;
    run_problem(&p);
    assert_int_equal(plan_of(&p).piece_n, piece);
    problem streamed = problem_twin(&p);
    test_rng rng = {6};
    for (int round = 0; round < 3; round++) {
        test_stream_all(&streamed, round == 0 ? piece : plan_of(&p).block_n, &rng);
        assert_same_bits(&p, &streamed, "one call and chunks of pieces or tiles");
    }
    problem_free_twin(&streamed);
    problem_free(&p);
}

/* NaN and infinity in V, hidden in some rows: they stay where they are seen, and the chunk before is not lost. */
static void special_values(const char *kernel)
{
    problem p = problem_on(kernel, (problem_shape){1, 2, 1, 9, 400, 16, 16}, FLASHC_F32, 8);
    problem_add_mask(&p);
    test_set(&p.params.v, 0, 0, 50, 3, (double)NAN);
    test_set(&p.params.v, 0, 0, 290, 5, (double)INFINITY);
    test_set(&p.params.mask, 0, 0, 0, 50, 0.0);
    test_set(&p.params.mask, 0, 1, 0, 290, 0.0);
    run_problem(&p);
    problem streamed = problem_twin(&p);
    test_rng rng = {9};
    const int64_t block_n = plan_of(&p).block_n;
    for (int round = 0; round < 3; round++) {
        test_stream_all(&streamed, block_n, &rng);
        for (int64_t h = 0; h < 2; h++)
            for (int64_t n = 0; n < p.params.seqlen_q * 16; n++) {
                const double a = test_get(&p.params.o, 0, h, n / 16, n % 16);
                const double b = test_get(&streamed.params.o, 0, h, n / 16, n % 16);
                if (!(a == b || (isnan(a) && isnan(b))))
                    fail_msg("o[0][%d][%d][%d] is %g, in chunks %g", (int)h, (int)(n / 16), (int)(n % 16), a, b);
            }
    }
    problem_free_twin(&streamed);
    problem_free(&p);
}

/* Rows that are no queries of their sequence are rows without keys, in every output that a state has. */
static void padded_queries(const char *kernel)
{
    problem p = problem_on(kernel, (problem_shape){3, 2, 1, 4, 300, 16, 16}, FLASHC_F32, 10);
    int64_t *lengths = problem_add_array(&p, ARRAY_SEQLENS_Q, p.params.seqlen_q);
    lengths[1] = 1;
    lengths[2] = 0;
    problem_add_sinks(&p)[0] = 0.5f;
    problem_add_outputs(&p, FLASHC_SCORES_SCALED, FLASHC_F32);
    p.params.scores.data = p.params.key_mass.data = NULL;
    test_rng rng = {11};
    test_stream_all(&p, 100, &rng);
    check_exact(&p);
    problem_free(&p);
}

/* States over parts of the keys, each from its own first position on, merge to the whole, which has some of its own. */
static void parts_merge(const char *kernel)
{
    const int64_t piece = kernel_piece(kernel, 24, 20);
    problem p = problem_on(kernel, (problem_shape){2, 3, 3, 2, 5 * piece + 99, 24, 20}, FLASHC_F32, 12);
    problem_add_causal(&p, p.params.seqlen_k - 40);
    problem_snapshot(&p);
    const int64_t cut[4] = {0, 2 * piece + 17, 3 * piece, p.params.seqlen_k};
    test_stream whole = test_stream_begin(&p.params);
    test_stream_chunk(&whole, &p.params, 0, cut[1]);
    assert_true(whole.state.n_nodes > 1);
    for (int n = 1; n < 3; n++) {
        test_stream part = test_stream_begin(&p.params);
        part.state.next_key = cut[n];
        test_stream_chunk(&part, &p.params, cut[n], cut[n + 1] - cut[n]);
        expect_ok(flashc_attention_state_merge(&whole.state, &part.state));
        assert_int_equal(whole.state.next_key, cut[n + 1]);
        test_stream_free(&part);
    }
    expect_ok(flashc_attention_finish(&whole.state, &p.params));
    test_stream_free(&whole);
    check_exact(&p);
    problem_free(&p);
}

/* A kernel may be chosen because there is no mask or bias: a state must know of them. */
static void pieces_are_those_of_the_call(void **unused)
{
    (void)unused;
    static const problem_shape shapes[] = {{1, 1, 1, 300, 3000, 64, 64}, {1, 4, 1, 130, 2000, 32, 32}};
    for (int n = 0; n < 6; n++) {
        problem p;
        test_rng rng = {(uint64_t)n};
        problem_plain(&p, &shapes[n % 2], FLASHC_F32, 30);
        if (n / 2 == 1)
            problem_add_mask(&p);
        else if (n / 2 == 2)
            problem_add_bias(&p, FLASHC_F32);
        run_problem(&p);
        const flashc_explanation plan = plan_of(&p);
        test_stream s = test_stream_begin(&p.params);
        assert_int_equal(s.state.piece_n, plan.piece_n);
        test_stream_free(&s);
        problem streamed = problem_twin(&p);
        test_stream_all(&streamed, plan.block_n, &rng);
        assert_same_bits(&p, &streamed, "one call and chunks of tiles");
        problem_free_twin(&streamed);
        problem_free(&p);
    }
}

/* The worked example of a shared prefix: one K/V for all sequences, read once for all their queries by looking at them
 * as the queries of one sequence, then each one's own. */
static void shared_prefix(const char *kernel)
{
    enum { BATCH = 3, HEADS = 2, PREFIX = 700, OWN = 90, DIM = 16 };
    problem p = problem_on(kernel, (problem_shape){BATCH, HEADS, 1, 1, PREFIX + OWN, DIM, DIM}, FLASHC_F32, 20);
    for (int64_t b = 1; b < BATCH; b++) /* the oracle's prefix is the same in each */
        for (int64_t n = 0; n < PREFIX * DIM; n++) {
            test_set(&p.params.k, b, 0, n / DIM, n % DIM, test_get(&p.params.k, 0, 0, n / DIM, n % DIM));
            test_set(&p.params.v, b, 0, n / DIM, n % DIM, test_get(&p.params.v, 0, 0, n / DIM, n % DIM));
        }
    problem_snapshot(&p);
    test_stream s = test_stream_begin(&p.params);
    flashc_attention_params all = p.params; /* q [1, HEADS, BATCH, DIM] */
    all.batch = 1;
    all.seqlen_q = BATCH;
    all.q.stride[2] = p.params.q.stride[0];
    const int64_t row_stride[3] = {s.state.row_stride[0], s.state.row_stride[1], s.state.row_stride[2]};
    s.state.row_stride[2] = row_stride[0];
    all.seqlen_k = PREFIX;
    if (kernel_most_rows(kernel) >= BATCH * HEADS) {
        expect_ok(flashc_attention_accumulate(&s.state, &all));
        s.state.row_stride[2] = row_stride[2];
        test_stream_chunk(&s, &p.params, PREFIX, OWN);
        expect_ok(flashc_attention_finish(&s.state, &p.params));
        check_exact(&p);
    }
    test_stream_free(&s);
    problem_free(&p);
}

int main(void)
{
    static kernel_check random = {random_problems}, decode = {decode_over_pieces}, special = {special_values},
                        merge = {parts_merge}, padding = {padded_queries}, prefix = {shared_prefix};
    const struct CMUnitTest tests[] = {
        {"random_problems_in_chunks", test_on_kernels, NULL, NULL, &random},
        {"decode_over_pieces", test_on_kernels, NULL, NULL, &decode},
        {"nan_and_infinity_in_v", test_on_kernels, NULL, NULL, &special},
        {"padded_queries", test_on_kernels, NULL, NULL, &padding},
        {"states_of_parts_merge", test_on_kernels, NULL, NULL, &merge},
        {"shared_prefix", test_on_kernels, NULL, NULL, &prefix},
        cmocka_unit_test(pieces_are_those_of_the_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
