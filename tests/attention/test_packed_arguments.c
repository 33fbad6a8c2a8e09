/* Wrong cumulative lengths and block tables: the message, with argument, index and value. Then what is unusual but
 * valid. */
#include "support/cmocka.h"
#include "support/expect.h"

#include <stdint.h>
#include <string.h>

/* Two sequences: 2 and 3 queries on 5 and 4 keys, two heads of 8 columns. */
static float q[2 * 5 * 8], k[2 * 9 * 8 * 4], v[2 * 9 * 8 * 4], o[2 * 5 * 8], lse[2 * 5];
static int64_t cu_q[3], cu_k[3], lengths[2], leftpad[2];
static int32_t pages[2][3], pages_v[2][3];

static void packed(flashc_attention_params *p)
{
    memcpy(cu_q, (int64_t[]){0, 2, 5}, sizeof cu_q);
    memcpy(cu_k, (int64_t[]){0, 5, 9}, sizeof cu_k);
    memcpy(lengths, (int64_t[]){5, 4}, sizeof lengths);
    memset(leftpad, 0, sizeof leftpad);
    flashc_attention_params_init(p, sizeof *p);
    p->batch = p->num_heads = p->num_heads_k = 2;
    p->seqlen_q = 5;
    p->seqlen_k = 9;
    p->head_dim = p->head_dim_v = 8;
    p->q = flashc_tensor_bhsd(q, FLASHC_F32, 2, 5, 8);
    p->k = flashc_tensor_bhsd(k, FLASHC_F32, 2, 9, 8);
    p->v = flashc_tensor_bhsd(v, FLASHC_F32, 2, 9, 8);
    p->o = flashc_tensor_bhsd(o, FLASHC_F32, 2, 5, 8);
    p->lse = flashc_tensor_bhsd(lse, FLASHC_F32, 2, 5, 1);
    p->cu_seqlens_q = cu_q;
    p->cu_seqlens_k = cu_k;
}

/* Pages of 2 rows, 6 of them; packed queries. */
static void paged(flashc_attention_params *p)
{
    packed(p);
    memcpy(pages, (int32_t[2][3]){{4, 0, 2}, {1, 5, -9}}, sizeof pages);
    memcpy(pages_v, pages, sizeof pages_v);
    p->cu_seqlens_k = NULL;
    p->seqlens_k = lengths;
    p->seqlen_k = 6;
    p->k = flashc_tensor_bshd(k, FLASHC_F32, 2, 2, 8);
    p->v = flashc_tensor_bshd(v, FLASHC_F32, 2, 2, 8);
    p->block_table = (flashc_block_table){
        .pages = pages[0], .stride = {3, 1}, .max_pages = 3, .num_pages = 6, .page_size = 2};
}

/* A mistake, made in the call that form() describes; the message. */
#define MISTAKE(form, change, message)                                                                                \
    do {                                                                                                              \
        flashc_attention_params p;                                                                                    \
        form(&p);                                                                                                     \
        change;                                                                                                       \
        expect_argument_error(flashc_attention_fwd(&p), message);                                                     \
    } while (0)

static void starts_with(flashc_status status, const char *message)
{
    assert_int_equal(status, FLASHC_ERR_ARGUMENT);
    if (strncmp(flashc_last_error(), message, strlen(message)) != 0)
        fail_msg("expected \"%s...\", found \"%s\"", message, flashc_last_error());
}

static void test_cumulative_lengths(void **state)
{
    (void)state;
    MISTAKE(packed, cu_q[0] = 1, "cu_seqlens_q[0]: expected 0, found 1");
    MISTAKE(packed, cu_q[1] = -1, "cu_seqlens_q[1]: expected at least 0 (the entry before), found -1");
    MISTAKE(packed, cu_q[1] = 6, "cu_seqlens_q[2]: expected at least 6 (the entry before), found 5");
    MISTAKE(packed, cu_q[2] = 4, "cu_seqlens_q[2]: expected seqlen_q = 5, found 4");
    MISTAKE(packed, cu_k[2] = 10, "cu_seqlens_k[2]: expected seqlen_k = 9, found 10");
    MISTAKE(packed, (p.leftpad_k = leftpad, leftpad[1] = 5), "leftpad_k[1]: expected 0 to 4, found 5");
    flashc_attention_params p;
    packed(&p);
    p.seqlens_q = lengths;
    starts_with(flashc_attention_fwd(&p), "seqlens_q: expected NULL beside cu_seqlens_q, which says the same, found ");
    packed(&p);
    p.seqlens_k = lengths;
    starts_with(flashc_attention_fwd(&p), "seqlens_k: expected NULL beside cu_seqlens_k, which says the same, found ");
    paged(&p);
    p.cu_seqlens_k = cu_k;
    p.seqlens_k = NULL;
    p.seqlen_k = 9;
    starts_with(flashc_attention_fwd(&p), "cu_seqlens_k: expected NULL beside block_table");
}

static void test_block_tables(void **state)
{
    (void)state;
    MISTAKE(paged, p.block_table.page_size = 0, "block_table.page_size: expected 1 to 2^48, found 0");
    MISTAKE(paged, p.block_table.max_pages = -3, "block_table.max_pages: expected 0 to 2^48, found -3");
    MISTAKE(paged, p.block_table.max_pages = 2, "seqlens_k[0]: expected at most the 4 rows of block_table, found 5");
    MISTAKE(paged, (p.block_table.max_pages = 2, lengths[0] = 4, lengths[1] = 5),
            "seqlens_k[1]: expected at most the 4 rows of block_table, found 5");
    MISTAKE(paged, (p.seqlens_k = NULL, p.seqlen_k = 7),
            "seqlen_k: expected at most the 6 rows of block_table, found 7");
    MISTAKE(paged, lengths[1] = 7, "seqlens_k[1]: expected 0 to 6, found 7");
    MISTAKE(paged, pages[1][1] = 6, "block_table[1][1]: expected a page 0 to 5, found 6");
    MISTAKE(paged, pages[0][0] = -1, "block_table[0][0]: expected a page 0 to 5, found -1");
    MISTAKE(paged, lengths[1] = 5, "block_table[1][2]: expected a page 0 to 5, found -9");
    MISTAKE(paged, (p.block_table_v = p.block_table, p.block_table_v.pages = pages_v[0], pages_v[0][2] = 77),
            "block_table_v[0][2]: expected a page 0 to 5, found 77");
    MISTAKE(paged, (p.block_table_v = p.block_table, p.block_table.pages = NULL),
            "block_table.pages: block_table_v needs it too, found NULL");
    MISTAKE(paged, p.v.data = NULL, "v.data: expected a pointer to [6, 2, 2, 8] elements, found NULL");
}

static void test_unusual_calls(void **state)
{
    (void)state;
    flashc_attention_params p;
    packed(&p);
    expect_ok(flashc_attention_fwd(&p));
    paged(&p);
    expect_ok(flashc_attention_fwd(&p));
    /* Pages that only padding reaches are not looked at; one page may serve both sequences. */
    p.leftpad_k = leftpad;
    leftpad[0] = 2;
    pages[0][0] = -1;
    pages[1][0] = pages[0][1];
    expect_ok(flashc_attention_fwd(&p));
    /* Strides of the batch axis are not used by what is packed. */
    packed(&p);
    p.q.stride[0] = p.k.stride[0] = p.o.stride[0] = INT64_MAX;
    expect_ok(flashc_attention_fwd(&p));
    /* Empty sequences, among others and alone. */
    packed(&p);
    memcpy(cu_q, (int64_t[]){0, 0, 5}, sizeof cu_q);
    memcpy(cu_k, (int64_t[]){0, 9, 9}, sizeof cu_k);
    expect_ok(flashc_attention_fwd(&p));
    for (size_t i = 0; i < sizeof o / sizeof o[0]; i++)
        assert_true(o[i] == 0.0f);
    packed(&p);
    memset(cu_q, 0, sizeof cu_q);
    memset(cu_k, 0, sizeof cu_k);
    p.seqlen_q = p.seqlen_k = 0;
    p.q.data = p.k.data = p.v.data = p.o.data = p.lse.data = NULL;
    expect_ok(flashc_attention_fwd(&p));
    packed(&p);
    p.batch = 0;
    p.seqlen_q = p.seqlen_k = 0;
    expect_ok(flashc_attention_fwd(&p));
    paged(&p);
    lengths[0] = lengths[1] = 0;
    p.block_table.num_pages = p.block_table.max_pages = 0;
    expect_ok(flashc_attention_fwd(&p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cumulative_lengths), cmocka_unit_test(test_block_tables),
                                       cmocka_unit_test(test_unusual_calls)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
