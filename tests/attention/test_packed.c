/* A random problem, its sequences packed or in pages: the bits of every row as in the padded batch, on every kernel
 * and with whatever else the problem has (masks, positions, lengths, NaN and infinity in V). The padded problems are
 * held to the oracle in test_random.c. */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/form.h"
#include "support/kernels.h"

#include <math.h>

enum { COUNT = 60 };

/* More of the problems have sequences of different lengths, and V that is not finite, than problem_random() draws. */
static void make_ragged(problem *p, test_rng *rng)
{
    flashc_attention_params *s = &p->params;
    if (s->seqlens_q == NULL && test_rng_chance(rng, 60)) {
        int64_t *lengths = problem_add_array(p, ARRAY_SEQLENS_Q, s->seqlen_q);
        for (int64_t b = 0; b < s->batch; b++)
            lengths[b] = test_rng_int(rng, 0, s->seqlen_q);
    }
    if (s->seqlens_k == NULL && test_rng_chance(rng, 60)) {
        int64_t *lengths = problem_add_array(p, ARRAY_SEQLENS_K, s->seqlen_k);
        for (int64_t b = 0; b < s->batch; b++)
            lengths[b] = test_rng_int(rng, s->leftpad_k != NULL ? s->leftpad_k[b] : 0, s->seqlen_k);
    }
    if (test_rng_chance(rng, 20) && s->batch > 0 && s->seqlen_k > 0 && s->head_dim_v > 0)
        for (int n = 0; n < 3; n++)
            test_set(&s->v, test_rng_int(rng, 0, s->batch - 1), test_rng_int(rng, 0, s->num_heads_k - 1),
                     test_rng_int(rng, 0, s->seqlen_k - 1), test_rng_int(rng, 0, s->head_dim_v - 1),
                     n == 0 ? (double)NAN : (double)INFINITY);
}

static form_kind random_kind(test_rng *rng)
{
    static const int64_t page_sizes[] = {1, 3, 16, 16, 48, 96, 128, 256};
    form_kind kind = {.packed_q = test_rng_chance(rng, 60)};
    const int64_t keys = test_rng_int(rng, kind.packed_q ? 0 : 1, 3); /* 0 padded, 1 packed, else pages */
    kind.packed_k = keys == 1;
    kind.page_size = keys > 1 ? page_sizes[test_rng_next(rng) % 8] : 0;
    kind.page_size_v = keys > 1 && test_rng_chance(rng, 30) ? page_sizes[test_rng_next(rng) % 8] : 0;
    kind.q = kind.k = kind.v = kind.o = test_rng_chance(rng, 60) ? LAYOUT_BSHD : LAYOUT_BHSD;
    return kind;
}

static void packed_and_paged(const char *kernel)
{
    int64_t paged = 0, packed = 0;
    for (uint64_t seed = 1; seed <= COUNT; seed++) {
        problem p;
        test_rng rng = {seed + 5000};
        char message[256];
        problem_random(&p, seed, kernel);
        make_ragged(&p, &rng);
        run_problem(&p);
        const form_kind kind = random_kind(&rng);
        problem twin = problem_twin(&p);
        test_form f;
        form_make(&f, &p.params, &kind, &rng);
        paged += kind.page_size > 0;
        packed += kind.packed_q || kind.packed_k;
        if (flashc_attention_fwd(&f.params) != FLASHC_OK) {
            problem_print(stderr, &p);
            fail_msg("%s", flashc_last_error());
        }
        if (!form_collect(&f, &twin.params, message, sizeof message)) {
            problem_print(stderr, &p);
            fail_msg("%s", message);
        }
        assert_same_bits(&p, &twin, kind.page_size > 0 ? "padded and paged" : "padded and packed");
        form_free(&f);
        problem_free_twin(&twin);
        problem_free(&p);
    }
    if (paged == 0 || packed == 0)
        fail_msg("%s: %lld packed and %lld paged problems", kernel, (long long)packed, (long long)paged);
}

/* The keys of the longest sequence are cut, whichever it is: those of the first say nothing of the others'. What is not
 * finite in V is where the sequence has it. */
static void longest_is_not_the_first(const char *kernel)
{
    static const form_kind kinds[] = {{.packed_k = true}, {.packed_q = true, .packed_k = true}};
    const int64_t keys = 5 * kernel_piece(kernel, 16, 16) + 9;
    problem p = problem_on(kernel, (problem_shape){3, 2, 1, 2, keys, 16, 16}, FLASHC_F32, 71);
    int64_t *lengths = problem_add_array(&p, ARRAY_SEQLENS_K, keys);
    lengths[0] = 5;
    lengths[2] = 700;
    test_set(&p.params.v, 1, 0, keys - 1, 3, (double)INFINITY);
    test_set(&p.params.v, 2, 0, 699, 5, (double)NAN);
    p.params.num_threads = 3;
    for (int n = 0; n < 2; n++) {
        test_form f;
        test_rng rng = {72};
        char message[256];
        form_make(&f, &p.params, &kinds[n], &rng);
        problem_snapshot(&p);
        expect_ok(flashc_attention_fwd(&f.params));
        if (!form_collect(&f, &p.params, message, sizeof message))
            fail_msg("%s", message);
        check_exact(&p);
        flashc_explanation plan = {.struct_size = sizeof plan};
        expect_ok(flashc_explain(&f.params, &plan));
        assert_true(plan.flops == plan_of(&p).flops && plan.piece_n == plan_of(&p).piece_n);
        form_free(&f);
    }
    problem_free(&p);
}

/* A table's entries are read to the last one that has keys, also by what only foresees: pages in order, as if they were
 * one array, and a guard page after the table. */
static void tables_end(const char *kernel)
{
    enum { PAGE = 4, DIM = 64 };
    static const int64_t keys[] = {24, 132, 260, 1104};
    for (int n = 0; n < 4; n++) {
        problem p = problem_on(kernel, (problem_shape){2, 1, 1, 100, keys[n], DIM, DIM}, FLASHC_F32, 73);
        const int64_t pages = keys[n] / PAGE;
        guarded_buffer table = guarded_alloc((size_t)(2 * pages) * sizeof(int32_t), false);
        for (int64_t i = 0; i < 2 * pages; i++)
            ((int32_t *)(void *)table.bytes)[i] = (int32_t)i;
        run_problem(&p);
        problem paged = problem_twin(&p);
        paged.params.num_threads = 1;
        paged.params.k.stride[0] = paged.params.v.stride[0] = PAGE * DIM;
        paged.params.block_table = (flashc_block_table){(int32_t *)(void *)table.bytes, {pages, 1}, pages, 2 * pages,
                                                        PAGE};
        run_problem(&paged);
        assert_same_bits(&p, &paged, "one array and its pages");
        problem_free_twin(&paged);
        guarded_free(&table);
        problem_free(&p);
    }
}

int main(void)
{
    static kernel_check random = {packed_and_paged}, longest = {longest_is_not_the_first},
                        table = {tables_end};
    const struct CMUnitTest tests[] = {
        {"same_bits_padded_packed_and_paged", test_on_kernels, NULL, NULL, &random},
        {"the_longest_sequence_is_not_the_first", test_on_kernels, NULL, NULL, &longest},
        {"tables_are_read_to_their_end", test_on_kernels, NULL, NULL, &table},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
