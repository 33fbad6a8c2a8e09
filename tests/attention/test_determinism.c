/* The same bits for any number of threads, any batch and any neighbours in it, any workspace, every
 * time; on every kernel. */
#include "support/cmocka.h"
#include "support/kernels.h"

#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

/* Many items for 8 threads, and few with long keys, which are split: from three pieces to a dozen, decode and
 * several row blocks. */
static const problem_shape shapes[] = {{3, 4, 2, 150, 333, 40, 40}, {2, 2, 1, 1, 2500, 32, 24},
                                       {1, 1, 1, 9, 3000, 64, 64},  {2, 8, 8, 260, 270, 16, 16},
                                       {3, 8, 2, 1, 4100, 16, 32},  {2, 1, 1, 110, 1900, 16, 16}};
enum { SHAPES = sizeof shapes / sizeof shapes[0], SPLIT_SHAPES = 4 };

static void make(problem *p, const char *kernel, int shape, flashc_dtype dtype)
{
    *p = problem_on(kernel, shapes[shape], dtype, 21 + (uint64_t)shape);
    p->params.causal = shape % 2 == 0;
    p->params.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
    if (shape < 3)
        return;
    /* The other half with everything between Q K^T and softmax, and a window that begins inside a piece. */
    float *slopes = problem_add_alibi(p, false), *sinks = problem_add_sinks(p);
    for (int64_t h = 0; h < p->params.num_heads; h++)
        slopes[h] = 0.01f * (float)(h + 1), sinks[h] = (float)h;
    problem_add_score_mod(p, test_score_mod_documents, 170);
    p->params.softcap = 3.0f;
    p->params.window_left = p->params.seqlen_k / 2 + 5;
}

static const int thread_numbers[] = {1, 2, 3, 8};
enum { THREAD_NUMBERS = sizeof thread_numbers / sizeof thread_numbers[0] };

static void thread_counts(const char *kernel)
{
    int split = 0;
    for (int shape = 0; shape < SHAPES; shape++) {
        static problem one, other; /* too large for the stack */
        make(&one, kernel, shape, FLASHC_F32);
        make(&other, kernel, shape, FLASHC_F32);
        one.params.num_threads = 1;
        run_problem(&one);
        for (int n = 0; n < THREAD_NUMBERS; n++) {
            problem_snapshot(&other);
            other.params.num_threads = thread_numbers[n];
            run_problem(&other);
            assert_same_bits(&one, &other, "another number of threads");
        }
        /* The pieces are the same, the work items are not (without OpenMP there is one thread). */
        if (plan_of(&one).piece_n > 0 && plan_of(&other).num_items > plan_of(&one).num_items)
            split++;
        assert_int_equal(plan_of(&one).piece_n, plan_of(&other).piece_n);
        problem_free(&one);
        problem_free(&other);
    }
    flashc_system_info system = {.struct_size = sizeof system};
    assert_int_equal(flashc_system_get(&system), FLASHC_OK);
    if (system.openmp)
        assert_int_equal(split, SPLIT_SHAPES);
    else
        print_message("not run: %s: keys split among threads (this build has no OpenMP)\n", kernel);
}

/* Whether keys are cut depends on row blocks and K/V heads: also where that is close, and the row blocks of a K/V head
 * are as few as threads, the number of these has no part in it. (2 row blocks at 32 K/V heads, 8 at 8 of them are
 * enough to leave the keys whole; row blocks have 48 to 128 rows here.) */
static void close_to_the_cut(const char *kernel)
{
    static const struct {
        problem_shape shape;
        bool cut;
    } cases[] = {{{1, 32, 32, 257, 730, 4, 4}, false}, {{1, 8, 8, 129, 730, 4, 4}, true}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        static problem one, other; /* too large for the stack */
        one = problem_on(kernel, cases[c].shape, FLASHC_F32, 31);
        one.params.num_threads = 1;
        run_problem(&one);
        other = problem_twin(&one);
        const flashc_explanation plan = plan_of(&one);
        const bool few_rows = one.params.seqlen_q < cases[c].shape.seqlen_q; /* a decode kernel: one row block */
        assert_true((plan.piece_n > 0) == (cases[c].cut || few_rows));
        const int64_t blocks = (one.params.seqlen_q + plan.block_m - 1) / plan.block_m;
        assert_true(few_rows || (blocks >= 2 && blocks < thread_numbers[THREAD_NUMBERS - 1]));
        for (int n = 0; n < THREAD_NUMBERS; n++) {
            problem_snapshot(&other);
            other.params.num_threads = thread_numbers[n];
            run_problem(&other);
            assert_same_bits(&one, &other, "another number of threads, close to the cut");
        }
        problem_free_twin(&other);
        problem_free(&one);
    }
}

/* Batch element b alone has the bits that it has inside the batch. */
static void batches(const char *kernel)
{
    for (int shape = 0; shape < SHAPES; shape++) {
        for (flashc_dtype dtype = FLASHC_F32; dtype <= FLASHC_BF16; dtype++) {
            static problem all, single; /* too large for the stack */
            make(&all, kernel, shape, dtype);
            all.params.num_threads = 3;
            run_problem(&all);
            for (int64_t b = 0; b < shapes[shape].batch; b++) {
                single = problem_twin(&all);
                single.params.batch = 1;
                single.params.num_threads = 8;
                single.params.q.data = test_at(&all.params.q, b, 0, 0, 0);
                single.params.k.data = test_at(&all.params.k, b, 0, 0, 0);
                single.params.v.data = test_at(&all.params.v, b, 0, 0, 0);
                run_problem(&single);
                flashc_tensor whole_o = all.params.o, whole_lse = all.params.lse;
                all.params.o.data = test_at(&whole_o, b, 0, 0, 0);
                all.params.lse.data = test_at(&whole_lse, b, 0, 0, 0);
                assert_same_bits(&single, &all, "a batch element alone");
                all.params.o = whole_o;
                all.params.lse = whole_lse;
                problem_free_twin(&single);
            }
            problem_free(&all);
        }
    }
}

/* The tensor, from this row of its batch element b on, as batch element 0 of a call of its own. */
static flashc_tensor from_row(const flashc_tensor *view, int64_t b, int64_t row)
{
    flashc_tensor part = *view;
    part.data = test_at(view, b, 0, row, 0);
    return part;
}

/* A batch element has the bits padded, on both sides and beside longer ones, that it has alone in a call of its
 * own size. */
static void padding(const char *kernel)
{
    for (int shape = 0; shape < SHAPES; shape++) {
        for (int windowed = 0; windowed < 2; windowed++) {
            static problem all, single; /* too large for the stack */
            make(&all, kernel, shape, FLASHC_F32);
            const int64_t queries = all.params.seqlen_q, keys = all.params.seqlen_k, batch = all.params.batch;
            int64_t *seqlens_q = problem_add_array(&all, ARRAY_SEQLENS_Q, queries);
            int64_t *seqlens_k = problem_add_array(&all, ARRAY_SEQLENS_K, keys);
            int64_t *leftpad_k = problem_add_array(&all, ARRAY_LEFTPAD_K, 0);
            seqlens_q[batch - 1] = (queries + 1) / 2;
            seqlens_k[batch - 1] = keys - keys / 3;
            leftpad_k[batch - 1] = 7;
            all.params.num_threads = 3;
            if (windowed)
                all.params.window_left = keys / 3;
            run_problem(&all);
            for (int64_t b = 0; b < batch; b++) {
                single = problem_twin(&all);
                flashc_attention_params *s = &single.params;
                s->batch = 1;
                s->seqlen_q = seqlens_q[b];
                s->seqlen_k = seqlens_k[b] - leftpad_k[b];
                s->seqlens_q = s->seqlens_k = s->leftpad_k = NULL;
                s->q = from_row(&all.params.q, b, 0);
                s->k = from_row(&all.params.k, b, leftpad_k[b]);
                s->v = from_row(&all.params.v, b, leftpad_k[b]);
                run_problem(&single);
                const flashc_tensor whole_o = all.params.o, whole_lse = all.params.lse;
                all.params.o = from_row(&whole_o, b, 0);
                all.params.lse = from_row(&whole_lse, b, 0);
                assert_same_bits(&single, &all, "a padded batch element alone");
                all.params.o = whole_o;
                all.params.lse = whole_lse;
                problem_free_twin(&single);
            }
            problem_free(&all);
        }
    }
}

/* Again, and again with a workspace of the caller's that holds garbage. */
static void repetitions(const char *kernel)
{
    for (int shape = 0; shape < SHAPES; shape++) {
        problem first, again;
        make(&first, kernel, shape, FLASHC_BF16);
        make(&again, kernel, shape, FLASHC_BF16);
        size_t size = 0;
        run_problem(&first);
        for (int n = 0; n < 3; n++) {
            problem_snapshot(&again);
            run_problem(&again);
            assert_same_bits(&first, &again, "the same call again");
        }
        again.params.num_threads = 3;
        assert_int_equal(flashc_attention_workspace_size(&again.params, &size), FLASHC_OK);
        size = (size + 63) / 64 * 64; /* ends at a guard page, and starts aligned */
        for (int garbage = 0; garbage < 0x100; garbage += 0x7f) {
            guarded_buffer workspace = guarded_alloc(size, false);
            memset(workspace.bytes, garbage, size);
            problem_snapshot(&again);
            again.params.workspace = workspace.bytes;
            again.params.workspace_size = size;
            run_problem(&again);
            assert_same_bits(&first, &again, "with the caller's workspace");
            guarded_free(&workspace);
        }
        problem_free(&first);
        problem_free(&again);
    }
}

/* The largest team that the callback, which runs inside it, has seen. */
static int see_team(void *user_data, int64_t done, int64_t total)
{
    (void)done;
    (void)total;
    int *team = user_data;
#ifdef _OPENMP
    if (omp_get_num_threads() > *team)
        *team = omp_get_num_threads();
#else
    *team = 1;
#endif
    return 0;
}

/* num_threads is obeyed: the team has that size, seen from inside. */
static void test_team_has_the_size_asked_for(void **state)
{
    (void)state;
#ifndef _OPENMP
    print_message("not run: the size of the team (this build has no OpenMP: it is always 1)\n");
#endif
    flashc_system_info system = {.struct_size = sizeof system};
    assert_int_equal(flashc_system_get(&system), FLASHC_OK);
    problem p;
    /* About 0.1 s, so that the calling thread gets a share even when CPUs are few and busy. */
    problem_plain(&p, &(problem_shape){1, 8, 8, 1500, 1500, 64, 64}, FLASHC_F32, 1);
    for (int n = 0; n < THREAD_NUMBERS; n++) {
        int team = 0, expected = system.openmp ? thread_numbers[n] : 1;
        p.params.num_threads = thread_numbers[n];
        p.params.progress = see_team;
        p.params.progress_user_data = &team;
        /* Where other threads did all the work, it is called once, after the team has ended. */
        for (int attempt = 0; attempt < 20 && team < expected; attempt++)
            run_problem(&p);
        assert_int_equal(plan_of(&p).num_threads, expected);
        assert_int_equal(team, expected);
    }
    /* Never more threads than items. */
    p.params.seqlen_q = p.params.seqlen_k = 1;
    p.params.num_heads = p.params.num_heads_k = 1;
    p.params.num_threads = 1000;
    int team = 0;
    p.params.progress_user_data = &team;
    run_problem(&p);
    assert_int_equal(plan_of(&p).num_threads, 1);
    assert_int_equal(team, 1);
    problem_free(&p);
}

int main(void)
{
    static kernel_check checks[] = {{thread_counts}, {batches}, {repetitions}, {padding}, {close_to_the_cut}};
    const struct CMUnitTest tests[] = {
        {"same_bits_for_any_number_of_threads", test_on_kernels, NULL, NULL, &checks[0]},
        {"same_bits_alone_and_in_a_batch", test_on_kernels, NULL, NULL, &checks[1]},
        {"same_bits_again_and_in_any_workspace", test_on_kernels, NULL, NULL, &checks[2]},
        {"same_bits_padded_and_alone", test_on_kernels, NULL, NULL, &checks[3]},
        {"same_bits_close_to_the_cut_of_keys", test_on_kernels, NULL, NULL, &checks[4]},
        cmocka_unit_test(test_team_has_the_size_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
