/* Keys chunk by chunk through a state: the bits of one call where chunks end at tiles, the stated bound elsewhere. */
#include "support/bound.h"
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/kernels.h"
#include "support/stream.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int64_t RANDOM_COUNT = 25;

/* Is p's result within the bound of exact attention? */
static void check_exact(const problem *p)
{
    oracle exact;
    oracle_attention(&p->params, &exact);
    check_against(p, &exact, true);
    oracle_free(&exact);
}

/* Chunk lengths: multiples of unit. */
static void stream_in_chunks(problem *p, int64_t unit, test_rng *rng)
{
    test_stream s = test_stream_begin(&p->params);
    const int64_t units = p->params.seqlen_k / unit + 1;
    for (int64_t first = 0; first < p->params.seqlen_k;) {
        int64_t n = unit * test_rng_int(rng, 1, 1 + units / 2);
        if (test_rng_chance(rng, 20))
            n = unit;
        n = n < p->params.seqlen_k - first ? n : p->params.seqlen_k - first;
        p->params.num_threads = (int)test_rng_int(rng, 1, 3);
        test_stream_chunk(&s, &p->params, first, n);
        if (test_rng_chance(rng, 30))
            test_stream_move(&s);
        first += n;
    }
    expect_ok(flashc_attention_finish(&s.state, &p->params));
    test_stream_free(&s);
}

static void random_problems(const char *kernel)
{
    int64_t split = 0, several = 0, left_padded = 0, bottom_right = 0, scores = 0;
    for (int64_t i = 0; i < RANDOM_COUNT; i++) {
        problem p;
        problem_random(&p, 7000 + (uint64_t)i, kernel);
        p.params.key_mass.data = NULL;
        if (p.params.scores_stage == FLASHC_SCORES_WEIGHTS)
            p.params.scores.data = NULL;
        if (!run_problem(&p)) {
            problem_free(&p);
            continue;
        }
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
            stream_in_chunks(&streamed, plan.block_n, &rng);
            assert_same_bits(&p, &streamed, "one call and chunks of tiles");
        }
        oracle exact;
        oracle_attention(&p.params, &exact);
        stream_in_chunks(&streamed, 1, &rng);
        check_against(&streamed, &exact, p.zero_mean);
        oracle_free(&exact);
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
    const problem_shape shape = shape_for(kernel, (problem_shape){2, 4, 2, 2, 0, 24, 20});
    problem_shape longer = shape;
    const int64_t piece = kernel_piece(kernel, 24, 20);
    longer.seqlen_k = 21 * piece + 77;
    problem p;
    problem_plain(&p, &longer, FLASHC_F32, 5);
    p.params.kernel = kernel;
    problem_add_causal(&p, longer.seqlen_k - 300);
    p.params.window_left = 11 * piece;
    problem_add_sinks(&p)[1] = 0.5f;
    assert_true(run_problem(&p));
    assert_int_equal(plan_of(&p).piece_n, piece);
    problem streamed = problem_twin(&p);
    test_rng rng = {6};
    for (int round = 0; round < 3; round++) {
        stream_in_chunks(&streamed, round == 0 ? piece : plan_of(&p).block_n, &rng);
        assert_same_bits(&p, &streamed, "one call and chunks of pieces or tiles");
    }
    problem_free_twin(&streamed);
    problem_free(&p);
}

/* NaN and infinity in V, hidden in some rows: they stay where they are seen, and the chunk before is not lost. */
static void special_values(const char *kernel)
{
    const problem_shape shape = shape_for(kernel, (problem_shape){1, 2, 1, 9, 400, 16, 16});
    problem p;
    problem_plain(&p, &shape, FLASHC_F32, 8);
    p.params.kernel = kernel;
    problem_add_mask(&p);
    test_set(&p.params.v, 0, 0, 50, 3, (double)NAN);
    test_set(&p.params.v, 0, 0, 290, 5, (double)INFINITY);
    test_set(&p.params.mask, 0, 0, 0, 50, 0.0);
    test_set(&p.params.mask, 0, 1, 0, 290, 0.0);
    assert_true(run_problem(&p));
    problem streamed = problem_twin(&p);
    test_rng rng = {9};
    const int64_t block_n = plan_of(&p).block_n;
    for (int round = 0; round < 3; round++) {
        stream_in_chunks(&streamed, block_n, &rng);
        for (int64_t h = 0; h < 2; h++)
            for (int64_t n = 0; n < shape.seqlen_q * 16; n++) {
                const double a = test_get(&p.params.o, 0, h, n / 16, n % 16);
                const double b = test_get(&streamed.params.o, 0, h, n / 16, n % 16);
                if (!(a == b || (isnan(a) && isnan(b))))
                    fail_msg("o[0][%d][%d][%d] is %g, in chunks %g", (int)h, (int)(n / 16), (int)(n % 16), a, b);
            }
    }
    problem_free_twin(&streamed);
    problem_free(&p);
}

/* States over parts of the keys, each from its own first position on, merge to the whole. */
static void parts_merge(const char *kernel)
{
    const int64_t piece = kernel_piece(kernel, 24, 20);
    problem_shape shape = shape_for(kernel, (problem_shape){2, 3, 3, 2, 0, 24, 20});
    shape.seqlen_k = 5 * piece + 99;
    problem p;
    problem_plain(&p, &shape, FLASHC_F32, 12);
    p.params.kernel = kernel;
    problem_add_causal(&p, shape.seqlen_k - 40);
    problem_snapshot(&p);
    const int64_t cut[4] = {0, 2 * piece + 17, 3 * piece, shape.seqlen_k};
    test_stream whole = test_stream_begin(&p.params);
    for (int n = 0; n < 3; n++) {
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

/* The worked example of a shared prefix: one K/V for all sequences, read once for all their queries by looking at them
 * as the queries of one sequence, then each one's own. */
static void shared_prefix(const char *kernel)
{
    enum { BATCH = 3, HEADS = 2, PREFIX = 700, OWN = 90, DIM = 16 };
    const problem_shape shape = {BATCH, HEADS, 1, 1, PREFIX + OWN, DIM, DIM};
    problem p;
    problem_plain(&p, &shape, FLASHC_F32, 20);
    p.params.kernel = kernel;
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

/* Each sequence's last query sees its last key, wherever chunks end and however many keys the others have: the bits of
 * one call, also packed. Packed chunks end where sequences do, each at its own row. */
static void bottom_right(const char *kernel)
{
    const problem_shape shape = shape_for(kernel, (problem_shape){3, 2, 1, 2, 700, 24, 20});
    problem p;
    problem_plain(&p, &shape, FLASHC_F32, 31);
    p.params.kernel = kernel;
    p.params.causal = 1;
    p.params.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
    p.params.window_left = 450;
    int64_t *lengths = problem_add_array(&p, ARRAY_SEQLENS_K, 700);
    lengths[1] = 0;
    lengths[2] = 333;
    assert_true(run_problem(&p));
    problem streamed = problem_twin(&p);
    test_rng rng = {32};
    stream_in_chunks(&streamed, plan_of(&p).block_n, &rng);
    assert_same_bits(&p, &streamed, "one call and chunks, aligned at the bottom right");
    test_stream s = test_stream_begin(&p.params);
    const int64_t block_n = plan_of(&p).block_n;
    for (int64_t first = 0; first < 700; first += 2 * block_n) {
        const int64_t n = 2 * block_n < 700 - first ? 2 * block_n : 700 - first;
        expect_ok(test_stream_form(&s, &p.params, first, n, &(form_kind){.packed_k = true}, &rng));
    }
    problem_snapshot(&streamed);
    expect_ok(flashc_attention_finish(&s.state, &streamed.params));
    assert_same_bits(&p, &streamed, "one call and packed chunks, aligned at the bottom right");
    test_stream_free(&s);
    problem_free_twin(&streamed);
    problem_free(&p);
}

/* Chunks of several pieces' rows of which few are keys: those at the beginning, or at the end. */
static void few_keys_in_long_chunks(const char *kernel)
{
    const int64_t keys = 6 * kernel_piece(kernel, 24, 20);
    const problem_shape shape = shape_for(kernel, (problem_shape){1, 2, 1, 2, keys, 24, 20});
    for (int round = 0; round < 4; round++) {
        problem p;
        problem_plain(&p, &shape, FLASHC_F32, 35);
        p.params.kernel = kernel;
        test_stream s = test_stream_begin(&p.params); /* which knows nothing of lengths */
        assert_int_equal(s.state.piece_n, keys / 6);
        if (round % 2 == 0)
            problem_add_array(&p, ARRAY_SEQLENS_K, 10);
        else
            problem_add_array(&p, ARRAY_LEFTPAD_K, keys - 7);
        problem_snapshot(&p);
        const int64_t first = round < 2 ? keys : keys / 2 + 1;
        test_stream_chunk(&s, &p.params, 0, first);
        if (first < keys)
            test_stream_chunk(&s, &p.params, first, keys - first);
        expect_ok(flashc_attention_finish(&s.state, &p.params));
        check_exact(&p);
        test_stream_free(&s);
        problem_free(&p);
    }
}

/* Padding of whole tiles on the left, in chunks of whole tiles: the bits of one call where it does not cut the keys.
 * Anything else is in the random problems, within the bound. */
static void left_padding(const char *kernel)
{
    problem p;
    problem_shape shape = shape_for(kernel, (problem_shape){3, 2, 2, 300, 0, 16, 16});
    problem_plain(&p, &shape, FLASHC_F32, 33);
    p.params.kernel = kernel;
    const int64_t block_n = plan_of(&p).block_n;
    problem_free(&p);
    shape.seqlen_k = 3 * block_n + 5;
    problem_plain(&p, &shape, FLASHC_F32, 33);
    p.params.kernel = kernel;
    p.params.window_left = 2 * block_n;
    p.params.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
    int64_t *padding = problem_add_array(&p, ARRAY_LEFTPAD_K, 0);
    padding[1] = 2 * block_n;
    padding[2] = shape.seqlen_k;
    for (int64_t b = 1; b < 3; b++)
        for (int64_t j = 0; j < padding[b]; j++) {
            test_set(&p.params.k, b, 1, j, 3, (double)NAN);
            test_set(&p.params.v, b, 0, j, 7, j % 2 == 0 ? (double)NAN : (double)INFINITY);
        }
    assert_true(run_problem(&p));
    problem streamed = problem_twin(&p);
    test_rng rng = {34};
    const int64_t unit = plan_of(&p).piece_n > 0 ? 1 : block_n;
    for (int round = 0; round < 3; round++) {
        stream_in_chunks(&streamed, unit, &rng);
        if (unit > 1)
            assert_same_bits(&p, &streamed, "one call and chunks, padded on the left");
        oracle exact;
        oracle_attention(&p.params, &exact);
        check_against(&streamed, &exact, true);
        oracle_free(&exact);
    }
    problem_free_twin(&streamed);
    problem_free(&p);
}

static int cancel(void *user_data, int64_t done, int64_t total)
{
    (void)user_data, (void)done, (void)total;
    return 1;
}

static void errors(void **unused)
{
    (void)unused;
    problem p;
    const problem_shape shape = {1, 2, 1, 3, 5000, 8, 8};
    problem_plain(&p, &shape, FLASHC_F32, 1);
    flashc_attention_params chunk = p.params;
    flashc_attention_state bad, none;
    expect_argument_error(flashc_attention_state_init(NULL, sizeof bad, &p.params),
                          "state: expected a pointer, found NULL");
    expect_argument_error(flashc_attention_state_init(&bad, 8, &p.params), "struct_size: expected 120, found 8");
    expect_ok(flashc_attention_state_init(&none, sizeof none, &p.params));
    expect_argument_error(flashc_attention_accumulate(&none, &chunk), "state->row_max: expected a pointer, found NULL");

    test_stream s = test_stream_begin(&p.params);
    assert_int_equal(s.state.rows, 6);
    assert_int_equal(s.state.piece_n, plan_of(&p).piece_n);
    assert_int_equal(s.state.levels, 4); /* of 8 to 15 pieces */
    chunk.seqlen_q = 2;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk),
                          "state->rows: expected the 1 * 2 * 2 queries of the call, found 6");
    chunk.seqlen_q = 3;
    chunk.head_dim_v = 7;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk),
                          "state->head_dim_v: expected that of the call, 7, found 8");
    chunk.head_dim_v = 8;
    s.state.row_stride[1] = 4;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk),
                          "state->row_stride: expected rows 0 to 5, found strides 6, 4, 1");
    s.state.row_stride[1] = 2;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk),
                          "state->rows.stride[1]: the output overlaps itself: found a stride of 2, expected more than the "
                          "2 elements that faster axes span");
    s.state.row_stride[1] = 3;
    s.state.next_key = 15 * s.state.piece_n - 9;
    chunk.seqlen_k = 10;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk),
                          "seqlen_k: expected at most 9 more keys, for which the state has 4 levels, found 10");
    flashc_attention_params few = p.params; /* keys of all these rows, in pieces of their number */
    few.seqlen_k = INT64_C(1) << 40;
    few.seqlens_k = (int64_t[]){5000};
    expect_ok(flashc_attention_state_init(&none, sizeof none, &few));
    assert_true(none.piece_n == s.state.piece_n && none.levels >= 4 && none.seqlen_k == few.seqlen_k);
    s.state.n_nodes = 5;
    expect_argument_error(flashc_attention_finish(&s.state, &p.params), "state->n_nodes: expected 0 to 4, found 5");
    s.state.n_nodes = 0;
    s.state.next_key = 0;
    expect_argument_error(flashc_attention_state_merge(&s.state, &s.state),
                          "from: expected another state than into, found the same");
    chunk.progress = cancel;
    assert_int_equal(flashc_attention_accumulate(&s.state, &chunk), FLASHC_ERR_CANCELLED);
    assert_int_equal(flashc_attention_accumulate(&s.state, &chunk), FLASHC_ERR_ARGUMENT);
    expect_ok(flashc_attention_state_clear(&s.state));
    expect_ok(flashc_attention_finish(&s.state, &p.params)); /* rows that see no key */
    assert_true(test_get(&p.params.o, 0, 1, 2, 7) == 0.0 && test_get(&p.params.lse, 0, 1, 2, 0) == -(double)INFINITY);
    test_stream_free(&s);
    problem_free(&p);
}

/* What rows in all there are is checked before any work. */
static void errors_of_positions(void **unused)
{
    (void)unused;
    problem p;
    const problem_shape shape = {2, 1, 1, 3, 100, 8, 8};
    problem_plain(&p, &shape, FLASHC_F32, 1);
    p.params.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
    test_stream s = test_stream_begin(&p.params);
    flashc_attention_params chunk = p.params;
    const int64_t some[2] = {60, 100}, beyond[2] = {60, 101}, padding[2] = {60, 61}, negative[2] = {0, -1};
    assert_int_equal(s.state.seqlen_k, 100);
    s.state.next_key = 1;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk),
                          "state->seqlen_k: expected all keys of batch element 0, from which FLASHC_ALIGN_BOTTOM_RIGHT "
                          "counts, found 100, and keys up to 101 in the chunk");
    s.state.next_key = 0;
    chunk.seqlens_k = some;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk),
                          "state->seqlens_k: expected the keys that each sequence will have in all, from which "
                          "FLASHC_ALIGN_BOTTOM_RIGHT counts, beside seqlens_k of a chunk, found NULL");
    s.state.seqlens_k = beyond;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk),
                          "state->seqlens_k[1]: expected 0 to state->seqlen_k = 100, found 101");
    s.state.seqlens_k = some;
    chunk.seqlens_k = beyond;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk), "seqlens_k[1]: expected 0 to 100, found 101");
    chunk.seqlens_k = NULL;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk),
                          "state->seqlens_k: expected all keys of batch element 0, from which FLASHC_ALIGN_BOTTOM_RIGHT "
                          "counts, found 60, and keys up to 100 in the chunk");
    s.state.seqlens_k = (int64_t[]){60, 60};
    chunk.alignment = FLASHC_ALIGN_TOP_LEFT;
    chunk.leftpad_k = padding;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk), "leftpad_k[1]: expected 0 to 60, found 61");
    chunk.leftpad_k = negative;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk), "leftpad_k[1]: expected 0 to 60, found -1");
    s.state.seqlen_k = -1;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk),
                          "state->seqlen_k: expected 0 to 281474976710656, found -1");
    assert_int_equal(s.state.n_nodes, 0);
    test_stream_free(&s);
    problem_free(&p);
}

int main(void)
{
    static kernel_check random = {random_problems}, decode = {decode_over_pieces}, special = {special_values},
                        merge = {parts_merge}, prefix = {shared_prefix}, aligned = {bottom_right},
                        padded = {left_padding}, few = {few_keys_in_long_chunks};
    const struct CMUnitTest tests[] = {
        {"random_problems_in_chunks", test_on_kernels, NULL, NULL, &random},
        {"decode_over_pieces", test_on_kernels, NULL, NULL, &decode},
        {"nan_and_infinity_in_v", test_on_kernels, NULL, NULL, &special},
        {"states_of_parts_merge", test_on_kernels, NULL, NULL, &merge},
        {"shared_prefix", test_on_kernels, NULL, NULL, &prefix},
        {"aligned_at_the_bottom_right", test_on_kernels, NULL, NULL, &aligned},
        {"padded_on_the_left", test_on_kernels, NULL, NULL, &padded},
        {"few_keys_in_long_chunks", test_on_kernels, NULL, NULL, &few},
        cmocka_unit_test(errors_of_positions),
        cmocka_unit_test(errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
