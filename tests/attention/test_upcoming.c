/* The memory that row blocks name for prefetching. No result shows a wrong hint, only time does: so each is compared
 * with where the rows lie. */
#include "attention/upcoming.h"

#include "support/cmocka.h"

#include <string.h>

enum { HEADS = 2, QUERIES = 10, KEYS = 24, DIM = 8, PAGE = 4 };

static float q[3 * HEADS * QUERIES * DIM], k[2 * HEADS * KEYS * DIM], bias[HEADS * QUERIES * KEYS];
static bool mask[HEADS * QUERIES * KEYS];

static void assert_rows(flashc_upcoming found, const char *row, int64_t n_rows, int64_t row_stride, int64_t row_bytes)
{
    assert_ptr_equal(found.row, row);
    assert_int_equal(found.n_rows, n_rows);
    assert_int_equal(found.row_stride, row_stride);
    assert_int_equal(found.row_bytes, row_bytes);
}

static void assert_none(flashc_upcoming found)
{
    assert_null(found.row);
    assert_int_equal(found.n_rows, 0);
}

/* The second sequence of a packed batch, its first key being row 5. */
static const flashc_span span = {.head_k = 1, .sequence = {.k_element = 0, .first_key = 5}};

static void keys_in_parts(void **state)
{
    (void)state;
    flashc_cache_rows rows = {.tensor = flashc_tensor_bshd(k, FLASHC_F32, HEADS, KEYS, DIM)};
    const int64_t row = HEADS * DIM * (int64_t)sizeof(float);
    const char *first = flashc_element(&rows.tensor, 0, 1, 5 + 3, 0);
    assert_rows(flashc_upcoming_keys(&rows, &span, 3, 7, DIM, 0, 3), first, 2, row, DIM * sizeof(float));
    assert_rows(flashc_upcoming_keys(&rows, &span, 3, 7, DIM, 1, 3), first + 2 * row, 2, row, DIM * sizeof(float));
    assert_rows(flashc_upcoming_keys(&rows, &span, 3, 7, DIM, 2, 3), first + 4 * row, 3, row, DIM * sizeof(float));
    assert_none(flashc_upcoming_keys(&rows, &span, 3, 0, DIM, 0, 1));
    assert_none(flashc_upcoming_keys(&rows, &span, 3, -1, DIM, 0, 1));
    rows.tensor.stride[3] = 2;
    assert_none(flashc_upcoming_keys(&rows, &span, 3, 7, DIM, 0, 1));
    /* Two blocks of 34 bytes each. */
    rows.tensor = (flashc_tensor){.data = k, .dtype = FLASHC_Q8_0, .stride = {0, 48, 2, 1}};
    assert_rows(flashc_upcoming_keys(&rows, &span, 3, 7, 64, 0, 1), (const char *)k + (48 + 2 * 8) * 34, 7, 68, 68);
}

/* Pages are not followed further than they lie in order. */
static void keys_in_pages(void **state)
{
    (void)state;
    static const int32_t pages[2][3] = {{0, 1, 2}, {7, 8, 3}};
    const flashc_cache_rows rows = {.tensor = flashc_tensor_bshd(k, FLASHC_F32, HEADS, PAGE, DIM),
                                    .table = {pages[0], {3, 1}, 3, 12, PAGE}};
    const flashc_span second = {.head_k = 1, .sequence = {.k_element = 1}};
    const int64_t row = HEADS * DIM * (int64_t)sizeof(float);
    assert_rows(flashc_upcoming_keys(&rows, &second, 1, 9, DIM, 0, 1), flashc_element(&rows.tensor, 7, 1, 1, 0), 7, row,
                DIM * sizeof(float));
    assert_rows(flashc_upcoming_keys(&rows, &second, 5, 2, DIM, 0, 1), flashc_element(&rows.tensor, 8, 1, 1, 0), 2, row,
                DIM * sizeof(float));
}

static void rows_of_queries(void **state)
{
    (void)state;
    const flashc_problem p = {.group = 1}, stacked = {.group = 2};
    flashc_tensor t = flashc_tensor_bhsd(q, FLASHC_F32, HEADS, QUERIES, DIM);
    const flashc_sequence sequence = {.q_element = 2, .first_query = 1, .n_queries = 9};
    const int64_t row = DIM * (int64_t)sizeof(float);
    assert_rows(flashc_upcoming_rows(&p, &t, DIM, &sequence, 1, 4, 3), flashc_element(&t, 2, 1, 5, 0), 3, row, row);
    assert_rows(flashc_upcoming_rows(&p, &t, 3, &sequence, 1, 8, 3), flashc_element(&t, 2, 1, 9, 0), 1, row,
                3 * sizeof(float));
    assert_none(flashc_upcoming_rows(&p, &t, DIM, &sequence, 1, 9, 3));
    assert_none(flashc_upcoming_rows(&p, &t, DIM, &sequence, 1, -1, 3));
    assert_none(flashc_upcoming_rows(&stacked, &t, DIM, &sequence, 1, 4, 3));
    t.stride[3] = 2;
    assert_none(flashc_upcoming_rows(&p, &t, DIM, &sequence, 1, 4, 3));
}

static void bias_or_mask(void **state)
{
    (void)state;
    flashc_problem p = {.group = 1};
    const flashc_row_block block = {
        .head_k = 1, .sequence = {.first_query = 2, .n_queries = 8, .first_key = 5}, .first_row = 3, .n_rows = 4};
    assert_none(flashc_upcoming_bias(&p, &block, 6, 7));
    p.mask = flashc_tensor_bhsd(mask, FLASHC_BOOL, HEADS, QUERIES, KEYS);
    assert_rows(flashc_upcoming_bias(&p, &block, 6, 7), flashc_element(&p.mask, 0, 1, 5, 11), 4, KEYS, 7);
    p.bias = flashc_tensor_bhsd(bias, FLASHC_F32, HEADS, QUERIES, KEYS); /* first of all the bias, which is larger */
    assert_rows(flashc_upcoming_bias(&p, &block, 6, 7), flashc_element(&p.bias, 0, 1, 5, 11), 4, KEYS * sizeof(float),
                7 * sizeof(float));
    p.bias.stride[2] = 0; /* one row for all queries, which stays near */
    assert_none(flashc_upcoming_bias(&p, &block, 6, 7));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(keys_in_parts), cmocka_unit_test(keys_in_pages),
                                       cmocka_unit_test(rows_of_queries), cmocka_unit_test(bias_or_mask)};
    return cmocka_run_group_tests_name("upcoming rows", tests, NULL, NULL);
}
