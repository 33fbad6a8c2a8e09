/* A workspace that is sized once: for the most keys, then used from one key on. */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/kernels.h"
#include "support/stream.h"

#include <stdlib.h>

/* Heads, groups, queries, dims: few and many row blocks, items of one and of several of them. */
static const problem_shape shapes[] = {{1, 8, 8, 1, 0, 128, 128},  {1, 1, 1, 1, 0, 64, 64},    {2, 8, 2, 3, 0, 64, 48},
                                       {1, 1, 1, 600, 0, 256, 16}, {3, 4, 4, 100, 0, 32, 32},  {1, 4, 1, 10, 0, 16, 16},
                                       {1, 2, 2, 2000, 0, 64, 64}, {16, 12, 12, 48, 0, 32, 8}};
enum { SHAPES = sizeof shapes / sizeof shapes[0], VARIANTS = 4 };

/* No data is read: addresses where nothing is. */
static flashc_attention_params far_call(const char *kernel, problem_shape s, int variant, int threads, int64_t keys)
{
    flashc_attention_params p;
    flashc_attention_params_init(&p, sizeof p);
    s = shape_for(kernel, s);
    p.kernel = kernel;
    p.num_threads = threads;
    p.batch = s.batch, p.num_heads = s.num_heads, p.num_heads_k = s.num_heads_k;
    p.seqlen_q = s.seqlen_q, p.seqlen_k = keys, p.head_dim = s.head_dim, p.head_dim_v = s.head_dim_v;
    p.causal = variant == 1 || variant == 2;
    p.alignment = variant == 2 ? FLASHC_ALIGN_TOP_LEFT : FLASHC_ALIGN_BOTTOM_RIGHT;
    p.window_left = variant >= 2 ? 700 : -1;
    p.window_right = variant == 3 ? 3 : -1;
    p.q = flashc_tensor_bhsd((void *)((uintptr_t)1 << 40), FLASHC_F32, s.num_heads, s.seqlen_q, s.head_dim);
    p.k = flashc_tensor_bhsd((void *)((uintptr_t)2 << 40), FLASHC_F32, s.num_heads_k, keys, s.head_dim);
    p.v = flashc_tensor_bhsd((void *)((uintptr_t)3 << 40), FLASHC_F32, s.num_heads_k, keys, s.head_dim_v);
    p.o = flashc_tensor_bhsd((void *)((uintptr_t)4 << 40), FLASHC_F32, s.num_heads, s.seqlen_q, s.head_dim_v);
    return p;
}

/* From one key to two million, and no more beyond the pieces that all threads can have. */
static void never_falls(const char *kernel)
{
    static const int thread_numbers[] = {0, 1, 3, 64, 1000};
    for (int n = 0; n < SHAPES * VARIANTS; n++)
        for (size_t t = 0; t < sizeof thread_numbers / sizeof thread_numbers[0]; t++) {
            size_t before = 0;
            for (int64_t keys = 1; keys < 2000000; keys += 1 + keys / 8) {
                const flashc_attention_params p =
                    far_call(kernel, shapes[n / VARIANTS], n % VARIANTS, thread_numbers[t], keys);
                flashc_explanation plan = {.struct_size = sizeof plan};
                size_t size = 0;
                expect_ok(flashc_attention_workspace_size(&p, &size));
                expect_ok(flashc_explain(&p, &plan));
                assert_int_equal(plan.workspace_size, size);
                if (size < before)
                    fail_msg("%s, shape %d, variant %d, %d threads: %zu bytes at %lld keys, %zu at fewer", kernel,
                             n / VARIANTS, n % VARIANTS, thread_numbers[t], size, (long long)keys, before);
                before = size;
            }
        }
}

/* The call in a workspace of this size and not a byte more. */
static void run_in(problem *p, size_t size)
{
    const size_t room = (size + 63) / 64 * 64;
    guarded_buffer workspace = guarded_alloc(room, false);
    p->params.workspace = workspace.bytes;
    p->params.workspace_size = size;
    run_problem(p);
    p->params.workspace = NULL;
    guarded_free(&workspace);
}

/* A cache of room for so many keys, whose lengths grow, by seqlen_k or by seqlens_k, whole or seen through a window. */
static void decode_loop(const char *kernel)
{
    enum { KEYS = 3000 };
    static const int64_t queries[] = {1, 130};
    for (int n = 0; n < 16; n++) {
        problem p = problem_on(kernel, (problem_shape){2, 4, 2, queries[n / 8], KEYS, 24, 20}, FLASHC_F32, 71);
        int64_t *lengths = problem_add_array(&p, ARRAY_SEQLENS_K, KEYS);
        p.params.num_threads = n % 2 ? 3 : 0;
        p.params.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
        p.params.window_left = n / 2 % 2 ? 530 : -1;
        p.params.window_right = n / 2 % 2 ? 0 : -1;
        const bool by_array = n / 4 % 2;
        size_t size;
        p.params.seqlens_k = NULL;
        expect_ok(flashc_attention_workspace_size(&p.params, &size));
        for (int64_t keys = 1; keys <= KEYS; keys += keys < 20 ? 1 : 149) {
            lengths[0] = keys, lengths[1] = keys / 2;
            p.params.seqlens_k = by_array ? lengths : NULL;
            p.params.seqlen_k = by_array ? KEYS : keys;
            problem_snapshot(&p);
            run_in(&p, size);
        }
        problem_free(&p);
    }
}

/* A chunk's workspace serves every chunk of no more keys, whatever came before. */
static void chunks(const char *kernel)
{
    const int64_t piece = kernel_piece(kernel, 24, 20);
    for (int threads = 0; threads <= 8; threads += 4) {
        problem p = problem_on(kernel, (problem_shape){1, 2, 2, 1, 7 * piece, 24, 20}, FLASHC_F32, 73);
        p.params.num_threads = threads;
        p.params.causal = 1;
        p.params.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
        test_stream s = test_stream_begin(&p.params);
        flashc_attention_params chunk = p.params;
        size_t size, again;
        chunk.seqlen_k = 2 * piece / 3;
        expect_ok(flashc_attention_accumulate_workspace_size(&s.state, &chunk, &size));
        chunk.workspace = aligned_alloc(64, (size + 63) / 64 * 64);
        chunk.workspace_size = size;
        for (int64_t first = 0, n; first < p.params.seqlen_k; first += n) {
            n = first % 2 == 0 ? piece / 3 : 2 * piece / 3;
            n = n < p.params.seqlen_k - first ? n : p.params.seqlen_k - first;
            chunk.seqlen_k = n;
            chunk.k.data = test_at(&p.params.k, 0, 0, first, 0);
            chunk.v.data = test_at(&p.params.v, 0, 0, first, 0);
            expect_ok(flashc_attention_accumulate_workspace_size(&s.state, &chunk, &again));
            assert_true(again <= size);
            expect_ok(flashc_attention_accumulate(&s.state, &chunk));
        }
        free(chunk.workspace);
        test_stream_free(&s);
        problem_free(&p);
    }
}

int main(void)
{
    static kernel_check checks[] = {{never_falls}, {decode_loop}, {chunks}};
    const struct CMUnitTest tests[] = {
        {"workspace_never_falls_with_keys", test_on_kernels, NULL, NULL, &checks[0]},
        {"decode_loop_in_one_workspace", test_on_kernels, NULL, NULL, &checks[1]},
        {"chunks_in_one_workspace", test_on_kernels, NULL, NULL, &checks[2]},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
