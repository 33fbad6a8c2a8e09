/* Offsets beyond 32 bits, in address ranges of which only the touched pages exist. */
#include "support/bound.h"
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/form.h"
#include "support/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* NULL, and a loud word, where there is no such range. */
static char *map_range(size_t bytes)
{
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map != MAP_FAILED)
        return map;
    print_message("not run: offsets beyond 32 bits: no address range of %zu bytes here\n", bytes);
    return NULL;
}

/* A view and where it was. */
typedef struct spread {
    flashc_tensor *view, near;
    char *map;
    size_t bytes;
} spread;

/* Moves a tensor of these sizes to where an axis has a stride beyond 2^31 elements (2^32 of one byte), up or down.
 * false: there is no such range. */
static bool spread_axis(spread *s, flashc_tensor *view, const int64_t size[4], int axis, bool down)
{
    const int64_t element = (int64_t)flashc_dtype_size(view->dtype);
    const int64_t step = ((int64_t)1 << (element == 1 ? 32 : 31)) + 64;
    *s = (spread){.view = view, .near = *view, .bytes = (size_t)(step * (size[axis] - 1) * element) + 65536};
    s->map = map_range(s->bytes);
    if (s->map == NULL)
        return false;
    view->stride[axis] = down ? -step : step;
    view->data = s->map + (down ? step * (size[axis] - 1) * element : 0);
    const int64_t block = view->dtype == FLASHC_Q8_0 ? 32 : 1, columns = size[3] / block;
    for (int64_t n = 0; n < size[0] * size[1] * size[2] * columns; n++) {
        const int64_t j = n % columns * block, i = n / columns % size[2], h = n / columns / size[2] % size[1];
        const int64_t b = n / columns / size[2] / size[1];
        memcpy(test_at(view, b, h, i, j), test_at(&s->near, b, h, i, j), (size_t)element);
    }
    return true;
}

static void gather(spread *s)
{
    munmap(s->map, s->bytes);
    *s->view = s->near;
}

static void check(problem *p)
{
    oracle exact;
    oracle_attention(&p->params, &exact);
    check_against(p, &exact, true);
    oracle_free(&exact);
}

/* One tensor of the problem after the other, an axis of it at a time. */
static void far_strides(const char *kernel)
{
    for (problem_tensor which = TENSOR_Q; which < TENSORS; which++)
        for (int variant = 0; variant < 8; variant++) {
            const int axis = variant / 2;
            const bool of_scales = which == TENSOR_K_SCALE || which == TENSOR_V_SCALE;
            const bool of_rows = which == TENSOR_LSE || which == TENSOR_ROW_MAX || which == TENSOR_KEY_MASS;
            problem p;
            spread far;
            int64_t size[4];
            problem_plain(&p, &(problem_shape){2, 2, 2, 3, 3, 2, 2}, of_scales ? FLASHC_I8 : FLASHC_F32, 51);
            p.params.kernel = kernel;
            problem_add_mask(&p);
            problem_add_bias(&p, FLASHC_F32);
            problem_add_block_mask(&p, 2, 2);
            problem_add_outputs(&p, (flashc_score_stage)(variant % 4), FLASHC_F32);
            *test_at(&p.params.block_mask, 1, 0, 1, 1) = 0;
            test_set(&p.params.mask, 1, 1, 2, 0, 0.0);
            test_set(&p.params.mask, 0, 1, 1, 2, 0.0);
            problem_sizes(&p, which, size);
            if (size[axis] > 1 && !(of_rows && axis == 3) &&
                spread_axis(&far, params_view(&p.params, which), size, axis, variant % 2 != 0)) {
                run_problem(&p);
                check(&p);
                gather(&far);
            }
            problem_free(&p);
        }
}

/* K, V and their scales, and the outputs, packed and in pages, of each type of caches: far rows of packed sequences,
 * far pages, far rows of pages. */
static void far_caches(const char *kernel)
{
    static const flashc_dtype types[] = {FLASHC_F32, FLASHC_BF16, FLASHC_I8, FLASHC_F8_E4M3, FLASHC_Q8_0};
    static const int axes[] = {2, 0, 2};
    for (int n = 0; n < 15; n++) {
        problem p;
        test_form f;
        test_rng rng = {1};
        char message[256];
        const int form = n % 3; /* packed, pages by number, rows of pages */
        const form_kind kind = {.packed_q = form != 2, .packed_k = form == 0, .page_size = form > 0 ? 3 : 0,
                                .page_size_v = form == 2 ? 2 : 0};
        const problem_shape shape = {2, 2, 2, 3, 7, 32, 32};
        problem_plain(&p, &shape, types[n / 3], 52);
        p.params.kernel = kernel;
        problem_add_outputs(&p, (flashc_score_stage)(n % 4), FLASHC_F32);
        int64_t *seqlens_k = problem_add_array(&p, ARRAY_SEQLENS_K, 7);
        seqlens_k[0] = 5;
        form_make(&f, &p.params, &kind, &rng);
        for (problem_tensor which = TENSOR_K; which < TENSORS; which++) {
            flashc_tensor *view = params_view(&f.params, which);
            int64_t size[4];
            params_sizes(&p.params, which, size);
            const bool of_v = which == TENSOR_V || which == TENSOR_V_SCALE, of_keys = which <= TENSOR_V_SCALE;
            const bool own = of_v && kind.page_size_v > 0;
            const flashc_block_table *t = own ? &f.params.block_table_v : &f.params.block_table;
            if (of_keys && t->pages != NULL) {
                size[0] = t->num_pages;
                size[2] = t->page_size;
            } else if (which == TENSOR_KEY_MASS ? kind.packed_k : of_keys ? true : kind.packed_q) {
                size[0] = 1;
                size[2] = of_keys || which == TENSOR_KEY_MASS ? f.params.seqlen_k : f.params.seqlen_q;
            }
            if (which == TENSOR_SCORES)
                size[3] = f.params.seqlen_k;
            spread far;
            const int axis = of_keys ? axes[form] : size[0] > 1 ? 0 : 2;
            if (view->data == NULL || !spread_axis(&far, view, size, axis, false))
                continue;
            if (flashc_attention_fwd(&f.params) != FLASHC_OK)
                fail_msg("%s: %s", problem_tensor_name(which), flashc_last_error());
            assert_true(form_collect(&f, &p.params, message, sizeof message) || which >= TENSOR_O);
            check(&p);
            gather(&far);
        }
        form_free(&f);
        problem_free(&p);
    }
}

/* Scores, bias and mask of more than 2^32 elements: two packed sequences without scores of their own, then one at the
 * far end. */
static void far_scores(const char *kernel)
{
    enum { LONG = 66000, OWN = 3, KEYS = 70, DIM = 4, ROWS = LONG + OWN, COLUMNS = LONG + KEYS };
    const int64_t cu_q[] = {0, LONG, LONG, ROWS}, cu_k[] = {0, 0, LONG, COLUMNS};
    if (kernel_most_rows(kernel) < LONG) /* they take no such sequence */
        return;
    problem p;
    problem_plain(&p, &(problem_shape){1, 1, 1, OWN, KEYS, DIM, DIM}, FLASHC_F32, 53);
    p.params.kernel = kernel;
    problem_add_mask(&p);
    problem_add_bias(&p, FLASHC_F32);
    for (int64_t n = 0; n < OWN * KEYS; n++) {
        test_set(&p.params.mask, 0, 0, n / KEYS, n % KEYS, n % 3 != 0);
        test_set(&p.params.bias, 0, 0, n / KEYS, n % KEYS, (double)(n % 7));
    }
    problem_add_outputs(&p, FLASHC_SCORES_WEIGHTS, FLASHC_F32);
    const size_t elements = (size_t)ROWS * COLUMNS, rows = (size_t)COLUMNS * DIM * sizeof(float);
    char *map = map_range(9 * elements + 5 * rows);
    flashc_attention_params far = p.params;
    far.batch = 3;
    far.seqlen_q = ROWS;
    far.seqlen_k = COLUMNS;
    far.cu_seqlens_q = cu_q;
    far.cu_seqlens_k = cu_k;
    far.bias = flashc_tensor_bhsd(map, FLASHC_F32, 1, ROWS, COLUMNS);
    far.scores = flashc_tensor_bhsd(map + 4 * elements, FLASHC_F32, 1, ROWS, COLUMNS);
    far.mask = flashc_tensor_bhsd(map + 8 * elements, FLASHC_BOOL, 1, ROWS, COLUMNS);
    char *at = map + 9 * elements + (8 - 9 * elements % 8);
    flashc_tensor *views[] = {&far.q, &far.k, &far.v, &far.o};
    for (int n = 0; n < 4; n++, at += rows)
        *views[n] = flashc_tensor_bhsd(at, FLASHC_F32, 1, COLUMNS, DIM);
    far.lse = flashc_tensor_bhsd(at, FLASHC_F32, 1, ROWS, 1);
    far.row_max.data = far.key_mass.data = NULL;
    for (int64_t n = 0; map != NULL && n < OWN * KEYS; n++) {
        const int64_t i = n / KEYS, j = n % KEYS;
        *test_at(&far.mask, 0, 0, LONG + i, LONG + j) = *test_at(&p.params.mask, 0, 0, i, j);
        test_set(&far.bias, 0, 0, LONG + i, LONG + j, test_get(&p.params.bias, 0, 0, i, j));
        for (int64_t d = 0; d < DIM; d++) {
            test_set(&far.q, 0, 0, LONG + i, d, test_get(&p.params.q, 0, 0, i, d));
            test_set(&far.k, 0, 0, LONG + j, d, test_get(&p.params.k, 0, 0, j, d));
            test_set(&far.v, 0, 0, LONG + j, d, test_get(&p.params.v, 0, 0, j, d));
        }
    }
    if (map != NULL) {
        expect_ok(flashc_attention_fwd(&far));
        problem twin = problem_twin(&p);
        for (int64_t n = 0; n < OWN * KEYS; n++)
            test_set(&twin.params.scores, 0, 0, n / KEYS, n % KEYS,
                     test_get(&far.scores, 0, 0, LONG + n / KEYS, LONG + n % KEYS));
        for (int64_t n = 0; n < OWN * DIM; n++)
            test_set(&twin.params.o, 0, 0, n / DIM, n % DIM, test_get(&far.o, 0, 0, LONG + n / DIM, n % DIM));
        for (int64_t i = 0; i < OWN; i++)
            test_set(&twin.params.lse, 0, 0, i, 0, test_get(&far.lse, 0, 0, LONG + i, 0));
        twin.params.row_max.data = twin.params.key_mass.data = NULL;
        check(&twin);
        problem_free_twin(&twin);
        munmap(map, 9 * elements + 5 * rows);
    }
    problem_free(&p);
}

/* Says by coordinates what the score_mod below adds; those of the near problem count from this. */
enum { FAR_FIRST = 66000 - 300 };

static double by_coordinates(const test_score_mod *mod, int64_t b, int64_t h, int64_t i, int64_t j)
{
    (void)b, (void)h;
    i += (int64_t)mod->seed;
    j += (int64_t)mod->seed;
    return (double)((i * 3 + j * 5) % 11) + (i * j > INT64_C(1) << 32 ? 2.0 : 0.0);
}

/* Query times key beyond 2^32: the last rows of a long sequence with a window, and the same rows alone. */
static void test_far_coordinates(void **state)
{
    (void)state;
    enum { LONG = 66000, DIM = 8, ROWS = LONG - FAR_FIRST };
    problem p;
    problem_plain(&p, &(problem_shape){1, 1, 1, ROWS, ROWS, DIM, DIM}, FLASHC_F32, 54);
    problem_add_causal(&p, 0);
    p.params.window_left = 40;
    problem_add_score_mod(&p, by_coordinates, FAR_FIRST);
    const size_t rows = (size_t)LONG * DIM * sizeof(float);
    flashc_attention_params far = p.params;
    test_score_mod mod = {.added = by_coordinates, .seed = 0};
    far.score_mod_user_data = &mod;
    far.seqlen_q = far.seqlen_k = LONG;
    flashc_tensor *views[] = {&far.q, &far.k, &far.v, &far.o};
    char *map = calloc(5, rows);
    for (int n = 0; n < 4; n++)
        *views[n] = flashc_tensor_bhsd(map + (size_t)n * rows, FLASHC_F32, 1, LONG, DIM);
    far.lse = flashc_tensor_bhsd(map + 4 * rows, FLASHC_F32, 1, LONG, 1);
    const flashc_tensor *near[] = {&p.params.q, &p.params.k, &p.params.v};
    for (int64_t n = 0; n < 3 * ROWS * DIM; n++)
        test_set(views[n % 3], 0, 0, FAR_FIRST + n / 3 / DIM, n / 3 % DIM,
                 test_get(near[n % 3], 0, 0, n / 3 / DIM, n / 3 % DIM));
    expect_ok(flashc_attention_fwd(&far));
    oracle exact;
    oracle_attention(&p.params, &exact);
    for (int64_t i = 50; i < ROWS; i++) { /* rows before see keys that the near problem does not have */
        for (int64_t d = 0; d < DIM; d++)
            test_set(&p.params.o, 0, 0, i, d, test_get(&far.o, 0, 0, FAR_FIRST + i, d));
        test_set(&p.params.lse, 0, 0, i, 0, test_get(&far.lse, 0, 0, FAR_FIRST + i, 0));
    }
    for (int64_t i = 0; i < 50; i++) {
        for (int64_t d = 0; d < DIM; d++)
            test_set(&p.params.o, 0, 0, i, d, exact.o[i * DIM + d]);
        test_set(&p.params.lse, 0, 0, i, 0, exact.lse[i]);
    }
    check_against(&p, &exact, true);
    oracle_free(&exact);
    free(map);
    problem_free(&p);
}

/* K and V of broadcast rows, as long as sizes go, of which causal shows a few: work and index arithmetic
 * are those of the few. (The sanitizers see an overflow.) */
static void longest_keys(const char *kernel)
{
    static float data[2] = {0.0f, 3.0f};
    static const int64_t offset = 299;
    float o = 0.0f, lse = 0.0f;
    flashc_attention_params p;
    flashc_attention_params_init(&p, sizeof p);
    p.kernel = kernel;
    p.seqlen_q = p.head_dim_v = 1;
    p.seqlen_k = (int64_t)1 << 48;
    p.head_dim = 8192;
    p.q = p.k = (flashc_tensor){.data = &data[0], .dtype = FLASHC_F32};
    p.v = (flashc_tensor){.data = &data[1], .dtype = FLASHC_F32};
    p.o = flashc_tensor_bhsd(&o, FLASHC_F32, 1, 1, 1);
    p.lse = flashc_tensor_bhsd(&lse, FLASHC_F32, 1, 1, 1);
    p.causal = 1;
    p.alignment = FLASHC_ALIGN_EXPLICIT;
    p.offsets = &offset;
    expect_ok(flashc_attention_fwd(&p));
    /* Of the bounds, 8 u and 16 u are left: the scores are 0, and sums of so few ones and threes exact. */
    assert_true(fabsf(o - 3.0f) <= 8 * 0x1p-24f * 3.0f && fabsf(lse - logf(300.0f)) <= 16 * 0x1p-24f * lse);
    p.seqlen_q = 0; /* scores without elements are no work, however many keys and heads there are */
    p.num_heads = p.num_heads_k = (int64_t)1 << 30;
    p.scores = (flashc_tensor){.data = &o, .dtype = FLASHC_F32};
    expect_ok(flashc_attention_fwd(&p));
}

int main(void)
{
    static kernel_check checks[] = {{far_strides}, {far_caches}, {far_scores}, {longest_keys}};
    const struct CMUnitTest tests[] = {
        {"strides_beyond_32_bits", test_on_kernels, NULL, NULL, &checks[0]},
        {"packed_paged_and_quantised", test_on_kernels, NULL, NULL, &checks[1]},
        {"scores_bias_and_mask_of_2_to_the_32_elements", test_on_kernels, NULL, NULL, &checks[2]},
        cmocka_unit_test(test_far_coordinates),
        {"longest_keys", test_on_kernels, NULL, NULL, &checks[3]},
    };
    const char *emulator = getenv("MESON_EXE_WRAPPER");
    if (emulator && *emulator) {
        printf("not run: QEMU keeps a record of every page that is mapped: terabytes take more memory than is here\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
