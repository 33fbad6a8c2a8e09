/* The work of a plan's items, as flashc_explain_items() counts it. */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/kernels.h"

#include <stdlib.h>
#include <string.h>

/* All items; freed by the caller. */
static flashc_item_work *items_of(const problem *p, int64_t *count)
{
    *count = plan_of(p).num_items;
    flashc_item_work *items = calloc((size_t)*count + 1, sizeof *items);
    assert_non_null(items);
    expect_ok(flashc_explain_items(&p->params, 0, *count, items));
    return items;
}

/* What holds of the items of any plan. */
static void check_items(const problem *p)
{
    const flashc_attention_params *params = &p->params;
    const flashc_explanation plan = plan_of(p);
    const double per_pair = 2.0 * (double)(params->head_dim + params->head_dim_v);
    int64_t count;
    flashc_item_work *items = items_of(p, &count);
    double flops = 0;
    int64_t rows = 0;
    const bool has_positions = params->causal || params->window_left >= 0 || params->window_right >= 0;
    const bool may_be_idle = has_positions || params->seqlens_q || params->seqlens_k || params->leftpad_k;
    for (int64_t i = 0; i < count; i++) {
        const flashc_item_work *item = &items[i];
        assert_in_range(item->batch, 0, params->batch - 1);
        assert_in_range(item->head_k, 0, params->num_heads_k - 1);
        assert_in_range(item->rows, may_be_idle ? 0 : 1, plan.rows_per_item);
        assert_in_range(item->first_key, 0, params->seqlen_k);
        assert_in_range(item->keys, 0, params->seqlen_k - item->first_key);
        assert_in_range(item->edge_tiles, 0, item->tiles);
        assert_true(item->pieces >= (item->rows > 0) && (plan.piece_n > 0 || item->pieces <= 1));
        assert_true(plan.piece_n == 0 || item->keys <= item->pieces * plan.piece_n);
        assert_true(item->scores <= (double)(item->tiles * plan.block_m * plan.block_n));
        assert_true(item->scores * per_pair >= item->flops);
        if (!has_positions) {
            assert_int_equal(item->edge_tiles, 0);
            assert_true(item->flops == per_pair * (double)item->rows * (double)item->keys);
        }
        flops += item->flops;
        rows += item->rows;
    }
    assert_true(flops == plan.flops); /* whole numbers below 2^53 */
    int64_t all_rows = 0;
    for (int64_t b = 0; b < params->batch; b++)
        all_rows += params->num_heads * (params->seqlens_q != NULL ? params->seqlens_q[b] : params->seqlen_q);
    assert_true(plan.piece_n > 0 ? rows >= all_rows : rows == all_rows);
    free(items);
}

static void random_problems(const char *kernel)
{
    for (uint64_t seed = 0; seed < 60; seed++) {
        problem p;
        problem_random(&p, seed, kernel);
        for (int threads = 1; threads <= 64; threads *= 4) {
            p.params.num_threads = threads;
            check_items(&p);
        }
        problem_free(&p);
    }
}

/* Visible (query, key) pairs of one head, one by one. */
static double count_pairs(int64_t seqlen_q, int64_t seqlen_k, int64_t offset)
{
    double pairs = 0;
    for (int64_t i = 0; i < seqlen_q; i++)
        for (int64_t j = 0; j < seqlen_k; j++)
            pairs += j <= i + offset;
    return pairs;
}

/* Every head has its share, later rows come first, and ranges of items are parts of the whole list. */
static void causal_heads(const char *kernel)
{
    const problem_shape shape = shape_for(kernel, (problem_shape){2, 6, 3, 401, 333, 8, 5});
    for (int64_t offset = -150; offset <= 50; offset += 100) {
        problem p;
        problem_plain(&p, &shape, FLASHC_F32, 1);
        p.params.kernel = kernel;
        problem_add_causal(&p, offset);
        int64_t count;
        flashc_item_work *items = items_of(&p, &count);
        const double expected = 2.0 * 13.0 * 2.0 * count_pairs(shape.seqlen_q, shape.seqlen_k, offset);
        double of_head[6] = {0};
        for (int64_t i = 0; i < count; i++) {
            of_head[items[i].batch * 3 + items[i].head_k] += items[i].flops;
            const bool same_head = i > 0 && items[i].batch == items[i - 1].batch &&
                                   items[i].head_k == items[i - 1].head_k;
            assert_true(!same_head || items[i].keys <= items[i - 1].keys);
        }
        for (int head = 0; head < 6; head++)
            assert_true(of_head[head] == expected);
        for (int64_t i = 0; i < count; i++) {
            flashc_item_work one;
            expect_ok(flashc_explain_items(&p.params, i, 1, &one));
            assert_memory_equal(&one, &items[i], sizeof one);
        }
        free(items);
        problem_free(&p);
    }
}

/* Keys that are split: each row's runs load every key once, for any number of threads. */
static void split_keys(const char *kernel)
{
    const problem_shape shape = {2, 4, 2, 1, 10 * kernel_piece(kernel, 8, 8) + 77, 8, 8};
    problem p;
    problem_plain(&p, &shape, FLASHC_F32, 1);
    p.params.kernel = kernel;
    for (p.params.num_threads = 1; p.params.num_threads <= 1024; p.params.num_threads *= 2) {
        int64_t count, keys = 0, pieces = 0;
        flashc_item_work *items = items_of(&p, &count);
        check_items(&p);
        for (int64_t i = 0; i < count; i++) {
            assert_int_equal(items[i].rows, 2);
            assert_int_equal(items[i].first_key, keys % shape.seqlen_k);
            keys += items[i].keys;
            pieces += items[i].pieces;
        }
        assert_int_equal(keys, 4 * shape.seqlen_k);
        assert_int_equal(pieces, 4 * 11);
        free(items);
    }
    problem_free(&p);
}

/* Tiles counted by hand, of heads with two row blocks and a vector's rows, three key tiles and one key; so many heads
 * that an item has all rows of one. */
static void tiles_by_hand(void **state)
{
    (void)state;
    enum { HEADS = 64 };
    problem p;
    const problem_shape probe = {1, 1, 1, 4096, 4096, 16, 16};
    problem_plain(&p, &probe, FLASHC_F32, 1);
    p.params.kernel = "f32_generic";
    const flashc_explanation plan = plan_of(&p);
    problem_free(&p);
    const int64_t m = plan.block_m, n = plan.block_n;
    const problem_shape shape = {1, HEADS, HEADS, 2 * m + 8, 3 * n + 1, 16, 16};
    problem_plain(&p, &shape, FLASHC_F32, 1);
    p.params.kernel = "f32_generic";
    int64_t count, tiles = 0, edge_tiles = 0;
    flashc_item_work *items = items_of(&p, &count);
    for (int64_t i = 0; i < count; i++)
        tiles += items[i].tiles;
    assert_int_equal(count, HEADS);
    assert_int_equal(tiles, HEADS * 3 * 4);
    free(items);

    /* Tiles are not counted one by one: of so many keys that would take hours. */
    problem many = p;
    many.params.seqlen_k = INT64_C(1) << 45;
    many.params.k.stride[2] = many.params.v.stride[2] = 0;
    items = items_of(&many, &count);
    assert_int_equal(items[0].tiles, 3 * ((many.params.seqlen_k - 1) / n + 1));
    free(items);

    /* Query 0 sees the keys of one tile and one more, the last query all keys: that tile is whole for every block, the
     * next one begins to be hidden in the first block. */
    problem_add_causal(&p, n);
    items = items_of(&p, &count);
    double scores = 0;
    for (int64_t i = 0; i < count; i++) {
        edge_tiles += items[i].edge_tiles;
        scores += items[i].scores;
    }
    int64_t expected_edges = 0, expected_scores = 0;
    for (int64_t first = 0; first < shape.seqlen_q; first += m) {
        const int64_t last = first + m < shape.seqlen_q ? first + m - 1 : shape.seqlen_q - 1;
        for (int64_t key = 0; key < shape.seqlen_k && key <= last + n; key += n) {
            int64_t end = key + n < shape.seqlen_k ? key + n : shape.seqlen_k;
            end = end < last + n + 1 ? end : last + n + 1;
            expected_edges += end - 1 > first + n;
            expected_scores += (last - first + 1) * (end - key);
        }
    }
    assert_int_equal(edge_tiles, HEADS * expected_edges);
    assert_true(edge_tiles > 0 && scores == (double)(HEADS * expected_scores));
    free(items);
    problem_free(&p);
}

/* Tiles of one item that some row sees in part, counted key by key: windows of any width around a few rows. */
static void edge_tiles_of_windows(const char *kernel)
{
    problem p = problem_on(kernel, (problem_shape){1, 1, 1, 9, 500, 8, 8}, FLASHC_F32, 1);
    const int64_t queries = p.params.seqlen_q, n = plan_of(&p).block_n;
    p.params.num_threads = 1;
    int64_t edges = 0, inner = 0;
    for (int64_t at = 0; at < 9 * 9 * 5; at++) {
        const int64_t offset = at % 9 * 61, left = at / 9 % 9 * 47 - 1, right = at / 81 * 70 - 1;
        problem_add_array(&p, ARRAY_OFFSETS, offset);
        p.params.alignment = FLASHC_ALIGN_EXPLICIT;
        p.params.window_left = left;
        p.params.window_right = right;
        int64_t count, expected = 0;
        flashc_item_work *item = items_of(&p, &count);
        assert_int_equal(count, 1);
        for (int64_t first = item->first_key; first < item->first_key + item->keys; first += n) {
            bool hidden = false;
            for (int64_t j = first; j < first + n && j < item->first_key + item->keys; j++)
                for (int64_t i = offset; i < offset + queries; i++)
                    hidden = hidden || (left >= 0 && j < i - left) || (right >= 0 && j > i + right);
            expected += hidden;
        }
        assert_int_equal(item->edge_tiles, expected);
        edges += expected;
        inner += item->tiles - expected;
        free(item);
    }
    assert_true(edges > 0 && inner > 0);
    problem_free(&p);
}

static void errors(void **state)
{
    (void)state;
    problem p;
    const problem_shape shape = {1, 2, 2, 3, 5, 8, 8};
    problem_plain(&p, &shape, FLASHC_F32, 1);
    flashc_item_work item;
    assert_int_equal(plan_of(&p).num_items, 2);
    expect_argument_error(flashc_explain_items(&p.params, -1, 1, &item),
                          "first: expected 0 to 2, the number of items, found -1");
    expect_argument_error(flashc_explain_items(&p.params, 3, 0, &item),
                          "first: expected 0 to 2, the number of items, found 3");
    expect_argument_error(flashc_explain_items(&p.params, 1, 2, &item),
                          "count: expected 0 to 1, the number of items from 1 on, found 2");
    expect_argument_error(flashc_explain_items(&p.params, 0, -1, &item),
                          "count: expected 0 to 2, the number of items from 0 on, found -1");
    expect_argument_error(flashc_explain_items(&p.params, 0, INT64_MAX, &item),
                          "count: expected 0 to 2, the number of items from 0 on, found 9223372036854775807");
    expect_argument_error(flashc_explain_items(&p.params, 0, 1, NULL), "items: expected a pointer, found NULL");
    expect_ok(flashc_explain_items(&p.params, 2, 0, NULL));
    p.params.head_dim = 0;
    assert_int_equal(flashc_explain_items(&p.params, 0, 1, &item), FLASHC_ERR_ARGUMENT);
    problem_free(&p);
}

int main(void)
{
    static kernel_check random_check = {random_problems}, causal_check = {causal_heads}, split_check = {split_keys},
                        window_check = {edge_tiles_of_windows};
    const struct CMUnitTest tests[] = {
        {"work_of_random_problems", test_on_kernels, NULL, NULL, &random_check},
        {"causal_heads_have_their_share", test_on_kernels, NULL, NULL, &causal_check},
        {"split_keys_are_loaded_once", test_on_kernels, NULL, NULL, &split_check},
        {"edge_tiles_of_windows", test_on_kernels, NULL, NULL, &window_check},
        cmocka_unit_test(tiles_by_hand),
        cmocka_unit_test(errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
