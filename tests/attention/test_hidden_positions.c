/* Keys that causal, windows, lengths and padding hide leave no trace in any output, bit for bit, whatever they hold:
 * every combination of these, padded, packed, in pages and in chunks, on every kernel. What is hidden from whom is said
 * here once more, key by key. (test_hidden.c has the other ways of hiding.) */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/kernels.h"
#include "support/stream.h"

#include <math.h>
#include <stdlib.h>

enum { BATCH = 2, HEADS = 2, DIM = 16, DIM_V = 12 };

/* Windows in tiles of keys; -1: open. */
typedef struct hiding {
    const char *name;
    int causal;
    double left, right;
} hiding;

static const hiding hidings[] = {
    {"nothing but lengths", 0, -1, -1}, {"causal", 1, -1, -1},
    {"a left window", 0, 0.7, -1},      {"a right window", 0, -1, 0.7},
    {"both windows", 0, 0.7, 0.4},      {"causal and a left window", 1, 0.7, -1},
    {"causal and both windows", 1, 1.2, 0.4}, {"windows of one key", 0, 0, 0},
};

typedef enum call_form { PADDED, LENGTHS, PACKED, PAGES, CHUNKS, CALL_FORMS } call_form;
static const char *const form_names[CALL_FORMS] = {"padded", "lengths and padding", "packed", "pages", "chunks"};

static bool is_visible(const flashc_attention_params *s, int64_t b, int64_t i, int64_t row)
{
    const int64_t leftpad = s->leftpad_k != NULL ? s->leftpad_k[b] : 0;
    const int64_t end = s->seqlens_k != NULL ? s->seqlens_k[b] : s->seqlen_k;
    const int64_t j = row - leftpad, p = i + s->offsets[b];
    return row >= leftpad && row < end && (!s->causal || j <= p) && (s->window_left < 0 || j >= p - s->window_left) &&
           (s->window_right < 0 || j <= p + s->window_right);
}

/* About three tiles of keys, and two of queries where the kernel takes as many; positions in the middle of the keys. */
static void make(problem *p, const char *kernel, flashc_dtype dtype, const hiding *how, call_form form)
{
    problem_shape shape = shape_for(kernel, (problem_shape){BATCH, HEADS, 1, 120, 400, DIM, DIM_V});
    problem_plain(p, &shape, dtype, 3);
    p->params.kernel = kernel;
    const int64_t tile = plan_of(p).block_n < 200 ? plan_of(p).block_n : 200;
    problem_free(p);
    shape.seqlen_k = 3 * tile + 5;
    problem_plain(p, &shape, dtype, 3);
    flashc_attention_params *s = &p->params;
    s->kernel = kernel;
    s->num_threads = 2;
    int64_t *offsets = problem_add_array(p, ARRAY_OFFSETS, (shape.seqlen_k - shape.seqlen_q) / 2);
    offsets[1] += tile / 2;
    s->alignment = FLASHC_ALIGN_EXPLICIT;
    s->causal = how->causal;
    s->window_left = how->left < 0 ? -1 : (int64_t)(how->left * (double)tile);
    s->window_right = how->right < 0 ? -1 : (int64_t)(how->right * (double)tile);
    if (form != PADDED) {
        problem_add_array(p, ARRAY_SEQLENS_K, shape.seqlen_k - 3)[1] = 2 * tile + 1;
        problem_add_array(p, ARRAY_LEFTPAD_K, 0)[1] = form == PACKED ? 2 : tile / 3;
    }
    problem_add_outputs(p, FLASHC_SCORES_WEIGHTS, FLASHC_F32);
    if (form == CHUNKS)
        s->scores.data = s->key_mass.data = NULL;
}

static void run(problem *p, call_form form)
{
    static const form_kind kinds[CALL_FORMS] = {[PACKED] = {.packed_k = true}, [PAGES] = {.page_size = 7}};
    char message[256];
    test_form f;
    test_rng rng = {4};
    problem_snapshot(p);
    if (form == CHUNKS) {
        test_stream s = test_stream_begin(&p->params);
        for (int64_t first = 0, n; first < p->params.seqlen_k; first += n) {
            n = first + 90 < p->params.seqlen_k ? 90 : p->params.seqlen_k - first;
            test_stream_chunk(&s, &p->params, first, n);
        }
        expect_ok(flashc_attention_finish(&s.state, &p->params));
        test_stream_free(&s);
    } else if (form_is_padded(&kinds[form])) {
        expect_ok(flashc_attention_fwd(&p->params));
    } else {
        form_make(&f, &p->params, &kinds[form], &rng);
        expect_ok(flashc_attention_fwd(&f.params));
        if (!form_collect(&f, &p->params, message, sizeof message))
            fail_msg("%s", message);
        form_free(&f);
    }
}

/* Poisons the keys that none of the queries first .. end - 1 sees; how many. */
static int64_t poison(problem *p, int64_t first, int64_t end)
{
    static const double values[] = {(double)NAN, (double)INFINITY, -(double)INFINITY, 65504.0};
    int64_t poisoned = 0;
    for (int64_t b = 0; b < BATCH; b++)
        for (int64_t j = 0; j < p->params.seqlen_k; j++) {
            bool seen = false;
            for (int64_t i = first; i < end && !seen; i++)
                seen = is_visible(&p->params, b, i, j);
            if (seen)
                continue;
            for (int64_t d = 0; d < DIM; d++)
                test_set(&p->params.k, b, 0, j, d, values[(d + j) % 4]);
            for (int64_t d = 0; d < DIM_V; d++)
                test_set(&p->params.v, b, 0, j, d, values[(d + j + 1) % 4]);
            poisoned++;
        }
    return poisoned;
}

/* O and LSE of these queries. */
static void assert_rows_same(const problem *a, const problem *b, int64_t first, int64_t end, const char *what)
{
    for (problem_tensor which = TENSOR_O; which <= TENSOR_ROW_MAX; which++)
        for (int64_t n = 0; n < BATCH * HEADS * (end - first) * DIM_V; n++) {
            const int64_t d = n % DIM_V, i = first + n / DIM_V % (end - first);
            const int64_t head = n / DIM_V / (end - first);
            if (which > TENSOR_O && d > 0)
                continue;
            const uint32_t x = test_get_bits(problem_view(a, which), head / HEADS, head % HEADS, i, d);
            const uint32_t y = test_get_bits(problem_view(b, which), head / HEADS, head % HEADS, i, d);
            if (x != y) {
                problem_print(stderr, b);
                fail_msg("%s: %s of query %lld, which cannot see the poisoned keys, changed from %08x to %08x", what,
                         problem_tensor_name(which), (long long)i, x, y);
            }
        }
}

/* shared: the poisoned keys are hidden from the queries in the middle, others may see them; else from all. */
static int64_t check(const char *kernel, flashc_dtype dtype, const hiding *how, call_form form, bool shared)
{
    char what[128];
    problem clean, dirty;
    make(&clean, kernel, dtype, how, form);
    make(&dirty, kernel, dtype, how, form);
    const int64_t rows = clean.params.seqlen_q, first = shared ? rows / 3 : 0, end = shared ? rows - rows / 3 : rows;
    snprintf(what, sizeof what, "%s, %s", how->name, form_names[form]);
    const int64_t poisoned = poison(&dirty, first, end);
    run(&clean, form);
    run(&dirty, form);
    if (shared)
        assert_rows_same(&clean, &dirty, first, end, what);
    else
        assert_same_bits(&clean, &dirty, what);
    problem_free(&dirty);
    problem_free(&clean);
    return poisoned;
}

static void no_trace(const char *kernel)
{
    for (size_t n = 0; n < sizeof hidings / sizeof hidings[0]; n++)
        for (call_form form = PADDED; form < CALL_FORMS; form++)
            for (int shared = 0; shared < 2; shared++) {
                const flashc_dtype dtype = (n + form) % 2 == 0 ? FLASHC_F32 : FLASHC_BF16;
                const int64_t poisoned = check(kernel, dtype, &hidings[n], form, shared != 0);
                if (poisoned == 0 && (n > 0 || form != PADDED))
                    fail_msg("%s, %s: no key is hidden", hidings[n].name, form_names[form]);
            }
}

int main(void)
{
    static kernel_check hidden = {no_trace};
    const struct CMUnitTest tests[] = {
        {"keys_hidden_by_position_leave_no_trace", test_on_kernels, NULL, NULL, &hidden},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
