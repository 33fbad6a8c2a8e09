/* Wrong states, chunks that do not fit them, and a cancelled chunk. */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/kernels.h"
#include "support/stream.h"

#include <math.h>
#include <string.h>

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

    none.next_key = 7;
    none.n_nodes = 1;
    expect_argument_error(flashc_attention_state_clear(&none), "state->row_max: expected a pointer, found NULL");
    assert_true(none.next_key == 7 && none.n_nodes == 1);
    none.struct_size = 8;
    expect_argument_error(flashc_attention_state_clear(&none),
                          "state->struct_size: expected 120 (flashc_attention_state_init sets it), found 8");
    assert_int_equal(none.next_key, 7);

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
    s.state.row_stride[1] = -3;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk),
                          "state->row_stride: expected rows 0 to 5, found strides 6, -3, 1");
    s.state.row_stride[1] = 2;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk),
                          "state->rows.stride[1]: the output overlaps itself: found a stride of 2, expected more than "
                          "the 2 elements that faster axes span");
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
    few.block_mask = (flashc_tensor){.data = &few, .dtype = FLASHC_BOOL, .stride = {0, 0, INT64_MAX, INT64_MAX}};
    few.block_mask_m = few.block_mask_n = 2; /* that there is one is looked at, not where */
    expect_ok(flashc_attention_state_init(&bad, sizeof bad, &few));
    few.block_mask.data = NULL;
    few.seqlen_q = few.head_dim_v = INT64_C(1) << 40;
    memset(&bad, 0x55, sizeof bad);
    expect_argument_error(flashc_attention_state_init(&bad, sizeof bad, &few),
                          "state: expected arrays that fit in memory, found levels * rows * head_dim_v = 1 * "
                          "2199023255552 * 1099511627776");
    assert_int_equal(bad.levels, 0x5555555555555555);
    few.head_dim_v = 8;
    expect_ok(flashc_attention_state_init(&bad, sizeof bad, &few));
    bad.row_max = s.state.row_max;
    bad.row_sum = s.state.row_sum;
    bad.acc = s.state.acc;
    bad.row_stride[2] = INT64_C(1) << 40; /* times so many rows: beyond 64 bits */
    few.seqlens_k = NULL;
    few.seqlen_k = 10;
    size_t bytes;
    expect_argument_error(flashc_attention_accumulate_workspace_size(&bad, &few, &bytes),
                          "state->row_stride: expected rows 0 to 2199023255551, found strides 2199023255552, "
                          "1099511627776, 1099511627776");
    few.batch = INT64_C(1) << 40; /* of no queries, and all alike: no work, and no walk either */
    few.seqlen_q = 0;
    few.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
    few.k.stride[0] = few.v.stride[0] = 0;
    expect_ok(flashc_attention_state_init(&bad, sizeof bad, &few));
    expect_ok(flashc_attention_accumulate_workspace_size(&bad, &few, &bytes));
    bad = s.state;
    bad.piece_n = INT64_MIN;
    expect_argument_error(flashc_attention_state_clear(&bad),
                          "state->piece_n: expected 0 to 274877906944, found -9223372036854775808");
    bad = s.state;
    bad.levels = -1;
    expect_argument_error(flashc_attention_state_clear(&bad), "state->levels: expected 1 to 11, found -1");
    bad = s.state;
    bad.head_dim_v = INT64_C(1) << 48;
    bad.rows = INT64_C(1) << 20;
    expect_argument_error(flashc_attention_state_clear(&bad),
                          "state: expected arrays that fit in memory, found levels * rows * head_dim_v = 4 * 1048576 * "
                          "281474976710656");
    s.state.n_nodes = 5;
    expect_argument_error(flashc_attention_finish(&s.state, &p.params), "state->n_nodes: expected 0 to 4, found 5");
    s.state.n_nodes = 2; /* so many that pieces to come could be more than levels */
    s.state.next_key = 4 * s.state.piece_n;
    chunk.seqlen_k = 10;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk),
                          "state->n_nodes: expected 0 to 1, which the keys before next_key leave, found 2");
    s.state.next_key++;
    s.state.n_nodes = 3;
    expect_argument_error(flashc_attention_finish(&s.state, &p.params),
                          "state->n_nodes: expected 0 to 2, which the keys before next_key leave, found 3");
    chunk.seqlen_k = 10;
    s.state.n_nodes = 0;
    s.state.next_key = 0;
    chunk.scores = flashc_tensor_bhsd(p.params.lse.data, FLASHC_F32, 2, 3, 10); /* lse is not looked at */
    size_t size;
    expect_ok(flashc_attention_accumulate_workspace_size(&s.state, &chunk, &size));
    chunk.scores.dtype = FLASHC_I8;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk),
                          "scores.dtype: expected f32, f16 or bf16, found i8 (5)");
    chunk.scores.data = NULL;
    chunk.seqlen_k = 5000;
    expect_argument_error(flashc_attention_state_merge(&s.state, &s.state),
                          "from: expected another state than into, found the same");
    chunk.progress = cancel;
    assert_int_equal(flashc_attention_accumulate(&s.state, &chunk), FLASHC_ERR_CANCELLED);
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk),
                          "state->next_key: expected 0 or more, found -1: a cancelled chunk left the state unusable; "
                          "flashc_attention_state_clear() makes it one of no keys");
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
    s.state.seqlens_k = negative;
    chunk.seqlens_k = (int64_t[]){0, 0}; /* no keys, so that none are too many */
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk),
                          "state->seqlens_k[1]: expected 0 to state->seqlen_k = 100, found -1");
    s.state.seqlens_k = some;
    chunk.seqlens_k = beyond;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk), "seqlens_k[1]: expected 0 to 100, found 101");
    chunk.seqlens_k = NULL;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk),
                          "state->seqlens_k: expected all keys of batch element 0, from which "
                          "FLASHC_ALIGN_BOTTOM_RIGHT counts, found 60, and keys up to 100 in the chunk");
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

/* The padding that a chunk has counts from the first key of all, its pages from its own first row. */
static void pages_behind_padding(void **unused)
{
    (void)unused;
    problem p;
    const problem_shape shape = {1, 1, 1, 3, 32, 8, 8};
    problem_plain(&p, &shape, FLASHC_F32, 1);
    const int64_t padding = 20;
    p.params.leftpad_k = &padding;
    test_stream s = test_stream_begin(&p.params);
    flashc_attention_params chunk = p.params;
    int32_t pages[] = {-1, -1, 0, 1};
    chunk.seqlen_k = 16;
    chunk.block_table =
        (flashc_block_table){.pages = pages, .stride = {4, 1}, .max_pages = 4, .num_pages = 2, .page_size = 4};
    chunk.k.stride[0] = chunk.v.stride[0] = 4 * 8;
    s.state.next_key = 12; /* rows 0 to 7 of the chunk are padding */
    expect_ok(flashc_attention_accumulate(&s.state, &chunk));
    s.state.next_key = 12;
    s.state.n_nodes = 0;
    pages[2] = 2;
    expect_argument_error(flashc_attention_accumulate(&s.state, &chunk),
                          "block_table[0][2]: expected a page 0 to 1, found 2");
    test_stream_free(&s);
    problem_free(&p);
}

/* States of the same rows in the same order merge, as far as the keys of both fit into the levels of the first. */
static void errors_of_merges(void **unused)
{
    (void)unused;
    problem p;
    const problem_shape shape = {1, 2, 1, 3, 5000, 8, 8};
    problem_plain(&p, &shape, FLASHC_F32, 1);
    test_stream into = test_stream_begin(&p.params), from = test_stream_begin(&p.params);
    from.state.row_stride[1] = 1, from.state.row_stride[2] = 2; /* head by head, query by query */
    expect_argument_error(flashc_attention_state_merge(&into.state, &from.state),
                          "from: expected the rows, row_stride and head_dim_v of into (6 rows of 8), found others (6 "
                          "rows of 8)");
    from.state.row_stride[1] = 3, from.state.row_stride[2] = 1;
    from.state.rows = 5;
    expect_argument_error(flashc_attention_state_merge(&into.state, &from.state),
                          "from: expected the rows, row_stride and head_dim_v of into (6 rows of 8), found others (5 "
                          "rows of 8)");
    from.state.rows = 6;
    from.state.head_dim_v = 7;
    expect_argument_error(flashc_attention_state_merge(&into.state, &from.state),
                          "from: expected the rows, row_stride and head_dim_v of into (6 rows of 8), found others (6 "
                          "rows of 7)");
    from.state.head_dim_v = 8;
    const int64_t most = 15 * into.state.piece_n; /* of 4 levels */
    char message[128];
    from.state.levels = 5;
    from.state.next_key = most + 1;
    snprintf(message, sizeof message,
             "from->next_key: expected at most the %d keys of into's levels, found %d", (int)most, (int)most + 1);
    expect_argument_error(flashc_attention_state_merge(&into.state, &from.state), message);
    assert_true(into.state.n_nodes == 0 && into.state.next_key == 0);
    from.state.levels = 4;
    from.state.next_key = most;
    expect_ok(flashc_attention_state_merge(&into.state, &from.state));
    assert_true(into.state.n_nodes == 0 && into.state.next_key == most);
    test_stream_free(&from);
    test_stream_free(&into);
    problem_free(&p);
}

/* As many levels as the keys need: n of them hold 2^n - 1 pieces. Without columns of V there is no acc. */
static void sizes_of_states(void **unused)
{
    (void)unused;
    problem p;
    const problem_shape shape = {1, 1, 1, 1, 5000, 8, 0};
    problem_plain(&p, &shape, FLASHC_F32, 1);
    const int64_t piece = plan_of(&p).piece_n;
    flashc_attention_state s;
    for (int64_t levels = 2; levels < 8; levels++)
        for (int more = 0; more < 2; more++) {
            flashc_attention_params params = p.params;
            params.seqlen_k = (((int64_t)1 << levels) - 1) * piece + more;
            expect_ok(flashc_attention_state_init(&s, sizeof s, &params));
            assert_true(s.piece_n == piece && s.levels == levels + more);
        }
    float row_max[8], row_sum[8];
    expect_ok(flashc_attention_state_init(&s, sizeof s, &p.params));
    s.row_max = row_max;
    s.row_sum = row_sum;
    expect_ok(flashc_attention_state_clear(&s));
    expect_ok(flashc_attention_accumulate(&s, &p.params));
    expect_ok(flashc_attention_finish(&s, &p.params));
    check_exact(&p);
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors),
        cmocka_unit_test(errors_of_positions),
        cmocka_unit_test(pages_behind_padding),
        cmocka_unit_test(errors_of_merges),
        cmocka_unit_test(sizes_of_states),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
