/* Every wrong argument: the status, a message with the argument's name and the value that was found,
 * and outputs as they were. Then what is unusual but valid. */
#include "support/cmocka.h"
#include "support/kernels.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const problem_shape usual = {2, 4, 2, 9, 11, 8, 6};

/* One mistake: what a caller does wrong, and what the message must name. found may be "". */
typedef struct mistake {
    const char *label;
    void (*make)(problem *p);
    flashc_status status;
    const char *name, *found;
} mistake;

static const int64_t one_offset[2] = {0, 0};
static unsigned char workspace[64] __attribute__((aligned(64)));

static void zero_struct(problem *p) { p->params.struct_size = 0; }
static void short_struct(problem *p) { p->params.struct_size = 24; }
static void huge_struct(problem *p) { p->params.struct_size = SIZE_MAX; }
static void negative_batch(problem *p) { p->params.batch = -1; }
static void negative_heads(problem *p) { p->params.num_heads = -4; }
static void negative_heads_k(problem *p) { p->params.num_heads_k = -2; }
static void negative_seqlen_q(problem *p) { p->params.seqlen_q = -9; }
static void negative_seqlen_k(problem *p) { p->params.seqlen_k = INT64_MIN; }
static void zero_head_dim(problem *p) { p->params.head_dim = 0; }
static void negative_head_dim(problem *p) { p->params.head_dim = -8; }
static void negative_head_dim_v(problem *p) { p->params.head_dim_v = -6; }
static void huge_sizes(problem *p) { p->params.batch = p->params.num_heads = p->params.seqlen_q = INT64_MAX / 2; }
static void huge_kv_heads(problem *p)
{
    p->params.batch = p->params.num_heads_k = (int64_t)1 << 40;
    p->params.num_heads = 0;
}
static void huge_sizes_of_no_batch(problem *p)
{
    p->params.batch = 0;
    p->params.num_heads = p->params.seqlen_q = (int64_t)1 << 40;
}
static void no_multiple(problem *p) { p->params.num_heads_k = 3; }
static void no_heads_k(problem *p) { p->params.num_heads_k = 0; }
static void bool_q(problem *p) { p->params.q.dtype = FLASHC_BOOL; }
static void unknown_k(problem *p) { p->params.k.dtype = (flashc_dtype)77; }
static void zero_v(problem *p) { p->params.v.dtype = (flashc_dtype)0; }
static void bool_o(problem *p) { p->params.o.dtype = FLASHC_BOOL; }
static void f16_lse(problem *p) { p->params.lse.dtype = FLASHC_F16; }
static void null_q(problem *p) { p->params.q.data = NULL; }
static void null_k(problem *p) { p->params.k.data = NULL; }
static void null_v(problem *p) { p->params.v.data = NULL; }
static void null_o(problem *p) { p->params.o.data = NULL; }
static void odd_q(problem *p) { p->params.q.data = (char *)p->params.q.data + 2; }
static void odd_k(problem *p) { p->params.k.data = (char *)p->params.k.data + 1; }
static void odd_v(problem *p) { p->params.v.data = (char *)p->params.v.data + 3; }
static void odd_o(problem *p) { p->params.o.data = (char *)p->params.o.data + 2; }
static void odd_lse(problem *p) { p->params.lse.data = (char *)p->params.lse.data + 1; }
static void far_q(problem *p) { p->params.q.stride[0] = INT64_MAX; }
static void far_k(problem *p) { p->params.k.stride[2] = INT64_MAX / 8; }
static void far_v(problem *p) { p->params.v.stride[1] = INT64_MIN; }
static void far_sum(problem *p) { p->params.o.stride[0] = p->params.o.stride[1] = INT64_MAX / 4 / 3 - 5; }
static void nan_scale(problem *p) { p->params.softmax_scale = NAN; }
static void infinite_scale(problem *p) { p->params.softmax_scale = INFINITY; }
static void causal_unset(problem *p) { p->params.causal = 1; }
static void causal_seven(problem *p)
{
    p->params.causal = 7;
    p->params.alignment = FLASHC_ALIGN_TOP_LEFT;
}
static void unknown_alignment(problem *p)
{
    p->params.causal = 1;
    p->params.alignment = (flashc_alignment)9;
    p->params.offsets = one_offset;
}
static void no_offsets(problem *p)
{
    p->params.causal = 1;
    p->params.alignment = FLASHC_ALIGN_EXPLICIT;
}
static void window_unset(problem *p) { p->params.window_left = 4; }
static void right_unset(problem *p) { p->params.window_right = 0; }
static void negative_window(problem *p)
{
    p->params.window_left = -2;
    p->params.alignment = FLASHC_ALIGN_TOP_LEFT;
}
static void negative_right(problem *p) { p->params.window_right = INT64_MIN; }
static void negative_queries(problem *p) { problem_add_array(p, ARRAY_SEQLENS_Q, 9)[1] = -1; }
static void many_queries(problem *p) { problem_add_array(p, ARRAY_SEQLENS_Q, 10); }
static void negative_keys(problem *p) { problem_add_array(p, ARRAY_SEQLENS_K, 11)[0] = INT64_MIN; }
static void many_keys(problem *p) { problem_add_array(p, ARRAY_SEQLENS_K, 0)[1] = 12; }
static void negative_leftpad(problem *p) { problem_add_array(p, ARRAY_LEFTPAD_K, 11)[1] = -3; }
static void long_leftpad(problem *p)
{
    problem_add_array(p, ARRAY_SEQLENS_K, 11)[1] = 5;
    problem_add_array(p, ARRAY_LEFTPAD_K, 5)[1] = 6;
}
static void alibi_unset(problem *p) { problem_add_alibi(p, false); }
static void nan_slope(problem *p)
{
    problem_add_alibi(p, true)[6] = NAN;
    p->params.alignment = FLASHC_ALIGN_TOP_LEFT;
}
static void odd_alibi_stride(problem *p)
{
    problem_add_alibi(p, true);
    p->params.alibi_batch_stride = 3;
    p->params.alignment = FLASHC_ALIGN_TOP_LEFT;
}
static void infinite_sink(problem *p) { problem_add_sinks(p)[2] = INFINITY; }
static void nan_sink(problem *p) { problem_add_sinks(p)[0] = NAN; }
static void negative_softcap(problem *p) { p->params.softcap = -30.0f; }
static void nan_softcap(problem *p) { p->params.softcap = NAN; }
static void infinite_softcap(problem *p) { p->params.softcap = INFINITY; }
static void subnormal_softcap(problem *p) { p->params.softcap = 0x1p-130f; }
static void no_block_m(problem *p)
{
    problem_add_block_mask(p, 4, 4);
    p->params.block_mask_m = 0;
}
static void no_block_n(problem *p)
{
    problem_add_block_mask(p, 4, 4);
    p->params.block_mask_n = -5;
}
static void f32_block_mask(problem *p)
{
    problem_add_block_mask(p, 4, 4);
    p->params.block_mask.dtype = FLASHC_F32;
}
static void far_block_mask(problem *p)
{
    problem_add_block_mask(p, 4, 4);
    p->params.block_mask.stride[1] = INT64_MAX;
}
static void f32_mask(problem *p) { p->params.mask = flashc_tensor_bhsd(p->params.q.data, FLASHC_F32, 0, 0, 0); }
static void bool_bias(problem *p) { p->params.bias = flashc_tensor_bhsd(p->params.q.data, FLASHC_BOOL, 0, 0, 0); }
static void odd_bias(problem *p)
{
    p->params.bias = flashc_tensor_bhsd((char *)p->params.q.data + 1, FLASHC_BF16, 0, 0, 0);
}
static void far_mask(problem *p)
{
    p->params.mask = flashc_tensor_bhsd(p->params.q.data, FLASHC_BOOL, 0, INT64_MAX / 2, 1);
}
static void negative_threads(problem *p) { p->params.num_threads = -3; }
static void unknown_kernel(problem *p) { p->params.kernel = "f32_abacus"; }
static void small_workspace(problem *p)
{
    p->params.workspace = workspace;
    p->params.workspace_size = 1;
}
static void odd_workspace(problem *p)
{
    p->params.workspace = workspace + 8;
    p->params.workspace_size = SIZE_MAX / 2;
}
static void o_rows_alike(problem *p) { p->params.o.stride[2] = 0; }
static void o_columns_alike(problem *p) { p->params.o.stride[3] = 0; }
static void o_interleaved(problem *p)
{
    p->params.o.stride[2] = 4; /* rows of 6 columns, 2 apart: 0 2 4 ... 10 and 4 6 ... */
    p->params.o.stride[3] = 2;
}
static void o_batch_backwards(problem *p) { p->params.o.stride[0] = -p->params.o.stride[1]; }
static void lse_rows_alike(problem *p) { p->params.lse.stride[2] = 0; }
static void o_is_q(problem *p) { p->params.o.data = p->params.q.data; }
static void o_is_v(problem *p) { p->params.o.data = p->params.v.data; }
static void lse_is_k(problem *p) { p->params.lse.data = p->params.k.data; }
static void lse_is_o(problem *p) { p->params.lse.data = p->params.o.data; }
static void offsets_unused(problem *p)
{
    p->params.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
    p->params.offsets = one_offset;
}
static void max_pages_alone(problem *p) { p->params.block_table.max_pages = 3; }
static void num_pages_alone(problem *p) { p->params.block_table_v.num_pages = 3; }
static void page_size_alone(problem *p) { p->params.block_table.page_size = 16; }
static char odd_bytes[64] __attribute__((aligned(64)));
static void odd_offsets(problem *p)
{
    p->params.alignment = FLASHC_ALIGN_EXPLICIT;
    p->params.offsets = (void *)(odd_bytes + 4);
}
static void odd_seqlens_q(problem *p) { p->params.seqlens_q = (void *)(odd_bytes + 1); }
static void odd_seqlens_k(problem *p) { p->params.seqlens_k = (void *)(odd_bytes + 4); }
static void odd_leftpad(problem *p) { p->params.leftpad_k = (void *)(odd_bytes + 2); }
static void odd_cu_q(problem *p) { p->params.cu_seqlens_q = (void *)(odd_bytes + 4); }
static void odd_cu_k(problem *p) { p->params.cu_seqlens_k = (void *)(odd_bytes + 7); }
static void odd_slopes(problem *p)
{
    p->params.alignment = FLASHC_ALIGN_TOP_LEFT;
    p->params.alibi_slopes = (void *)(odd_bytes + 2);
}
static void odd_sinks(problem *p) { p->params.sinks = (void *)(odd_bytes + 1); }

static const mistake mistakes[] = {
    {"struct_size 0", zero_struct, FLASHC_ERR_ARGUMENT, "struct_size", "found 0"},
    {"struct_size 24", short_struct, FLASHC_ERR_ARGUMENT, "struct_size", "24"},
    {"struct_size huge", huge_struct, FLASHC_ERR_ARGUMENT, "struct_size", ""},
    {"batch -1", negative_batch, FLASHC_ERR_ARGUMENT, "batch", "-1"},
    {"num_heads -4", negative_heads, FLASHC_ERR_ARGUMENT, "num_heads", "-4"},
    {"num_heads_k -2", negative_heads_k, FLASHC_ERR_ARGUMENT, "num_heads_k", "-2"},
    {"seqlen_q -9", negative_seqlen_q, FLASHC_ERR_ARGUMENT, "seqlen_q", "-9"},
    {"seqlen_k lowest", negative_seqlen_k, FLASHC_ERR_ARGUMENT, "seqlen_k", "-9223372036854775808"},
    {"head_dim 0", zero_head_dim, FLASHC_ERR_ARGUMENT, "head_dim", "found 0"},
    {"head_dim -8", negative_head_dim, FLASHC_ERR_ARGUMENT, "head_dim", "-8"},
    {"head_dim_v -6", negative_head_dim_v, FLASHC_ERR_ARGUMENT, "head_dim_v", "-6"},
    {"sizes whose product overflows", huge_sizes, FLASHC_ERR_ARGUMENT, "batch", "4611686018427387903"},
    {"such sizes in an empty batch", huge_sizes_of_no_batch, FLASHC_ERR_ARGUMENT, "batch, num_heads", "1099511627776"},
    {"K/V heads whose product overflows", huge_kv_heads, FLASHC_ERR_ARGUMENT, "num_heads_k", "1099511627776"},
    {"4 heads on 3", no_multiple, FLASHC_ERR_ARGUMENT, "num_heads_k", "3"},
    {"4 heads on 0", no_heads_k, FLASHC_ERR_ARGUMENT, "num_heads_k", "0"},
    {"q of bool", bool_q, FLASHC_ERR_ARGUMENT, "q.dtype", "bool"},
    {"k of type 77", unknown_k, FLASHC_ERR_ARGUMENT, "k.dtype", "77"},
    {"v of type 0", zero_v, FLASHC_ERR_ARGUMENT, "v.dtype", "found none"},
    {"o of bool", bool_o, FLASHC_ERR_ARGUMENT, "o.dtype", "bool"},
    {"lse of f16", f16_lse, FLASHC_ERR_ARGUMENT, "lse.dtype", "f16"},
    {"q NULL", null_q, FLASHC_ERR_ARGUMENT, "q.data", "NULL"},
    {"k NULL", null_k, FLASHC_ERR_ARGUMENT, "k.data", "NULL"},
    {"v NULL", null_v, FLASHC_ERR_ARGUMENT, "v.data", "NULL"},
    {"o NULL", null_o, FLASHC_ERR_ARGUMENT, "o.data", "NULL"},
    {"q misaligned", odd_q, FLASHC_ERR_ARGUMENT, "q.data", "0x"},
    {"k misaligned", odd_k, FLASHC_ERR_ARGUMENT, "k.data", "0x"},
    {"v misaligned", odd_v, FLASHC_ERR_ARGUMENT, "v.data", "0x"},
    {"o misaligned", odd_o, FLASHC_ERR_ARGUMENT, "o.data", "0x"},
    {"lse misaligned", odd_lse, FLASHC_ERR_ARGUMENT, "lse.data", "0x"},
    {"q stride overflows", far_q, FLASHC_ERR_ARGUMENT, "q.stride[0]", "9223372036854775807"},
    {"k stride overflows", far_k, FLASHC_ERR_ARGUMENT, "k.stride[2]", "1152921504606846975"},
    {"v stride overflows", far_v, FLASHC_ERR_ARGUMENT, "v.stride[1]", "-9223372036854775808"},
    {"o strides overflow together", far_sum, FLASHC_ERR_ARGUMENT, "o.stride", "768614336404564645"},
    {"scale NaN", nan_scale, FLASHC_ERR_ARGUMENT, "softmax_scale", "nan"},
    {"scale infinite", infinite_scale, FLASHC_ERR_ARGUMENT, "softmax_scale", "inf"},
    {"causal without alignment", causal_unset, FLASHC_ERR_ARGUMENT, "alignment", "UNSET"},
    {"causal 7", causal_seven, FLASHC_ERR_ARGUMENT, "causal", "7"},
    {"alignment 9", unknown_alignment, FLASHC_ERR_ARGUMENT, "alignment", "9"},
    {"explicit without offsets", no_offsets, FLASHC_ERR_ARGUMENT, "offsets", "NULL"},
    {"window without alignment", window_unset, FLASHC_ERR_ARGUMENT, "alignment: window_left", "UNSET"},
    {"right window without alignment", right_unset, FLASHC_ERR_ARGUMENT, "alignment: window_right", "UNSET"},
    {"window_left -2", negative_window, FLASHC_ERR_ARGUMENT, "window_left", "-2"},
    {"window_right lowest", negative_right, FLASHC_ERR_ARGUMENT, "window_right", "-9223372036854775808"},
    {"seqlens_q negative", negative_queries, FLASHC_ERR_ARGUMENT, "seqlens_q[1]: expected 0 to 9", "-1"},
    {"seqlens_q too long", many_queries, FLASHC_ERR_ARGUMENT, "seqlens_q[0]", "10"},
    {"seqlens_k negative", negative_keys, FLASHC_ERR_ARGUMENT, "seqlens_k[0]", "-9223372036854775808"},
    {"seqlens_k too long", many_keys, FLASHC_ERR_ARGUMENT, "seqlens_k[1]: expected 0 to 11", "12"},
    {"leftpad_k negative", negative_leftpad, FLASHC_ERR_ARGUMENT, "leftpad_k[1]", "-3"},
    {"leftpad_k beyond seqlens_k", long_leftpad, FLASHC_ERR_ARGUMENT, "leftpad_k[1]: expected 0 to 5", "6"},
    {"ALiBi without alignment", alibi_unset, FLASHC_ERR_ARGUMENT, "alignment: alibi_slopes", "UNSET"},
    {"slope NaN", nan_slope, FLASHC_ERR_ARGUMENT, "alibi_slopes[6]", "nan"},
    {"alibi_batch_stride 3", odd_alibi_stride, FLASHC_ERR_ARGUMENT, "alibi_batch_stride: expected 0 or num_heads (4)",
     "3"},
    {"sink infinite", infinite_sink, FLASHC_ERR_ARGUMENT, "sinks[2]", "inf"},
    {"sink NaN", nan_sink, FLASHC_ERR_ARGUMENT, "sinks[0]", "nan"},
    {"softcap negative", negative_softcap, FLASHC_ERR_ARGUMENT, "softcap", "-30"},
    {"softcap NaN", nan_softcap, FLASHC_ERR_ARGUMENT, "softcap", "nan"},
    {"softcap infinite", infinite_softcap, FLASHC_ERR_ARGUMENT, "softcap", "inf"},
    {"softcap subnormal", subnormal_softcap, FLASHC_ERR_ARGUMENT, "softcap", "7.34684e-40"},
    {"block mask of 0 rows", no_block_m, FLASHC_ERR_ARGUMENT, "block_mask_m", "found 0"},
    {"block mask of -5 keys", no_block_n, FLASHC_ERR_ARGUMENT, "block_mask_n", "-5"},
    {"block mask of f32", f32_block_mask, FLASHC_ERR_ARGUMENT, "block_mask.dtype", "f32"},
    {"block mask stride overflows", far_block_mask, FLASHC_ERR_ARGUMENT, "block_mask.stride[1]", "9223372036854775807"},
    {"mask of f32", f32_mask, FLASHC_ERR_ARGUMENT, "mask.dtype", "f32"},
    {"mask stride overflows", far_mask, FLASHC_ERR_ARGUMENT, "mask.stride", "4611686018427387903"},
    {"bias of bool", bool_bias, FLASHC_ERR_ARGUMENT, "bias.dtype", "bool"},
    {"bias misaligned", odd_bias, FLASHC_ERR_ARGUMENT, "bias.data", "0x"},
    {"num_threads -3", negative_threads, FLASHC_ERR_ARGUMENT, "num_threads", "-3"},
    {"kernel unknown", unknown_kernel, FLASHC_ERR_ARGUMENT, "kernel", "f32_abacus"},
    {"workspace too small", small_workspace, FLASHC_ERR_WORKSPACE, "workspace_size", "1"},
    {"workspace misaligned", odd_workspace, FLASHC_ERR_WORKSPACE, "workspace", "0x"},
    {"o rows alike", o_rows_alike, FLASHC_ERR_ARGUMENT, "o.stride[2]", "0"},
    {"o columns alike", o_columns_alike, FLASHC_ERR_ARGUMENT, "o.stride[3]", "0"},
    {"o rows interleaved", o_interleaved, FLASHC_ERR_ARGUMENT, "o.stride", "4"},
    {"o batch on the heads", o_batch_backwards, FLASHC_ERR_ARGUMENT, "o.stride", "54"},
    {"lse rows alike", lse_rows_alike, FLASHC_ERR_ARGUMENT, "lse.stride[2]", "0"},
    {"o is q", o_is_q, FLASHC_ERR_ARGUMENT, "o.data", "q"},
    {"o is v", o_is_v, FLASHC_ERR_ARGUMENT, "o.data", "v"},
    {"lse is k", lse_is_k, FLASHC_ERR_ARGUMENT, "lse.data", "k"},
    {"o is lse", lse_is_o, FLASHC_ERR_ARGUMENT, "data", "lse"},
    {"offsets unused", offsets_unused, FLASHC_ERR_ARGUMENT, "offsets: expected NULL without", "0x"},
    {"max_pages alone", max_pages_alone, FLASHC_ERR_ARGUMENT, "block_table.pages: expected", "max_pages, found NULL"},
    {"num_pages alone", num_pages_alone, FLASHC_ERR_ARGUMENT, "block_table_v.pages: expected", "num_pages"},
    {"page_size alone", page_size_alone, FLASHC_ERR_ARGUMENT, "block_table.pages: expected", "page_size"},
    {"offsets misaligned", odd_offsets, FLASHC_ERR_ARGUMENT, "offsets: expected an address aligned to 8", "0x"},
    {"seqlens_q misaligned", odd_seqlens_q, FLASHC_ERR_ARGUMENT, "seqlens_q: expected an address aligned to 8", "0x"},
    {"seqlens_k misaligned", odd_seqlens_k, FLASHC_ERR_ARGUMENT, "seqlens_k: expected an address aligned to 8", "0x"},
    {"leftpad_k misaligned", odd_leftpad, FLASHC_ERR_ARGUMENT, "leftpad_k: expected an address aligned to 8", "0x"},
    {"cu_seqlens_q misaligned", odd_cu_q, FLASHC_ERR_ARGUMENT, "cu_seqlens_q: expected an address aligned", "0x"},
    {"cu_seqlens_k misaligned", odd_cu_k, FLASHC_ERR_ARGUMENT, "cu_seqlens_k: expected an address aligned", "0x"},
    {"alibi_slopes misaligned", odd_slopes, FLASHC_ERR_ARGUMENT, "alibi_slopes: expected an address aligned to", "0x"},
    {"sinks misaligned", odd_sinks, FLASHC_ERR_ARGUMENT, "sinks: expected an address aligned to 4", "0x"},
};

static void test_mistakes(void **state)
{
    (void)state;
    int wrong = 0;
    for (size_t n = 0; n < sizeof mistakes / sizeof mistakes[0]; n++) {
        const mistake *m = &mistakes[n];
        problem p;
        char harm[256] = "";
        problem_plain(&p, &usual, FLASHC_F32, 5);
        m->make(&p);
        problem_snapshot(&p);
        flashc_status status = flashc_attention_fwd(&p.params);
        const char *message = flashc_last_error();
        bool named = strstr(message, m->name) != NULL && strstr(message, m->found) != NULL;
        bool unharmed = problem_unharmed(&p, true, harm, sizeof harm);
        if (status != m->status || !named || !unharmed) {
            wrong++;
            print_error("%s: status \"%s\" (expected \"%s\"), message \"%s\" (expected \"%s\" and \"%s\"), %s\n",
                        m->label, flashc_status_string(status), flashc_status_string(m->status), message, m->name,
                        m->found, unharmed ? "unharmed" : harm);
        }
        problem_free(&p);
    }
    assert_int_equal(wrong, 0);
}

/* The plan's functions refuse what the call refuses; they ignore the workspace. */
static void test_mistakes_in_explain(void **state)
{
    (void)state;
    for (size_t n = 0; n < sizeof mistakes / sizeof mistakes[0]; n++) {
        const mistake *m = &mistakes[n];
        problem p;
        problem_plain(&p, &usual, FLASHC_F32, 5);
        m->make(&p);
        flashc_explanation plan = {.struct_size = sizeof plan};
        size_t size = 12345;
        flashc_status explained = flashc_explain(&p.params, &plan);
        flashc_status measured = flashc_attention_workspace_size(&p.params, &size);
        flashc_status expected = m->status == FLASHC_ERR_WORKSPACE ? FLASHC_OK : m->status;
        if (explained != expected || measured != expected)
            fail_msg("%s: explain says %s, workspace_size says %s", m->label, flashc_status_string(explained),
                     flashc_status_string(measured));
        if (expected != FLASHC_OK)
            assert_int_equal(size, 12345);
        problem_free(&p);
    }
}

static void expect_message(flashc_status status, const char *name)
{
    assert_int_equal(status, FLASHC_ERR_ARGUMENT);
    if (strstr(flashc_last_error(), name) == NULL || strstr(flashc_last_error(), "NULL") == NULL)
        fail_msg("\"%s\" does not name %s and NULL", flashc_last_error(), name);
}

static void test_null(void **state)
{
    (void)state;
    problem p;
    problem_plain(&p, &usual, FLASHC_F32, 5);
    flashc_explanation plan = {.struct_size = sizeof plan};
    size_t size;
    expect_message(flashc_attention_fwd(NULL), "params");
    expect_message(flashc_attention_workspace_size(NULL, &size), "params");
    expect_message(flashc_attention_workspace_size(&p.params, NULL), "size");
    expect_message(flashc_explain(NULL, &plan), "params");
    expect_message(flashc_explain(&p.params, NULL), "out");
    expect_message(flashc_kernel_get(0, NULL), "out");
    expect_message(flashc_system_get(NULL), "out");
    flashc_kernel kernel;
    assert_int_equal(flashc_kernel_get(-1, &kernel), FLASHC_ERR_ARGUMENT);
    assert_non_null(strstr(flashc_last_error(), "-1"));
    assert_int_equal(flashc_kernel_get(flashc_kernel_count(), &kernel), FLASHC_ERR_ARGUMENT);
    problem_free(&p);
}

/* One buffer [B, L, 3, H, D] of q, k and v, and one whose columns are o and lse: views that interleave. */
static void test_interleaved_views(void **state)
{
    (void)state;
    enum { B = 2, L = 9, H = 2, D = 8 };
    static float in[B][L][3][H][D], out[B][H][L][D + 1];
    flashc_attention_params p;
    flashc_attention_params_init(&p, sizeof p);
    p.batch = B, p.num_heads = p.num_heads_k = H;
    p.seqlen_q = p.seqlen_k = L, p.head_dim = p.head_dim_v = D;
    p.q = (flashc_tensor){in[0][0][0], FLASHC_F32, {3 * L * H * D, D, 3 * H * D, 1}};
    p.k = p.v = p.q;
    p.k.data = in[0][0][1], p.v.data = in[0][0][2];
    p.o = (flashc_tensor){out[0][0][0], FLASHC_F32, {H * L * (D + 1), L * (D + 1), D + 1, 1}};
    p.lse = p.o;
    p.lse.data = &out[0][0][0][D];
    assert_int_equal(flashc_attention_fwd(&p), FLASHC_OK);
    p.o = p.q; /* the same buffer's queries */
    assert_int_equal(flashc_attention_fwd(&p), FLASHC_ERR_ARGUMENT);
}

/* A caller of a newer version: what this one does not know must be 0. One that is shorter than the first is refused. */
static void test_struct_versions(void **state)
{
    (void)state;
    static union {
        flashc_attention_params params;
        char bytes[sizeof(flashc_attention_params) + 16];
    } u;
    static const problem_shape one = {1, 4, 2, 9, 11, 8, 6}; /* whose strides a shared prefix takes */
    problem p;
    problem_plain(&p, &one, FLASHC_F32, 5);
    float sums[2][4 * 9], acc[4 * 9 * 6];
    flashc_shared_prefix prefix;
    flashc_shared_prefix_init(&prefix, sizeof prefix);
    flashc_attention_state s;
    assert_int_equal(flashc_attention_state_init(&s, sizeof s, &p.params), FLASHC_OK);
    s.row_max = sums[0], s.row_sum = sums[1], s.acc = acc;
    assert_int_equal(s.levels, 1);
    assert_int_equal(flashc_attention_state_clear(&s), FLASHC_OK);
    static const struct {
        size_t size;
        char byte;
        flashc_status status;
    } callers[] = {{sizeof u.params, 0, FLASHC_OK},
                   {sizeof u, 0, FLASHC_OK},
                   {sizeof u, 1, FLASHC_ERR_UNSUPPORTED},
                   {sizeof u.params - 1, 0, FLASHC_ERR_ARGUMENT}};
    for (size_t n = 0; n < sizeof callers / sizeof callers[0]; n++) {
        u.params = p.params;
        u.params.struct_size = callers[n].size;
        u.bytes[sizeof u - 1] = callers[n].byte;
        flashc_explanation plan = {.struct_size = sizeof plan}, own = plan;
        flashc_attention_state made;
        size_t size;
        const flashc_status results[] = {
            flashc_attention_fwd(&u.params),
            flashc_attention_workspace_size(&u.params, &size),
            flashc_explain(&u.params, &plan),
            flashc_explain_items(&u.params, 0, 0, NULL),
            flashc_attention_shared_prefix(&u.params, &prefix),
            flashc_explain_shared_prefix(&u.params, &prefix, &plan, &own),
            flashc_attention_state_init(&made, sizeof made, &u.params),
            flashc_attention_accumulate_workspace_size(&s, &u.params, &size),
            flashc_attention_accumulate(&s, &u.params),
            flashc_attention_finish(&s, &u.params),
        };
        for (size_t i = 0; i < sizeof results / sizeof results[0]; i++)
            if (results[i] != callers[n].status)
                fail_msg("caller %zu, call %zu: %s", n, i, flashc_status_string(results[i]));
    }
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_mistakes_in_explain),
        cmocka_unit_test(test_interleaved_views),
        cmocka_unit_test(test_struct_versions),
        cmocka_unit_test(test_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
