/* Types of q, k, v and o: every combination on every kernel, and what is refused of scales and blocks. */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/kernels.h"
#include "support/stream.h"

#include <math.h>
#include <string.h>

static const flashc_dtype floats[] = {FLASHC_F32, FLASHC_F16, FLASHC_BF16};
static const flashc_dtype caches[] = {FLASHC_F32,     FLASHC_F16,     FLASHC_BF16, FLASHC_I8,
                                      FLASHC_F8_E4M3, FLASHC_F8_E5M2, FLASHC_Q8_0};
enum { FLOATS = 3, CACHES = 7 };

static void every_combination(const char *kernel)
{
    int n = 0;
    for (int q = 0; q < FLOATS; q++)
        for (int k = 0; k < CACHES; k++)
            for (int v = 0; v < CACHES; v++, n++) {
                problem p;
                const problem_shape shape = {1, 2, 1, 3, 150 + n % 40, 32 + 32 * (n % 3), 64 - 32 * (n % 2)};
                const problem_shape fits = shape_for(kernel, shape);
                problem_typed(&p, &fits, floats[q], caches[k], caches[v], floats[n % FLOATS], (uint64_t)n);
                p.params.kernel = kernel;
                run_and_check(&p);
                problem_free(&p);
            }
}

/* V's infinity times its row's scale: of 0 it is NaN, of 2 infinity, in its column of the rows that see it; the rest is
 * as ever, scales too. */
static void infinity_times_scale(const char *kernel)
{
    problem p;
    const problem_shape fits = shape_for(kernel, (problem_shape){1, 1, 1, 4, 300, 32, 32});
    problem_typed(&p, &fits, FLASHC_F32, FLASHC_I8, FLASHC_F8_E5M2, FLASHC_F32, 7);
    p.params.kernel = kernel;
    problem_add_mask(&p);
    test_set(&p.params.v, 0, 0, 200, 1, (double)INFINITY);
    test_set(&p.params.v_scale, 0, 0, 200, 0, 0.0);
    test_set(&p.params.v, 0, 0, 270, 9, -(double)INFINITY);
    test_set(&p.params.v_scale, 0, 0, 270, 0, 2.0);
    for (int64_t i = 0; i < fits.seqlen_q; i += 3) { /* rows 0 and 3 see neither */
        test_set(&p.params.mask, 0, 0, i, 200, 0.0);
        test_set(&p.params.mask, 0, 0, i, 270, 0.0);
    }
    run_and_check(&p);
    for (int64_t i = 0; i < fits.seqlen_q; i++) {
        const double a = test_get(&p.params.o, 0, 0, i, 1), b = test_get(&p.params.o, 0, 0, i, 9);
        if (i % 3 == 0 ? !isfinite(a) || !isfinite(b) : !isnan(a) || b != -(double)INFINITY)
            fail_msg("%s: row %d has %g and %g", kernel, (int)i, a, b);
    }
    problem_free(&p);
}

static const problem_shape shape = {2, 4, 2, 3, 40, 64, 32};

static void refuses(problem *p, const char *message)
{
    char harm[256];
    problem_snapshot(p);
    expect_argument_error(flashc_attention_fwd(&p->params), message);
    if (!problem_unharmed(p, true, harm, sizeof harm))
        fail_msg("%s", harm);
}

static void test_types_refused(void **state)
{
    (void)state;
    problem p;
    problem_plain(&p, &shape, FLASHC_I8, 1);
    p.params.q.dtype = FLASHC_I8;
    refuses(&p, "q.dtype: expected f32, f16 or bf16, found i8 (5)");
    p.params.q.dtype = FLASHC_F32;
    p.params.k.dtype = FLASHC_BOOL;
    refuses(&p, "k.dtype: expected f32, f16, bf16, i8, f8_e4m3, f8_e5m2 or q8_0, found bool (4)");
    p.params.k.dtype = (flashc_dtype)9;
    refuses(&p, "k.dtype: expected f32, f16, bf16, i8, f8_e4m3, f8_e5m2 or q8_0, found ? (9)");
    p.params.k.dtype = FLASHC_I8;
    p.params.o.dtype = FLASHC_F8_E4M3;
    refuses(&p, "o.dtype: expected f32, f16 or bf16, found f8_e4m3 (6)");
    problem_free(&p);
}

static void test_scales_missing_or_too_many(void **state)
{
    (void)state;
    problem p;
    problem_plain(&p, &shape, FLASHC_I8, 1);
    const flashc_tensor k_scale = p.params.k_scale, v_scale = p.params.v_scale;
    p.params.k_scale.data = NULL;
    refuses(&p, "k_scale.data: expected a scale for each row with k of type i8, found NULL");
    p.params.k_scale = k_scale;
    p.params.v_scale.data = NULL;
    refuses(&p, "v_scale.data: expected a scale for each row with v of type i8, found NULL");
    p.params.v_scale = v_scale;
    p.params.k_scale.dtype = FLASHC_F16;
    refuses(&p, "k_scale.dtype: expected f32, found f16 (2)");
    problem_free(&p);

    problem_plain(&p, &shape, FLASHC_F32, 1);
    float one = 1.0f;
    char message[128];
    p.params.v_scale = (flashc_tensor){.data = &one, .dtype = FLASHC_F32};
    snprintf(message, sizeof message, "v_scale.data: expected NULL with v of type f32, found %p", (void *)&one);
    refuses(&p, message);
    problem_free(&p);
    problem_plain(&p, &shape, FLASHC_Q8_0, 1);
    p.params.k_scale = (flashc_tensor){.data = &one, .dtype = FLASHC_F32};
    snprintf(message, sizeof message, "k_scale.data: expected NULL with k of type q8_0, found %p", (void *)&one);
    refuses(&p, message);
    problem_free(&p);
}

/* Bad scales by index and value, wherever a vector of them may be looked at; 0 and -0 are fine. */
static void test_bad_scales(void **state)
{
    (void)state;
    static const struct {
        float value;
        const char *text;
    } bad[] = {{NAN, "nan"}, {INFINITY, "inf"}, {-INFINITY, "-inf"}, {-1e-30f, "-1e-30"}, {-0.5f, "-0.5"}};
    problem p;
    problem_plain(&p, &shape, FLASHC_I8, 1);
    char message[160];
    for (int n = 0; n < 5; n++)
        for (int64_t j = 0; j < shape.seqlen_k; j += 3) {
            test_set(&p.params.v_scale, 1, 0, j, 0, (double)bad[n].value);
            snprintf(message, sizeof message, "v_scale[1][0][%lld]: expected a finite value, 0 or more, found %s",
                     (long long)j, bad[n].text);
            refuses(&p, message);
            test_set(&p.params.v_scale, 1, 0, j, 0, j % 2 ? 0.0 : -0.0);
        }
    run_and_check(&p);
    test_set(&p.params.k_scale, 0, 1, 39, 0, (double)NAN);
    refuses(&p, "k_scale[0][1][39]: expected a finite value, 0 or more, found nan");
    /* Plans do not look at them; nor does a call whose keys end before. */
    (void)plan_of(&p);
    int64_t *seqlens_k = problem_add_array(&p, ARRAY_SEQLENS_K, 39);
    run_and_check(&p);
    seqlens_k[0] = 40;
    refuses(&p, "k_scale[0][1][39]: expected a finite value, 0 or more, found nan");
    problem_free(&p);
}

static void test_one_scale_a_head(void **state)
{
    (void)state;
    problem p;
    problem_plain(&p, &shape, FLASHC_F8_E5M2, 1);
    float scales[2] = {0.25f, 3.0f};
    p.params.k_scale = p.params.v_scale = (flashc_tensor){.data = scales, .dtype = FLASHC_F32, .stride = {0, 1, 0, 0}};
    p.zero_mean = false;
    run_and_check(&p);
    p.params.k_scale.data = NULL;
    run_and_check(&p);
    scales[1] = -1.0f;
    refuses(&p, "v_scale[0][1][0]: expected a finite value, 0 or more, found -1");
    problem_free(&p);
}

/* The scales of all keys of a call are looked at, and no others: whole heads or the first keys of each, side by side or
 * apart; of a chunk its own. */
static void test_which_scales_are_looked_at(void **state)
{
    (void)state;
    problem p;
    problem_plain(&p, &shape, FLASHC_I8, 1);
    flashc_tensor *scale = &p.params.k_scale;
    int64_t *seqlens_k = problem_add_array(&p, ARRAY_SEQLENS_K, 30);
    test_set(scale, 1, 1, 29, 0, (double)NAN);
    refuses(&p, "k_scale[1][1][29]: expected a finite value, 0 or more, found nan");
    seqlens_k[1] = 29;
    run_and_check(&p);

    float apart[2 * 2 * 2 * 40];
    for (int i = 0; i < 2 * 2 * 2 * 40; i++)
        apart[i] = i % 2 == 0 ? 0.5f : NAN;
    p.params.seqlens_k = NULL;
    *scale = (flashc_tensor){.data = apart, .dtype = FLASHC_F32, .stride = {160, 40, 2, 0}};
    p.zero_mean = false;
    run_and_check(&p);
    for (int i = 1; i < 2 * 2 * 2 * 40; i += 2)
        apart[i] = 0.5f;
    test_set(scale, 1, 1, 39, 0, -1.0);
    refuses(&p, "k_scale[1][1][39]: expected a finite value, 0 or more, found -1");
    test_set(scale, 1, 1, 39, 0, 1.0);

    test_stream s = test_stream_begin(&p.params);
    problem_snapshot(&p);
    test_stream_chunk(&s, &p.params, 0, 20);
    test_set(scale, 0, 0, 19, 0, (double)NAN); /* those keys have been taken */
    test_stream_chunk(&s, &p.params, 20, 20);
    test_set(scale, 0, 0, 19, 0, 0.5);
    expect_ok(flashc_attention_finish(&s.state, &p.params));
    check_exact(&p);
    test_stream_free(&s);
    problem_free(&p);
}

/* A bad scale in a page is named by page and row; rows of a page beyond the sequence may hold anything. */
static void test_scales_in_pages(void **state)
{
    (void)state;
    problem p;
    problem_plain(&p, &shape, FLASHC_I8, 1);
    const int32_t pages[2][3] = {{0, 2, 5}, {4, 1, 3}};
    flashc_attention_params *s = &p.params;
    s->block_table = (flashc_block_table){
        .pages = &pages[0][0], .stride = {3, 1}, .max_pages = 3, .num_pages = 5, .page_size = 16};
    s->k.stride[0] = s->k.stride[1] = 16 * s->head_dim;
    s->v.stride[0] = s->v.stride[1] = 16 * s->head_dim_v;
    s->k_scale.stride[0] = s->k_scale.stride[1] = s->v_scale.stride[0] = s->v_scale.stride[1] = 16;
    s->k.stride[1] = s->v.stride[1] = s->k_scale.stride[1] = s->v_scale.stride[1] = 0;
    int64_t *seqlens_k = problem_add_array(&p, ARRAY_SEQLENS_K, 32);
    seqlens_k[1] = 20;
    ((float *)s->v_scale.data)[1 * 16 + 4] = NAN; /* of page 1: the row after the 20 of sequence 1 */
    if (flashc_attention_fwd(s) != FLASHC_OK)
        fail_msg("%s", flashc_last_error());
    seqlens_k[1] = 21;
    refuses(&p, "v_scale[1][0][4]: expected a finite value, 0 or more, found nan");
    problem_free(&p);
}

static void test_blocks(void **state)
{
    (void)state;
    problem p;
    problem_plain(&p, &shape, FLASHC_Q8_0, 1);
    assert_int_equal(p.params.k.stride[2], 2); /* blocks of a row of 64 columns */
    run_and_check(&p);
    p.params.head_dim = 48;
    refuses(&p, "k: expected rows of whole blocks of 32 columns for q8_0, found 48 columns");
    p.params.head_dim = 64;
    p.params.k.stride[3] = 2;
    refuses(&p, "k.stride[3]: expected 1 for q8_0, the blocks of a row being contiguous, found 2");
    p.params.k.stride[3] = 1;
    p.params.v.stride[3] = 5; /* of a single block, so never used */
    run_and_check(&p);
    char message[128];
    p.params.v.data = (char *)p.params.v.data + 1;
    snprintf(message, sizeof message, "v.data: expected an address aligned to 2 bytes, found %p", p.params.v.data);
    refuses(&p, message);
    p.params.v.data = (char *)p.params.v.data - 1;
    problem_free(&p);
}

int main(void)
{
    static kernel_check checks[] = {{every_combination}, {infinity_times_scale}};
    const struct CMUnitTest tests[] = {
        {"every_combination_of_types", test_on_kernels, NULL, NULL, &checks[0]},
        {"infinity_times_scale", test_on_kernels, NULL, NULL, &checks[1]},
        cmocka_unit_test(test_types_refused),
        cmocka_unit_test(test_scales_missing_or_too_many),
        cmocka_unit_test(test_bad_scales),
        cmocka_unit_test(test_one_scale_a_head),
        cmocka_unit_test(test_which_scales_are_looked_at),
        cmocka_unit_test(test_scales_in_pages),
        cmocka_unit_test(test_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
