/* Keys chunk by chunk where positions and lengths differ from sequence to sequence: aligned at the bottom right, padded
 * on the left, chunks of which few rows are keys. */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/kernels.h"
#include "support/stream.h"

#include <math.h>

/* Each sequence's last query sees its last key, wherever chunks end and however many keys the others have: the bits of
 * one call, also packed. Packed chunks end where sequences do, each at its own row. */
static void bottom_right(const char *kernel)
{
    problem p = problem_on(kernel, (problem_shape){3, 2, 1, 2, 700, 24, 20}, FLASHC_F32, 31);
    p.params.causal = 1;
    p.params.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
    p.params.window_left = 450;
    int64_t *lengths = problem_add_array(&p, ARRAY_SEQLENS_K, 700);
    lengths[1] = 0;
    lengths[2] = 333;
    run_problem(&p);
    problem streamed = problem_twin(&p);
    test_rng rng = {32};
    test_stream_all(&streamed, plan_of(&p).block_n, &rng);
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

/* Padding of whole tiles on the left, in chunks of whole tiles: the bits of one call where it does not cut the keys.
 * Anything else is in the random problems, within the bound. */
static void left_padding(const char *kernel)
{
    problem_shape shape = {3, 2, 2, 300, 0, 16, 16};
    problem p = problem_on(kernel, shape, FLASHC_F32, 33);
    const int64_t block_n = plan_of(&p).block_n;
    problem_free(&p);
    shape.seqlen_k = 3 * block_n + 5;
    p = problem_on(kernel, shape, FLASHC_F32, 33);
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
    run_problem(&p);
    problem streamed = problem_twin(&p);
    test_rng rng = {34};
    const int64_t unit = plan_of(&p).piece_n > 0 ? 1 : block_n;
    for (int round = 0; round < 3; round++) {
        test_stream_all(&streamed, unit, &rng);
        if (unit > 1)
            assert_same_bits(&p, &streamed, "one call and chunks, padded on the left");
        check_exact(&streamed);
    }
    problem_free_twin(&streamed);
    problem_free(&p);
}

/* Chunks of several pieces' rows of which few are keys: those at the beginning, or at the end. */
static void few_keys_in_long_chunks(const char *kernel)
{
    const int64_t keys = 6 * kernel_piece(kernel, 24, 20);
    for (int round = 0; round < 4; round++) {
        problem p = problem_on(kernel, (problem_shape){1, 2, 1, 2, keys, 24, 20}, FLASHC_F32, 35);
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

int main(void)
{
    static kernel_check aligned = {bottom_right}, padded = {left_padding}, few = {few_keys_in_long_chunks};
    const struct CMUnitTest tests[] = {
        {"aligned_at_the_bottom_right", test_on_kernels, NULL, NULL, &aligned},
        {"padded_on_the_left", test_on_kernels, NULL, NULL, &padded},
        {"few_keys_in_long_chunks", test_on_kernels, NULL, NULL, &few},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
