/* flashc_append() into caches of codes: against the same call into f32 caches, code by code where the rule is simple,
 * and what is refused. */
#include "flashc.h"

#include "support/cmocka.h"
#include "support/expect.h"
#include "support/float_mode.h"
#include "support/values.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { BATCH = 2, HEADS = 2, NEW = 3, ROWS = 12, DIM = 64, DIM_V = 32, ROTARY = 16 };

static const int64_t positions[BATCH] = {2, 9};
static float k[BATCH * HEADS * NEW * DIM], v[BATCH * HEADS * NEW * DIM_V], cosine[ROWS * ROTARY / 2],
    sine[ROWS * ROTARY / 2];

/* One cache of K and V with room for any type. */
typedef struct caches {
    unsigned char k[BATCH * HEADS * ROWS * DIM * 4], v[BATCH * HEADS * ROWS * DIM_V * 4];
    float k_scale[BATCH * HEADS * ROWS], v_scale[BATCH * HEADS * ROWS];
} caches;

static caches plain, coded;

static flashc_append_params params_of(caches *c, flashc_dtype dtype)
{
    flashc_append_params p;
    flashc_append_params_init(&p, sizeof p);
    p.batch = BATCH;
    p.num_heads_k = HEADS;
    p.seqlen_new = NEW;
    p.seqlen_cache = ROWS;
    p.head_dim = DIM;
    p.head_dim_v = DIM_V;
    p.k = flashc_tensor_bhsd(k, FLASHC_F32, HEADS, NEW, DIM);
    p.v = flashc_tensor_bhsd(v, FLASHC_F32, HEADS, NEW, DIM_V);
    p.k_cache = flashc_tensor_bhsd(c->k, dtype, HEADS, ROWS, DIM);
    p.v_cache = flashc_tensor_bhsd(c->v, dtype, HEADS, ROWS, DIM_V);
    p.positions = positions;
    p.rotary_dim = ROTARY;
    p.rotary_len = ROWS;
    p.rotary_cos = flashc_tensor_bhsd(cosine, FLASHC_F32, 1, ROWS, ROTARY / 2);
    p.rotary_sin = flashc_tensor_bhsd(sine, FLASHC_F32, 1, ROWS, ROTARY / 2);
    if (dtype == FLASHC_I8 || dtype == FLASHC_F8_E4M3 || dtype == FLASHC_F8_E5M2) {
        p.k_cache_scale = flashc_tensor_bhsd(c->k_scale, FLASHC_F32, HEADS, ROWS, 1);
        p.v_cache_scale = flashc_tensor_bhsd(c->v_scale, FLASHC_F32, HEADS, ROWS, 1);
    }
    return p;
}

static void make_inputs(uint64_t seed)
{
    test_rng rng = {seed};
    for (size_t i = 0; i < sizeof k / sizeof k[0]; i++)
        k[i] = (float)(test_rng_normal(&rng) * (i % 7 ? 1.0 : 6.0));
    for (size_t i = 0; i < sizeof v / sizeof v[0]; i++)
        v[i] = (float)test_rng_normal(&rng);
    for (int i = 0; i < ROWS * ROTARY / 2; i++) {
        cosine[i] = cosf((float)i);
        sine[i] = sinf((float)i);
    }
    memset(&plain, 0x55, sizeof plain);
    memset(&coded, 0x55, sizeof coded);
    for (int i = 0; i < BATCH * HEADS * ROWS; i++)
        coded.k_scale[i] = coded.v_scale[i] = 0.01f + 0.001f * (float)(i % 5);
}

/* How far code * scale may be from x. */
static double bound(flashc_dtype dtype, double x, double scale)
{
    if (dtype == FLASHC_I8)
        return 0.501 * scale;
    if (dtype == FLASHC_Q8_0)
        return 0.501 * scale + (scale < ldexp(1.0, -14) ? ldexp(1.0, -18) : ldexp(fabs(x), -11));
    const double most = dtype == FLASHC_F8_E4M3 ? 448.0 : 57344.0, ratio = fmin(fabs(x) / scale, most);
    return fabs(x) - ratio * scale + scale * test_half_ulp(dtype, ratio) * 1.001 + fabs(x) * 1e-6;
}

static void check_cache(const flashc_tensor *f32, const flashc_tensor *codes, const flashc_tensor *scales, int64_t cols)
{
    for (int64_t b = 0; b < BATCH; b++)
        for (int64_t h = 0; h < HEADS; h++)
            for (int64_t i = 0; i < ROWS; i++) {
                const bool written = i >= positions[b] && i < positions[b] + NEW;
                double scale = scales->data != NULL ? test_get(scales, b, h, i, 0) : 1.0;
                for (int64_t j = 0; j < cols; j++) {
                    if (!written) { /* as it was: 0x55 everywhere */
                        assert_int_equal(*test_at(codes, b, h, i, j), 0x55);
                        continue;
                    }
                    const double x = test_get(f32, b, h, i, j), found = scale * test_get(codes, b, h, i, j);
                    double step = scale;
                    if (codes->dtype == FLASHC_Q8_0) {
                        double largest = 0.0;
                        for (int64_t n = j / 32 * 32; n < j / 32 * 32 + 32; n++)
                            largest = fmax(largest, fabs(test_get(f32, b, h, i, n)));
                        step = largest / 127.0;
                    }
                    if (!(fabs(found - x) <= bound(codes->dtype, x, step)))
                        fail_msg("%s [%lld][%lld][%lld][%lld]: %.9g became %.9g, bound %.3g",
                                 flashc_dtype_name(codes->dtype), (long long)b, (long long)h, (long long)i,
                                 (long long)j, x, found, bound(codes->dtype, x, step));
                }
            }
}

static void codes_are_near_what_f32_caches_get(void **state)
{
    (void)state;
    static const flashc_dtype types[] = {FLASHC_I8, FLASHC_F8_E4M3, FLASHC_F8_E5M2, FLASHC_Q8_0};
    for (uint64_t seed = 1; seed <= 8; seed++)
        for (int t = 0; t < 4; t++) {
            make_inputs(seed);
            const flashc_append_params reference = params_of(&plain, FLASHC_F32);
            flashc_append_params p = params_of(&coded, types[t]);
            for (int axis = 0; axis < 4 && seed % 2 == 0 && types[t] != FLASHC_Q8_0; axis++) {
                p.k_cache.stride[axis] *= 2; /* columns with gaps between them */
                p.v_cache.stride[axis] *= 2;
            }
            expect_ok(flashc_append(&reference));
            expect_ok(flashc_append(&p));
            check_cache(&reference.k_cache, &p.k_cache, &p.k_cache_scale, DIM);
            check_cache(&reference.v_cache, &p.v_cache, &p.v_cache_scale, DIM_V);
        }
}

/* Rows whose scale is near the smallest normal number: of f32 for i8, of f16 (2^-14) for q8_0. */
static void small_rows_are_near_what_f32_caches_get(void **state)
{
    (void)state;
    static const flashc_dtype types[] = {FLASHC_I8, FLASHC_Q8_0};
    static const int exponents[][3] = {{-149, -130, -119}, {-30, -16, -11}};
    for (int t = 0; t < 2; t++)
        for (int e = 0; e < 3; e++) {
            make_inputs(1);
            for (size_t i = 0; i < sizeof k / sizeof k[0]; i++)
                k[i] = ldexpf(k[i], exponents[t][e]);
            flashc_append_params reference = params_of(&plain, FLASHC_F32), p = params_of(&coded, types[t]);
            reference.rotary_dim = p.rotary_dim = 0;
            expect_ok(flashc_append(&reference));
            expect_ok(flashc_append(&p));
            check_cache(&reference.k_cache, &p.k_cache, &p.k_cache_scale, DIM);
        }
}

/* The largest of a row is 127 of its scale, halves go away from 0, and rows of 0, of tiny numbers and of NaN. */
static void known_rows(void **state)
{
    (void)state;
    make_inputs(1);
    float row[DIM] = {127.0f, 0.5f, -0.5f, 1.49f, -127.0f, 2.5f};
    flashc_append_params p = params_of(&coded, FLASHC_I8);
    p.batch = p.num_heads_k = p.seqlen_new = 1;
    p.rotary_dim = 0;
    p.k = flashc_tensor_bhsd(row, FLASHC_F32, 1, 1, DIM);
    p.v = p.v_cache = p.v_cache_scale = (flashc_tensor){0};
    expect_ok(flashc_append(&p));
    const int8_t expected[6] = {127, 1, -1, 1, -127, 3};
    for (int j = 0; j < 6; j++)
        assert_true(test_get(&p.k_cache, 0, 0, positions[0], j) == (double)expected[j]);
    assert_true(coded.k_scale[positions[0]] == 1.0f);
    memset(row, 0, sizeof row);
    expect_ok(flashc_append(&p));
    assert_true(coded.k_scale[positions[0]] == 0.0f && test_get(&p.k_cache, 0, 0, positions[0], 5) == 0.0);
    row[5] = ldexpf(1.0f, -126); /* no scale is below the normal numbers */
    row[8] = ldexpf(1.0f, -128);
    expect_ok(flashc_append(&p));
    assert_true(coded.k_scale[positions[0]] == ldexpf(1.0f, -126));
    assert_true(test_get(&p.k_cache, 0, 0, positions[0], 5) == 1.0);
    assert_true(test_get(&p.k_cache, 0, 0, positions[0], 8) == 0.0);
    row[6] = NAN;
    row[7] = 3.0f;
    expect_ok(flashc_append(&p));
    assert_true(isnan(coded.k_scale[positions[0]]));
    row[6] = -INFINITY;
    expect_ok(flashc_append(&p));
    assert_true(isinf(coded.k_scale[positions[0]]));

    p.k_cache = flashc_tensor_bhsd(coded.k, FLASHC_F8_E4M3, HEADS, ROWS, DIM);
    p.k_cache_scale.data = NULL; /* 1 */
    const float values[4] = {1e9f, -449.0f, INFINITY, 0.3f};
    memcpy(row, values, sizeof values);
    expect_ok(flashc_append(&p));
    const uint32_t f8[4] = {0x7e, 0xfe, 0x7f, 0x2a};
    for (int j = 0; j < 4; j++)
        assert_int_equal(test_get_bits(&p.k_cache, 0, 0, positions[0], j), f8[j]);
    p.k_cache_scale.data = coded.k_scale; /* a finite x stays finite, also where x / scale is not */
    coded.k_scale[positions[0]] = 1e-35f;
    const uint32_t finite[4] = {0x7e, 0xfe, 0x7f, 0x7e};
    expect_ok(flashc_append(&p));
    for (int j = 0; j < 4; j++)
        assert_int_equal(test_get_bits(&p.k_cache, 0, 0, positions[0], j), finite[j]);
    p.k_cache.dtype = FLASHC_F8_E5M2;
    expect_ok(flashc_append(&p));
    const uint32_t wide[4] = {0x7b, 0xfb, 0x7c, 0x7b};
    for (int j = 0; j < 4; j++)
        assert_int_equal(test_get_bits(&p.k_cache, 0, 0, positions[0], j), wide[j]);
    p.k_cache.dtype = FLASHC_F8_E4M3;
    coded.k_scale[positions[0]] = 26.6461315f; /* 1.31250006: in f32 the tie between 1.25 and 1.375 */
    row[0] = 34.9730492f;
    expect_ok(flashc_append(&p));
    assert_true(test_get(&p.k_cache, 0, 0, positions[0], 0) == 1.25);
}

/* Values much wider than keys, whose cache is of f32, and the other way round: only the rows of those that become codes
 * pass through memory of the call's own. */
static void wide_rows_alone_become_codes(void **state)
{
    (void)state;
    enum { WIDE = 1 << 20 }; /* what goes beyond a shorter row leaves the heap */
    static float key[4] = {1.0f, 2.0f, 3.0f, 4.0f}, value[WIDE], keys[4], scale;
    static int8_t codes[WIDE];
    const int64_t position = 0;
    for (int j = 0; j < WIDE; j++)
        value[j] = (float)(j % 255 - 127);
    flashc_append_params p;
    flashc_append_params_init(&p, sizeof p);
    p.seqlen_new = p.seqlen_cache = 1;
    p.head_dim = 4;
    p.head_dim_v = WIDE;
    p.k = flashc_tensor_bhsd(key, FLASHC_F32, 1, 1, 4);
    p.v = flashc_tensor_bhsd(value, FLASHC_F32, 1, 1, WIDE);
    p.k_cache = flashc_tensor_bhsd(keys, FLASHC_F32, 1, 1, 4);
    p.v_cache = flashc_tensor_bhsd(codes, FLASHC_I8, 1, 1, WIDE);
    p.v_cache_scale = flashc_tensor_bhsd(&scale, FLASHC_F32, 1, 1, 1);
    p.positions = &position;
    expect_ok(flashc_append(&p));
    assert_memory_equal(keys, key, sizeof key);
    assert_true(scale == 1.0f);
    for (int j = 0; j < WIDE; j++)
        assert_int_equal(codes[j], j % 255 - 127);
    memset(codes, 0, sizeof codes);
    memset(keys, 0, sizeof keys);
    scale = 0.0f;
    p.head_dim = WIDE;
    p.head_dim_v = 4;
    const flashc_tensor wide = p.v, wide_cache = p.v_cache;
    p.v = p.k;
    p.v_cache = p.k_cache;
    p.k = wide;
    p.k_cache = wide_cache;
    p.k_cache_scale = p.v_cache_scale;
    p.v_cache_scale.data = NULL;
    expect_ok(flashc_append(&p));
    assert_memory_equal(keys, key, sizeof key);
    assert_true(scale == 1.0f);
    for (int j = 0; j < WIDE; j++)
        assert_int_equal(codes[j], j % 255 - 127);
}

static void refuses(const flashc_append_params *p, const char *message)
{
    static caches before;
    before = coded;
    expect_argument_error(flashc_append(p), message);
    assert_memory_equal(&before, &coded, sizeof coded);
}

static void wrong_scales(void **state)
{
    (void)state;
    make_inputs(1);
    flashc_append_params p = params_of(&coded, FLASHC_I8);
    p.k_cache_scale.data = NULL;
    refuses(&p, "k_cache_scale.data: expected a scale for each row with k_cache of type i8, found NULL");
    p = params_of(&coded, FLASHC_I8);
    p.v_cache_scale.stride[2] = 0;
    refuses(&p, "v_cache_scale.stride[2]: the output overlaps itself: found a stride of 0, expected more than the 0 "
                "elements that faster axes span");
    p = params_of(&coded, FLASHC_I8);
    p.v_cache_scale.dtype = FLASHC_BF16;
    refuses(&p, "v_cache_scale.dtype: expected f32, found bf16 (3)");
    p = params_of(&coded, FLASHC_Q8_0);
    p.k_cache_scale = (flashc_tensor){.data = k, .dtype = FLASHC_F32};
    char message[128];
    snprintf(message, sizeof message, "k_cache_scale.data: expected NULL with k_cache of type q8_0, found %p",
             (void *)k);
    refuses(&p, message);
    p = params_of(&coded, FLASHC_I8);
    p.k_cache_scale.data = coded.k; /* of the codes that it says how to read */
    snprintf(message, sizeof message, "k_cache.data: expected memory of its own, found the address of k_cache_scale "
             "(%p)", (void *)coded.k);
    refuses(&p, message);
    p = params_of(&coded, FLASHC_I8);
    p.v = p.v_cache = (flashc_tensor){0};
    snprintf(message, sizeof message, "v_cache_scale.data: expected NULL without v_cache, found %p",
             p.v_cache_scale.data);
    refuses(&p, message);
    p = params_of(&coded, FLASHC_F8_E5M2);
    coded.v_scale[(1 * HEADS + 1) * ROWS + 10] = 0.0f;
    refuses(&p, "v_cache_scale[1][1][10]: expected a finite value above 0, found 0");
    coded.v_scale[(1 * HEADS + 1) * ROWS + 10] = 1.0f;
    coded.k_scale[(1 * HEADS + 1) * ROWS + 11] = -2.0f; /* the last new row */
    refuses(&p, "k_cache_scale[1][1][11]: expected a finite value above 0, found -2");
    coded.k_scale[(1 * HEADS + 1) * ROWS + 11] = 1.0f;
    coded.v_scale[0] = NAN; /* not a row of this call */
    expect_ok(flashc_append(&p));
    p.k.dtype = FLASHC_I8;
    refuses(&p, "k.dtype: expected f32, f16 or bf16, found i8 (5)");
}

/* Of scales in pages the page and its row are named, those of V by V's own table. */
static void wrong_scales_in_pages(void **state)
{
    (void)state;
    enum { PAGE = ROWS / 2 };
    static const int32_t pages[BATCH][2] = {{3, 0}, {1, 2}}, pages_v[BATCH][2] = {{0, 1}, {2, 3}};
    make_inputs(1);
    flashc_append_params p = params_of(&coded, FLASHC_F8_E4M3);
    p.k_cache = flashc_tensor_bhsd(coded.k, FLASHC_F8_E4M3, HEADS, PAGE, DIM);
    p.v_cache = flashc_tensor_bhsd(coded.v, FLASHC_F8_E4M3, HEADS, PAGE, DIM_V);
    p.k_cache_scale = flashc_tensor_bhsd(coded.k_scale, FLASHC_F32, HEADS, PAGE, 1);
    p.v_cache_scale = flashc_tensor_bhsd(coded.v_scale, FLASHC_F32, HEADS, PAGE, 1);
    p.block_table = (flashc_block_table){pages[0], {2, 1}, 2, 2 * BATCH, PAGE};
    p.block_table_v = (flashc_block_table){pages_v[0], {2, 1}, 2, 2 * BATCH, PAGE};
    coded.k_scale[(2 * HEADS + 1) * PAGE + 5] = INFINITY; /* the last new row of all */
    refuses(&p, "k_cache_scale[2][1][5]: expected a finite value above 0, found inf");
    coded.k_scale[(2 * HEADS + 1) * PAGE + 5] = 1.0f;
    coded.v_scale[2] = -1.0f; /* the first */
    refuses(&p, "v_cache_scale[0][0][2]: expected a finite value above 0, found -1");
    coded.v_scale[2] = 1.0f;
    expect_ok(flashc_append(&p));
}

static flashc_status append(void *argument)
{
    return flashc_append(argument);
}

/* Scales that are above 0, if little, and the codes that they give are the same in any floating-point mode. */
static void subnormal_scales(void **state)
{
    (void)state;
    make_inputs(3);
    flashc_append_params p = params_of(&coded, FLASHC_F8_E4M3);
    for (int i = 0; i < BATCH * HEADS * ROWS; i++)
        coded.k_scale[i] = coded.v_scale[i] = 1e-40f;
    for (size_t i = 0; i < sizeof k / sizeof k[0]; i++)
        k[i] *= 1e-39f;
    expect_ok(flashc_append(&p));
    memcpy(&plain, &coded, sizeof plain);
    for (int mode = 0; mode < FLOAT_MODES; mode++) {
        memset(coded.k, 0, sizeof coded.k);
        memset(coded.v, 0, sizeof coded.v);
        expect_ok(in_float_mode(mode, append, &p));
        for (int64_t row = 0; row < BATCH * HEADS; row++) {
            const size_t first = (size_t)(row * ROWS + positions[row / HEADS]);
            assert_memory_equal(&coded.k[first * DIM], &plain.k[first * DIM], NEW * DIM);
            assert_memory_equal(&coded.v[first * DIM_V], &plain.v[first * DIM_V], NEW * DIM_V);
        }
    }
}

/* What has no rows, or no columns, needs no scales. */
static void nothing_to_scale(void **state)
{
    (void)state;
    flashc_append_params p = params_of(&coded, FLASHC_I8);
    p.seqlen_new = p.seqlen_cache = 0;
    p.k_cache.data = p.k_cache_scale.data = p.v_cache_scale.data = NULL;
    static const int64_t nowhere[BATCH];
    p.positions = nowhere;
    p.rotary_dim = 0;
    expect_ok(flashc_append(&p));
    make_inputs(1);
    p = params_of(&coded, FLASHC_I8);
    p.head_dim_v = 0;
    p.v_cache_scale.data = NULL;
    expect_ok(flashc_append(&p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_are_near_what_f32_caches_get),
        cmocka_unit_test(small_rows_are_near_what_f32_caches_get),
        cmocka_unit_test(known_rows),
        cmocka_unit_test(wide_rows_alone_become_codes),
        cmocka_unit_test(wrong_scales),
        cmocka_unit_test(wrong_scales_in_pages),
        cmocka_unit_test(subnormal_scales),
        cmocka_unit_test(nothing_to_scale),
    };
    return cmocka_run_group_tests_name("append to codes", tests, NULL, NULL);
}
