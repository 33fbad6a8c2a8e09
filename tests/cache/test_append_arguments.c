/* Every wrong argument of flashc_append(): the message, with argument, index and value, and nothing written. */
#include "support/cmocka.h"
#include "support/expect.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Two sequences of 3 new rows each, 2 heads of 4 columns, 4 pages of 4 rows for each, rotary tables of 16 positions. */
static float k[2 * 2 * 3 * 4], v[2 * 2 * 3 * 4], q[2 * 2 * 3 * 4], k_cache[8 * 2 * 4 * 4], v_cache[8 * 2 * 4 * 4];
static float table_cos[16 * 2], table_sin[16 * 2];
static int32_t pages[2][4], pages_v[2][4];
static int64_t positions[2], lengths[2], cu[3];

static void usual(flashc_append_params *p, bool paged)
{
    static const int32_t in_order[2][4] = {{0, 1, 2, 3}, {4, 5, 6, 7}};
    memcpy(pages, in_order, sizeof pages);
    memcpy(pages_v, in_order, sizeof pages_v);
    memset(k_cache, 0x7f, sizeof k_cache);
    memset(v_cache, 0x7f, sizeof v_cache);
    positions[0] = positions[1] = 2;
    lengths[0] = lengths[1] = 3;
    cu[0] = 0;
    cu[1] = 1;
    cu[2] = 3;
    flashc_append_params_init(p, sizeof *p);
    p->batch = p->num_heads = p->num_heads_k = 2;
    p->seqlen_new = 3;
    p->head_dim = p->head_dim_v = 4;
    p->seqlen_cache = 16;
    p->k = flashc_tensor_bhsd(k, FLASHC_F32, 2, 3, 4);
    p->v = flashc_tensor_bhsd(v, FLASHC_F32, 2, 3, 4);
    p->q = p->q_out = flashc_tensor_bhsd(q, FLASHC_F32, 2, 3, 4);
    p->k_cache = flashc_tensor_bhsd(k_cache, FLASHC_F32, 2, paged ? 4 : 16, 4);
    p->v_cache = flashc_tensor_bhsd(v_cache, FLASHC_F32, 2, paged ? 4 : 16, 4);
    p->positions = positions;
    p->rotary_dim = 4;
    p->rotary_len = 16;
    p->rotary_cos = flashc_tensor_bhsd(table_cos, FLASHC_F32, 1, 16, 2);
    p->rotary_sin = flashc_tensor_bhsd(table_sin, FLASHC_F32, 1, 16, 2);
    if (paged)
        p->block_table = (flashc_block_table){
            .pages = pages[0], .stride = {4, 1}, .max_pages = 4, .num_pages = 8, .page_size = 4};
}

/* A mistake made by one assignment in `usual`; the message is found below it. */
#define MISTAKE(paged, change, message)                                                                               \
    do {                                                                                                              \
        flashc_append_params p;                                                                                       \
        usual(&p, paged);                                                                                             \
        change;                                                                                                       \
        expect_argument_error(flashc_append(&p), message);                                                            \
        for (size_t i = 0; i < sizeof k_cache / sizeof k_cache[0]; i++)                                               \
            assert_true(memcmp(&k_cache[i], "\x7f\x7f\x7f\x7f", 4) == 0);                                             \
    } while (0)

static void test_usual_calls(void **state)
{
    (void)state;
    for (int paged = 0; paged < 2; paged++) {
        flashc_append_params p;
        usual(&p, paged);
        expect_ok(flashc_append(&p));
        p.batch = 0;
        p.positions = NULL;
        expect_ok(flashc_append(&p));
    }
    flashc_append_params p;
    usual(&p, false);
    p.num_heads = p.num_heads_k = 1;
    p.k.stride[1] = p.v.stride[1] = p.q.stride[1] = p.q_out.stride[1] = INT64_MIN; /* nobody goes to another head */
    expect_ok(flashc_append(&p));
    flashc_append_params nothing;
    flashc_append_params_init(&nothing, sizeof nothing);
    assert_true(nothing.batch == 1 && nothing.num_heads == 1 && nothing.num_heads_k == 1);
    nothing.head_dim = 1;
    nothing.batch = 0;
    expect_ok(flashc_append(&nothing));
    expect_argument_error(flashc_append(NULL), "params: expected a pointer, found NULL");
    flashc_append_params_init(NULL, 0);
}

static void test_sizes(void **state)
{
    (void)state;
    MISTAKE(false, p.batch = -1, "batch: expected 0 to 2^48, found -1");
    MISTAKE(false, p.head_dim = 0, "head_dim: expected 1 to 2^48, found 0");
    MISTAKE(false, p.seqlen_new = -7, "seqlen_new: expected 0 to 2^48, found -7");
    MISTAKE(false, p.rotary_len = -1, "rotary_len: expected 0 to 2^48, found -1");
    MISTAKE(false, p.rotary_dim = 3, "rotary_dim: expected an even number up to head_dim = 4, found 3");
    MISTAKE(false, p.rotary_dim = 6, "rotary_dim: expected an even number up to head_dim = 4, found 6");
    MISTAKE(false, p.rotary_interleaved = 2, "rotary_interleaved: expected 0 or 1, found 2");
}

static void test_tensors(void **state)
{
    (void)state;
    MISTAKE(false, p.k.data = NULL, "k.data: expected a pointer to [2, 2, 3, 4] elements, found NULL");
    MISTAKE(false, p.v_cache.data = NULL, "v_cache.data: expected a pointer to [2, 2, 16, 4] elements, found NULL");
    MISTAKE(true, p.v_cache.data = NULL, "v_cache.data: expected a pointer to [8, 2, 4, 4] elements, found NULL");
    MISTAKE(false, p.k_cache.dtype = FLASHC_BOOL,
            "k_cache.dtype: expected f32, f16, bf16, i8, f8_e4m3, f8_e5m2 or q8_0, found bool (4)");
    MISTAKE(false, p.k_cache.stride[1] = 0,
            "k_cache.stride[1]: the output overlaps itself: found a stride of 0, expected more than the 0 elements "
            "that faster axes span");
    MISTAKE(false, p.rotary_sin.data = NULL,
            "rotary_sin.data: expected a pointer to [1, 1, 16, 2] elements, found NULL");
    flashc_append_params p;
    usual(&p, false);
    p.q_out.stride[3] = 2; /* no longer the same elements */
    p.q_out.stride[2] = 8;
    p.q_out.stride[1] = 24;
    p.q_out.stride[0] = 48;
    assert_int_equal(flashc_append(&p), FLASHC_ERR_ARGUMENT);
    assert_non_null(strstr(flashc_last_error(), "q_out.data: expected memory of its own, found the address of q ("));
    usual(&p, false);
    p.num_heads = 1;
    p.q.stride[0] = p.q_out.stride[0] = 24;
    p.q.stride[2] = p.q_out.stride[2] = 8;
    p.q_out.stride[3] = 2; /* nor here, where all other strides are */
    assert_int_equal(flashc_append(&p), FLASHC_ERR_ARGUMENT);
    assert_non_null(strstr(flashc_last_error(), "q_out.data: expected memory of its own, found the address of q ("));
    usual(&p, false);
    p.q_out.dtype = FLASHC_F16; /* q in place, but for the type: rows would go over those that are still to be read */
    assert_int_equal(flashc_append(&p), FLASHC_ERR_ARGUMENT);
    assert_non_null(strstr(flashc_last_error(), "q_out.data: expected memory of its own, found the address of q ("));
    usual(&p, false);
    p.v_cache.data = p.k_cache.data;
    assert_int_equal(flashc_append(&p), FLASHC_ERR_ARGUMENT);
    assert_non_null(strstr(flashc_last_error(), "found the address of v_cache ("));
}

/* int8 codes, whose scales append writes too. */
static void usual_codes(flashc_append_params *p)
{
    static int8_t k_codes[2 * 2 * 16 * 4], v_codes[2 * 2 * 16 * 4];
    static float k_scale[2 * 2 * 16], v_scale[2 * 2 * 16];
    usual(p, false);
    p->k_cache = flashc_tensor_bhsd(k_codes, FLASHC_I8, 2, 16, 4);
    p->v_cache = flashc_tensor_bhsd(v_codes, FLASHC_I8, 2, 16, 4);
    p->k_cache_scale = flashc_tensor_bhsd(k_scale, FLASHC_F32, 2, 16, 1);
    p->v_cache_scale = flashc_tensor_bhsd(v_scale, FLASHC_F32, 2, 16, 1);
}

static void test_scales(void **state)
{
    (void)state;
    flashc_append_params p;
    char message[128];
    usual_codes(&p);
    expect_ok(flashc_append(&p));
    p.v_cache_scale = p.k_cache_scale; /* the scales of k would be lost */
    snprintf(message, sizeof message, "v_cache_scale.data: expected memory of its own, found the address of "
             "k_cache_scale (%p)", p.k_cache_scale.data);
    expect_argument_error(flashc_append(&p), message);
    p.k_cache.dtype = FLASHC_F8_E4M3; /* read, and written over for v */
    expect_argument_error(flashc_append(&p), message);
    p.k_cache.dtype = FLASHC_I8; /* written over those that are read for v */
    p.v_cache.dtype = FLASHC_F8_E4M3;
    expect_argument_error(flashc_append(&p), message);
    p.k_cache.dtype = FLASHC_F8_E4M3;
    /* Read for both. */
    for (int i = 0; i < 2 * 2 * 16; i++)
        ((float *)p.k_cache_scale.data)[i] = 1.0f;
    expect_ok(flashc_append(&p));
}

/* Scales that are written are outputs like any other, and those that are read inputs. */
static void test_scales_apart(void **state)
{
    (void)state;
    flashc_append_params p;
    char message[128];
    usual_codes(&p);
    p.k_cache_scale.data = p.v.data;
    snprintf(message, sizeof message, "k_cache_scale.data: expected memory of its own, found the address of v (%p)",
             p.v.data);
    expect_argument_error(flashc_append(&p), message);
    usual_codes(&p);
    p.v_cache_scale.data = p.k_cache.data;
    snprintf(message, sizeof message, "k_cache.data: expected memory of its own, found the address of v_cache_scale "
             "(%p)", p.k_cache.data);
    expect_argument_error(flashc_append(&p), message);
    p.k_cache.dtype = p.v_cache.dtype = FLASHC_F8_E4M3; /* read, where codes of k are written */
    expect_argument_error(flashc_append(&p), message);
}

/* A stride whose magnitude no int64_t holds. (No row is new, so that nothing is written there.) */
static void test_stride_without_magnitude(void **state)
{
    (void)state;
    flashc_append_params p;
    usual_codes(&p);
    p.seqlen_new = 0;
    p.k_cache.stride[0] = INT64_MIN;
    expect_ok(flashc_append(&p));
}

static void test_rows(void **state)
{
    (void)state;
    MISTAKE(false, (p.seqlens_new = lengths, lengths[1] = 4), "seqlens_new[1]: expected 0 to seqlen_new = 3, found 4");
    MISTAKE(false, (p.seqlens_new = lengths, lengths[0] = -1),
            "seqlens_new[0]: expected 0 to seqlen_new = 3, found -1");
    MISTAKE(false, (p.cu_seqlens_new = cu, cu[0] = 1), "cu_seqlens_new[0]: expected 0, found 1");
    MISTAKE(false, (p.cu_seqlens_new = cu, cu[1] = 4),
            "cu_seqlens_new[2]: expected at least 4 (the entry before), found 3");
    MISTAKE(false, (p.cu_seqlens_new = cu, cu[2] = 2), "cu_seqlens_new[2]: expected seqlen_new = 3, found 2");
    flashc_append_params p;
    usual(&p, false);
    p.seqlens_new = lengths;
    p.cu_seqlens_new = cu;
    assert_int_equal(flashc_append(&p), FLASHC_ERR_ARGUMENT);
    assert_non_null(strstr(flashc_last_error(), "seqlens_new: expected NULL beside cu_seqlens_new"));
}

static void test_positions(void **state)
{
    (void)state;
    static const int64_t rotary_positions[2] = {13, 14};
    MISTAKE(false, p.positions = NULL, "positions: expected one per sequence, found NULL");
    MISTAKE(false, (p.positions = NULL, p.k.data = p.v.data = p.k_cache.data = p.v_cache.data = NULL),
            "positions: expected one per sequence, found NULL"); /* q alone is turned by them too */
    MISTAKE(false, positions[1] = -1, "positions[1]: expected 0 to 13 (3 new rows, the cache has 16 rows), found -1");
    MISTAKE(false, positions[0] = 14, "positions[0]: expected 0 to 13 (3 new rows, the cache has 16 rows), found 14");
    MISTAKE(false, positions[0] = INT64_MAX,
            "positions[0]: expected 0 to 13 (3 new rows, the cache has 16 rows), found 9223372036854775807");
    MISTAKE(true, positions[1] = 15, "positions[1]: expected 0 to 13 (3 new rows, block_table has 16 rows), found 15");
    MISTAKE(false, (p.k.data = p.k_cache.data = p.q.data = p.q_out.data = NULL, p.rotary_dim = 0, positions[1] = 14),
            "positions[1]: expected 0 to 13 (3 new rows, the cache has 16 rows), found 14"); /* of V alone too */
    MISTAKE(true, (p.block_table_v = p.block_table, p.block_table_v.max_pages = 1),
            "positions[0]: expected 0 to 1 (3 new rows, block_table_v has 4 rows), found 2");
    MISTAKE(false, (p.rotary_len = 4), "positions[0]: expected 0 to 1 (3 new rows, rotary_cos has 4 rows), found 2");
    MISTAKE(false, p.rotary_positions = rotary_positions,
            "rotary_positions[1]: expected 0 to 13 (3 new rows, rotary_cos has 16 rows), found 14");
}

static void test_pages(void **state)
{
    (void)state;
    MISTAKE(true, p.block_table.page_size = 0, "block_table.page_size: expected 1 to 2^48, found 0");
    MISTAKE(true, p.block_table.num_pages = -1, "block_table.num_pages: expected 0 to 2^48, found -1");
    MISTAKE(true, p.block_table.stride[0] = INT64_MAX / 8,
            "block_table.stride[0]: 1152921504606846975 entries times size 2 leaves the 64-bit address range");
    MISTAKE(true, pages[1][1] = 8, "block_table[1][1]: expected a page 0 to 7, found 8");
    MISTAKE(true, pages[0][0] = -1, "block_table[0][0]: expected a page 0 to 7, found -1");
    MISTAKE(true, pages[1][1] = 0,
            "block_table[1][1]: expected a page that no other entry has written in this call, found 0");
    MISTAKE(true, (p.block_table_v = p.block_table, p.block_table_v.pages = pages_v[0], pages_v[0][1] = 9),
            "block_table_v[0][1]: expected a page 0 to 7, found 9");
    MISTAKE(true, (p.block_table_v = p.block_table, p.block_table_v.pages = pages_v[0], pages_v[0][1] = 0),
            "block_table_v[0][1]: expected a page that no other entry has written in this call, found 0");
    MISTAKE(true, (p.block_table_v = p.block_table, p.block_table_v.page_size = 0),
            "block_table_v.page_size: expected 1 to 2^48, found 0");
    MISTAKE(true, (p.block_table_v = p.block_table, p.block_table.pages = NULL),
            "block_table.pages: block_table_v needs it too, found NULL");
    flashc_append_params p;
    char message[128];
    usual(&p, true);
    p.block_table.pages = (const int32_t *)(const void *)((const char *)pages + 1);
    snprintf(message, sizeof message, "block_table.pages: expected an address aligned to 4 bytes, found %p",
             (const void *)p.block_table.pages);
    expect_argument_error(flashc_append(&p), message);
    /* What no new row reaches may be anything. */
    usual(&p, true);
    pages[0][2] = pages[1][3] = -5;
    pages[1][2] = 0;
    expect_ok(flashc_append(&p));
    usual(&p, true);
    positions[0] = positions[1] = 4;
    pages[0][0] = 8;
    pages[1][0] = -5;
    expect_ok(flashc_append(&p));
    usual(&p, true);
    p.seqlens_new = lengths;
    lengths[1] = 0;
    pages[1][0] = 0;
    expect_ok(flashc_append(&p));
    usual(&p, true);
    p.k.data = p.v.data = p.k_cache.data = p.v_cache.data = NULL; /* queries alone go into no page */
    memset(pages, 0, sizeof pages);
    expect_ok(flashc_append(&p));
    p.rotary_positions = positions;
    p.positions = NULL;
    expect_ok(flashc_append(&p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_usual_calls),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_scales),
        cmocka_unit_test(test_scales_apart),
        cmocka_unit_test(test_stride_without_magnitude),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_positions),
        cmocka_unit_test(test_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
