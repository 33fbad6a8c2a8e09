/* One visible key, wherever it stands in a tile and however the others, which are NaN, are hidden: O is its row of V
 * and LSE its score, exactly. On every kernel. */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { QUERIES = 3, DIM = 8, DIM_V = 12 };

/* A mask or bias of so many rows that show this key alone, its elements so far apart. */
static flashc_tensor showing(void *memory, flashc_dtype dtype, int64_t rows, int64_t keys, int64_t apart, int64_t shown)
{
    flashc_tensor t = {.data = memory, .dtype = dtype, .stride = {0, 0, rows > 1 ? keys * apart : 0, apart}};
    for (int64_t n = 0; n < rows * keys * apart; n++) { /* what is between elements shows */
        const bool visible = n % apart != 0 || n / apart % keys == shown;
        test_set(&t, 0, 0, 0, 0, dtype == FLASHC_BOOL ? visible : visible ? 0.0 : -(double)INFINITY);
        t.data = (char *)t.data + flashc_dtype_size(dtype);
    }
    t.data = memory;
    return t;
}

static void set_row(const flashc_tensor *t, int64_t row, int64_t columns, double first, double step)
{
    for (int64_t d = 0; d < columns; d++)
        test_set(t, 0, 0, row, d, first + step * (double)d);
}

/* Runs the call and looks at its results; then forgets how keys were hidden. */
static void check(problem *p, int64_t shown, const char *how)
{
    flashc_attention_params *s = &p->params;
    problem_snapshot(p);
    run_problem(p);
    for (int64_t n = 0; n < 2 * s->seqlen_q * DIM_V; n++) {
        const int64_t h = n / DIM_V / s->seqlen_q, i = n / DIM_V % s->seqlen_q, d = n % DIM_V;
        if (test_get(&s->o, 0, h, i, d) != (double)(shown % 7 + 1 + d) || test_get(&s->lse, 0, h, i, 0) != 0.0)
            fail_msg("%s, %s: of key %lld alone, o[0][%d][%d][%d] is %g, lse %g", s->kernel, how, (long long)shown,
                     (int)h, (int)i, (int)d, test_get(&s->o, 0, h, i, d), test_get(&s->lse, 0, h, i, 0));
    }
    s->mask.data = s->bias.data = s->block_mask.data = NULL;
    s->causal = 0;
    s->window_left = s->window_right = -1;
}

static void hide_by_tensors(problem *p, int64_t shown, void *memory)
{
    static const flashc_dtype types[] = {FLASHC_BOOL, FLASHC_F32, FLASHC_F16, FLASHC_BF16};
    for (int n = 0; n < 16; n++) {
        const flashc_dtype dtype = types[n % 4];
        const flashc_tensor t =
            showing(memory, dtype, n / 8 ? QUERIES : 1, p->params.seqlen_k, 1 + n / 4 % 2, shown);
        *(dtype == FLASHC_BOOL ? &p->params.mask : &p->params.bias) = t;
        check(p, shown, dtype == FLASHC_BOOL ? "mask" : "bias");
    }
}

static void hide_by_positions(problem *p, int64_t shown)
{
    flashc_attention_params *s = &p->params;
    problem_add_array(p, ARRAY_OFFSETS, shown);
    s->alignment = FLASHC_ALIGN_EXPLICIT;
    const int64_t queries = s->seqlen_q;
    s->seqlen_q = 1; /* another query sees another key */
    s->window_left = s->window_right = 0;
    check(p, shown, "window");
    s->window_left = 0;
    s->causal = 1;
    check(p, shown, "causal and window");
    s->seqlen_q = queries;
}

/* Of a key, for both heads, in tiles of two queries and one key. */
static void show_tiles(const flashc_tensor *block_mask, int64_t queries, int64_t key, bool visible)
{
    for (int64_t i = 0; i < queries; i += 2)
        for (int64_t h = 0; h < 2; h++)
            *test_at(block_mask, 0, h, i / 2, key) = visible;
}

static void one_key(const char *kernel)
{
    problem p = problem_on(kernel, (problem_shape){1, 2, 1, QUERIES, 3000, DIM, DIM_V}, FLASHC_F32, 1);
    const int64_t tile = plan_of(&p).block_n, keys = tile + tile / 2 + 5;
    problem_free(&p);
    p = problem_on(kernel, (problem_shape){1, 2, 1, QUERIES, keys, DIM, DIM_V}, FLASHC_F32, 1);
    void *memory = malloc((size_t)(QUERIES * keys * 2) * sizeof(float));
    assert_non_null(memory);
    for (int64_t i = 0; i < 2 * p.params.seqlen_q; i++)
        for (int64_t d = 0; d < DIM; d++)
            test_set(&p.params.q, 0, i % 2, i / 2, d, 0.0);
    for (int64_t j = 0; j < keys; j++) {
        set_row(&p.params.k, j, DIM, (double)NAN, 0.0);
        set_row(&p.params.v, j, DIM_V, (double)NAN, 0.0);
    }
    problem_add_block_mask(&p, 2, 1);
    const flashc_tensor block_mask = p.params.block_mask;
    memset(p.buffer[TENSOR_BLOCK_MASK].bytes, 0, p.buffer[TENSOR_BLOCK_MASK].size);
    p.params.block_mask.data = NULL;
    for (int64_t j = 0; j < keys; j++) {
        set_row(&p.params.k, j, DIM, 0.0, 0.0);
        set_row(&p.params.v, j, DIM_V, (double)(j % 7 + 1), 1.0);
        hide_by_tensors(&p, j, memory);
        hide_by_positions(&p, j);
        p.params.block_mask = block_mask;
        show_tiles(&block_mask, p.params.seqlen_q, j, true);
        check(&p, j, "block mask");
        show_tiles(&block_mask, p.params.seqlen_q, j, false);
        set_row(&p.params.k, j, DIM, (double)NAN, 0.0);
        set_row(&p.params.v, j, DIM_V, (double)NAN, 0.0);
    }
    free(memory);
    problem_free(&p);
}

int main(void)
{
    static kernel_check check_one = {one_key};
    const struct CMUnitTest tests[] = {{"one_key_is_seen", test_on_kernels, NULL, NULL, &check_one}};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
