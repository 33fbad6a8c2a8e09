/* What happens to scores on their way to softmax: the lines of flashc.h's semantics on softcap, ALiBi, score_mod, sinks
 * and block masks, each against another way to say the same. On every kernel. */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/kernels.h"
#include "support/oracle.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const problem_shape usual = {2, 4, 2, 70, 300, 20, 24};

static void make(problem *p, const char *kernel)
{
    *p = problem_on(kernel, usual, FLASHC_F32, 7);
}

/* The problem's result is within the bound of what the other problem's exact result is. */
static void assert_means_the_same(problem *p, const problem *other, const char *what)
{
    oracle exact;
    oracle_attention(&other->params, &exact);
    print_message("%s: %s\n", p->params.kernel, what);
    run_and_check(p);
    check_against(p, &exact, false);
    oracle_free(&exact);
}

/* A cap far beyond the scores changes nothing; q . k of infinity is capped to a number like others; hidden keys are
 * hidden after the cap, also by a bias. */
static void softcap(const char *kernel)
{
    problem plain, capped;
    make(&plain, kernel);
    make(&capped, kernel);
    capped.params.softcap = 1e5f;
    assert_means_the_same(&plain, &capped, "a cap of 1e5");
    capped.params.softcap = 0.25f;
    problem_add_bias(&capped, FLASHC_F32);
    problem_add_mask(&capped);
    for (int64_t i = 0; i < capped.params.seqlen_q; i++) {
        test_set(&capped.params.bias, 0, 1, i, 5, -(double)INFINITY);
        test_set(&capped.params.bias, 0, 1, i, 6, -70000.0);
        test_set(&capped.params.mask, 0, 1, i, 7, 0.0);
        test_set(&capped.params.q, 0, 1, i, 3, 1.0);
        test_set(&capped.params.q, 0, 0, i, 3, -1.0);
    }
    run_and_check(&capped);
    for (int64_t j = 5; j < 10; j++)
        test_set(&capped.params.k, 0, 0, j, 3, (double)INFINITY);
    run_problem(&capped);
    for (int64_t i = 0; i < capped.params.seqlen_q; i++)
        assert_true(isfinite(test_get(&capped.params.lse, 0, 0, i, 0)) &&
                    isfinite(test_get(&capped.params.lse, 0, 1, i, 0)));
    problem_free(&plain);
    problem_free(&capped);
}

/* ALiBi is a bias written out, wherever the positions are; slopes of each batch element too. */
static void alibi(const char *kernel)
{
    static const int64_t offsets[] = {0, -5, 230, 1000, (1 << 24) - 3, ((int64_t)1 << 33) + 1, -((int64_t)1 << 40)};
    for (size_t n = 0; n < sizeof offsets / sizeof offsets[0]; n++) {
        problem sloped, biased;
        make(&sloped, kernel);
        make(&biased, kernel);
        problem_add_array(&sloped, ARRAY_OFFSETS, offsets[n]);
        sloped.params.alignment = FLASHC_ALIGN_EXPLICIT;
        problem_add_bias(&biased, FLASHC_F32);
        float *slopes = problem_add_alibi(&sloped, n % 2 == 1);
        for (int64_t h = 0; h < 4 * (n % 2 == 1 ? 2 : 1); h++)
            slopes[h] = ldexpf(h % 4 == 3 ? -1.0f : 1.0f, -(int)h - (offsets[n] > 2000 || offsets[n] < -2000 ? 40 : 1));
        for (int64_t e = 0; e < 2 * 4 * sloped.params.seqlen_q * 300; e++) {
            const int64_t j = e % 300, i = e / 300 % sloped.params.seqlen_q;
            const int64_t h = e / 300 / sloped.params.seqlen_q % 4, b = e / 300 / sloped.params.seqlen_q / 4;
            const double slope = (double)slopes[b * sloped.params.alibi_batch_stride + h];
            test_set(&biased.params.bias, b, h, i, j, -slope * fabs((double)(i + offsets[n] - j)));
        }
        assert_means_the_same(&sloped, &biased, "ALiBi");
        problem_free(&sloped);
        problem_free(&biased);
    }
}

/* A sink is one more key whose V is 0, or one more partial result; a row without keys has it for its LSE; -inf is no
 * sink, to the bit. */
static void sinks(const char *kernel)
{
    static const float values[] = {-INFINITY, -200.0f, 0.5f, 90.0f};
    problem with, without;
    make(&with, kernel);
    make(&without, kernel);
    float *sinks = problem_add_sinks(&with);
    memcpy(sinks, values, sizeof values);
    problem_add_mask(&with);
    problem_add_mask(&without);
    for (int64_t j = 0; j < 300; j++) /* query 0 of batch element 1 sees nothing */
        for (int64_t h = 0; h < 4; h++)
            test_set(&with.params.mask, 1, h, 0, j, 0.0), test_set(&without.params.mask, 1, h, 0, j, 0.0);
    run_and_check(&with);
    run_problem(&without);
    for (int64_t n = 0; n < 2 * 4 * with.params.seqlen_q; n++) {
        const int64_t i = n % with.params.seqlen_q, row = n / with.params.seqlen_q, h = row % 4, b = row / 4;
        float o[24], zeros[24] = {0}, lse, merged[24], merged_lse;
        for (int64_t c = 0; c < 24; c++)
            o[c] = (float)test_get(&without.params.o, b, h, i, c);
        lse = (float)test_get(&without.params.lse, b, h, i, 0);
        expect_ok(flashc_merge_partials(2, 1, 24, (const float *[]){o, zeros},
                                        (const float *[]){&lse, &values[h]}, merged, &merged_lse));
        const double got = test_get(&with.params.lse, b, h, i, 0);
        /* Sums over the keys are the same in both: of the bound 16 u |LSE| are left, and weights move by as much. */
        const double error = 2 * 16 * 0x1p-24 * (isfinite(lse) ? fmax(1.0, fmax(fabs((double)lse), fabs(got))) : 1.0);
        assert_true(got == (double)merged_lse || fabs(got - (double)merged_lse) <= error);
        for (int64_t c = 0; c < 24; c++) {
            assert_true(fabs(test_get(&with.params.o, b, h, i, c) - (double)merged[c]) <= error * fabs((double)o[c]));
            if (h == 0)
                assert_int_equal(test_get_bits(&with.params.o, b, h, i, c),
                                 test_get_bits(&without.params.o, b, h, i, c));
        }
        if (b == 1 && i == 0)
            assert_true(got == (double)values[h] && test_get(&with.params.o, b, h, i, 3) == 0.0);
    }
    problem_free(&with);
    problem_free(&without);
}

/* What flashc.h shows: a table of biases by distance, and a document mask. */
struct bias_table {
    int64_t reach;
    const float *value;
};

static void add_relative_bias(void *user_data, const flashc_score_block *b)
{
    const struct bias_table *t = user_data;
    for (int64_t i = 0; i < b->n_queries; i++)
        for (int64_t j = 0; j < b->n_keys; j++) {
            int64_t d = b->first_key + j - (b->first_position + i);
            d = d < -t->reach ? -t->reach : d > t->reach ? t->reach : d;
            b->scores[i * b->query_stride + j * b->key_stride] += t->value[b->head * (2 * t->reach + 1) + t->reach + d];
        }
}

static void hide_other_documents(void *user_data, const flashc_score_block *b)
{
    const int *document = user_data;
    for (int64_t i = 0; i < b->n_queries; i++)
        for (int64_t j = 0; j < b->n_keys; j++)
            if (document[b->first_query + i] != document[b->first_key + j])
                b->scores[i * b->query_stride + j * b->key_stride] = -INFINITY;
}

static void score_mod_examples(const char *kernel)
{
    enum { REACH = 16, QUERIES = 70, KEYS = 300 };
    float value[4 * (2 * REACH + 1)];
    int document[KEYS];
    for (int n = 0; n < 4 * (2 * REACH + 1); n++)
        value[n] = 3.0f * sinf((float)n);
    for (int n = 0; n < KEYS; n++)
        document[n] = n / 23;
    problem mod, other;
    make(&mod, kernel);
    make(&other, kernel);
    struct bias_table table = {REACH, value};
    mod.params.score_mod = add_relative_bias;
    mod.params.score_mod_user_data = &table;
    problem_add_array(&mod, ARRAY_OFFSETS, 100);
    mod.params.alignment = FLASHC_ALIGN_EXPLICIT;
    problem_add_bias(&other, FLASHC_F32);
    problem_add_mask(&other);
    const int64_t queries = mod.params.seqlen_q;
    for (int64_t n = 0; n < 2 * 4 * queries * KEYS; n++) {
        const int64_t j = n % KEYS, i = n / KEYS % queries, h = n / KEYS / queries % 4, b = n / KEYS / queries / 4;
        const int64_t d = j - i - 100, clipped = d < -REACH ? -REACH : d > REACH ? REACH : d;
        test_set(&other.params.bias, b, h, i, j, (double)value[h * (2 * REACH + 1) + REACH + clipped]);
        test_set(&other.params.mask, b, h, i, j, document[i] == document[j]);
    }
    oracle exact;
    for (int documents = 0; documents < 2; documents++) {
        flashc_tensor *unused = documents ? &other.params.bias : &other.params.mask;
        const flashc_tensor kept = *unused;
        unused->data = NULL;
        if (documents) {
            mod.params.score_mod = hide_other_documents;
            mod.params.score_mod_user_data = document;
        }
        oracle_attention(&other.params, &exact);
        print_message("%s: %s\n", kernel, documents ? "document mask" : "relative bias");
        run_problem(&mod);
        check_against(&mod, &exact, false);
        oracle_free(&exact);
        *unused = kept;
    }
    problem_free(&mod);
    problem_free(&other);
}

/* Counts how often each score is shown, checks the coordinates, and tries to make hidden keys visible. */
typedef struct visits {
    const flashc_attention_params *params;
    atomic_int *count; /* [batch, heads, queries, keys] */
    atomic_int wrong;
} visits;

static void visit(void *user_data, const flashc_score_block *b)
{
    visits *v = user_data;
    const flashc_attention_params *p = v->params;
    const int64_t keys = p->seqlens_k[b->batch] - p->leftpad_k[b->batch];
    const bool inside = b->batch >= 0 && b->batch < p->batch && b->head >= 0 && b->head < p->num_heads &&
                        b->first_query >= 0 && b->n_queries > 0 && b->first_query + b->n_queries <= p->seqlen_q &&
                        b->first_key >= 0 && b->n_keys > 0 && b->first_key + b->n_keys <= keys &&
                        b->first_position == b->first_query + keys - p->seqlen_q;
    if (!inside)
        v->wrong++;
    for (int64_t i = 0; i < b->n_queries && inside; i++) {
        for (int64_t j = 0; j < b->n_keys; j++) {
            const int64_t row = (b->batch * p->num_heads + b->head) * p->seqlen_q + b->first_query + i;
            v->count[row * p->seqlen_k + b->first_key + j]++;
            b->scores[i * b->query_stride + j * b->key_stride] = 0.0f;
        }
    }
}

static void score_mod_coordinates(const char *kernel)
{
    /* Of one group: blocks of many rows begin and end within 5 heads. */
    const int64_t heads = kernel_most_rows(kernel) < 5 ? 4 : 5;
    problem p = problem_on(kernel, (problem_shape){2, heads, 1, 70, 300, 20, 24}, FLASHC_F32, 7);
    problem_add_array(&p, ARRAY_SEQLENS_K, 300)[1] = 280;
    problem_add_array(&p, ARRAY_LEFTPAD_K, 0)[1] = 13;
    problem_add_bias(&p, FLASHC_F32);
    problem_add_mask(&p);
    p.params.causal = 1;
    p.params.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
    p.params.num_threads = 2;
    const int64_t queries = p.params.seqlen_q, rows = 2 * heads * queries;
    for (int64_t n = 0; n < rows; n++) {
        test_set(&p.params.bias, n / queries / heads, n / queries % heads, n % queries, 30, -(double)INFINITY);
        test_set(&p.params.mask, n / queries / heads, n / queries % heads, n % queries, 31, 0.0);
    }
    visits v = {.params = &p.params, .count = calloc((size_t)rows * 300, sizeof(atomic_int))};
    assert_non_null(v.count);
    p.params.score_mod = visit;
    p.params.score_mod_user_data = &v;
    run_problem(&p);
    assert_int_equal(v.wrong, 0);
    for (int64_t n = 0; n < rows; n++) {
        const int64_t i = n % queries, h = n / queries % heads, b = n / queries / heads;
        const int64_t keys = b == 1 ? 267 : 300, pad = b == 1 ? 13 : 0, last = keys - queries + i;
        int64_t visible = 0;
        for (int64_t j = 0; j <= last; j++) {
            assert_true(v.count[n * 300 + j] == 1);
            visible += j + pad != 30 && j + pad != 31;
        }
        for (int64_t j = keys; j < 300; j++)
            assert_true(v.count[n * 300 + j] == 0);
        /* All visible scores are 0 now, hidden ones are hidden. A is 0, and a sum of ones is exact. */
        const double lse = log((double)visible);
        assert_true(fabs(test_get(&p.params.lse, b, h, i, 0) - lse) <= 16 * 0x1p-24 * fmax(1.0, lse));
    }
    free(v.count);
    problem_free(&p);
}

static void see_position(void *user_data, const flashc_score_block *b)
{
    visits *v = user_data;
    const int64_t offset = v->params->offsets[b->batch];
    const int64_t expected = b->first_query > INT64_MAX - offset ? INT64_MAX : offset + b->first_query;
    v->wrong += b->first_position != expected;
}

/* Positions beyond 64 bits are told as the last one. */
static void score_mod_far_positions(const char *kernel)
{
    problem p;
    make(&p, kernel);
    problem_add_array(&p, ARRAY_OFFSETS, INT64_MAX - 1);
    p.params.alignment = FLASHC_ALIGN_EXPLICIT;
    visits v = {.params = &p.params};
    p.params.score_mod = see_position;
    p.params.score_mod_user_data = &v;
    run_problem(&p);
    assert_int_equal(v.wrong, 0);
    problem_free(&p);
}

/* A block mask is the mask that it is written out to, whatever the sizes of its tiles. */
static void block_masks(const char *kernel)
{
    static const int64_t sizes[][2] = {{1, 1}, {16, 16}, {64, 64}, {32, 128}, {128, 17}, {100, 512}, {INT64_MAX, 3}};
    for (size_t n = 0; n < sizeof sizes / sizeof sizes[0]; n++) {
        problem blocks, masked;
        make(&blocks, kernel);
        make(&masked, kernel);
        const int64_t m = sizes[n][0], width = sizes[n][1], queries = blocks.params.seqlen_q;
        problem_add_mask(&masked);
        problem_add_block_mask(&blocks, m, width);
        for (int64_t e = 0; e < 2 * 4 * queries * 300; e++) {
            const int64_t j = e % 300, i = e / 300 % queries, h = e / 300 / queries % 4, b = e / 300 / queries / 4;
            const bool visible = (i / m + 2 * (j / width) + h + b) % 3 == 0;
            test_set(&masked.params.mask, b, h, i, j, visible);
            *test_at(&blocks.params.block_mask, b, h, i / m, j / width) = visible ? 3 : 0;
        }
        assert_means_the_same(&blocks, &masked, "block mask");
        problem_free(&blocks);
        problem_free(&masked);
    }
}

int main(void)
{
    static kernel_check checks[] = {{softcap}, {alibi}, {sinks}, {score_mod_examples}, {score_mod_coordinates},
                                    {score_mod_far_positions}, {block_masks}};
    const struct CMUnitTest tests[] = {
        {"softcap_comes_before_bias_and_masks", test_on_kernels, NULL, NULL, &checks[0]},
        {"alibi_is_a_bias_of_distances", test_on_kernels, NULL, NULL, &checks[1]},
        {"sinks_are_one_more_part", test_on_kernels, NULL, NULL, &checks[2]},
        {"examples_of_score_mods", test_on_kernels, NULL, NULL, &checks[3]},
        {"score_mods_see_every_score_once", test_on_kernels, NULL, NULL, &checks[4]},
        {"positions_of_score_mods_end_at_64_bits", test_on_kernels, NULL, NULL, &checks[5]},
        {"block_masks_are_masks", test_on_kernels, NULL, NULL, &checks[6]},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
