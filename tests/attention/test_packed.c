/* A random problem, its sequences packed or in pages: the bits of every row as in the padded batch, on every kernel
 * and with whatever else the problem has (masks, positions, lengths, NaN and infinity in V). The padded problems are
 * held to the oracle in test_random.c. */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 60, MAX_TABLE = 20000 };

/* The same problem in another form. */
typedef struct variant {
    flashc_attention_params params;
    guarded_buffer buffer[TENSORS], cu_q, cu_k, pages, pages_v;
} variant;

/* Rows of sequence b in the padded problem's q or k. */
static int64_t rows_of(const int64_t *lengths, int64_t b, int64_t otherwise)
{
    return lengths != NULL ? lengths[b] : otherwise;
}

/* Makes a view of sizes n0 .. n3, [.., row, head, ..] in memory if bshd; ends at a guard page and holds NaN. */
static void make_view(variant *v, problem_tensor which, flashc_tensor *view, const int64_t n[4], bool bshd)
{
    const flashc_dtype dtype = view->dtype;
    *view = bshd ? flashc_tensor_bshd(NULL, dtype, n[1], n[2], n[3])
                 : flashc_tensor_bhsd(NULL, dtype, n[1], n[2], n[3]);
    v->buffer[which] = guarded_alloc(
        (size_t)(n[0] * n[1] * n[2] * n[3] / (dtype == FLASHC_Q8_0 ? 32 : 1)) * flashc_dtype_size(dtype), false);
    memset(v->buffer[which].bytes, dtype == FLASHC_BOOL ? 0 : 0xff, v->buffer[which].size);
    view->data = v->buffer[which].bytes;
    if (which == TENSOR_LSE)
        view->stride[3] = 77; /* not used */
}

static int64_t *pack_lengths(guarded_buffer *buffer, const int64_t *lengths, int64_t batch, int64_t otherwise)
{
    *buffer = guarded_alloc((size_t)(batch + 1) * sizeof(int64_t), false);
    int64_t *cu = (int64_t *)(void *)buffer->bytes;
    cu[0] = 0;
    for (int64_t b = 0; b < batch; b++)
        cu[b + 1] = cu[b] + rows_of(lengths, b, otherwise);
    return cu;
}

/* A table for the keys of p, pages in random order; entries that no length reaches are no pages. */
static flashc_block_table make_table(guarded_buffer *buffer, const problem *p, test_rng *rng)
{
    static const int64_t page_sizes[] = {1, 3, 16, 16, 48, 96, 128, 256};
    const flashc_attention_params *s = &p->params;
    flashc_block_table t = {.page_size = page_sizes[test_rng_next(rng) % 8]};
    t.max_pages = (s->seqlen_k + t.page_size - 1) / t.page_size + test_rng_int(rng, 0, 2);
    t.stride[0] = t.max_pages + test_rng_int(rng, 0, 3);
    t.stride[1] = 1;
    *buffer = guarded_alloc((size_t)(s->batch * t.stride[0] + 1) * sizeof(int32_t), false);
    int32_t *pages = (int32_t *)(void *)buffer->bytes;
    memset(pages, 0xff, buffer->size);
    t.pages = pages;
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t e = 0; e * t.page_size < rows_of(s->seqlens_k, b, s->seqlen_k); e++)
            pages[b * t.stride[0] + e] = (int32_t)t.num_pages++;
    /* Neighbours in memory now and then: they are read as one. */
    const int64_t entries = s->batch * t.stride[0];
    for (int64_t i = entries - 1; i > 0 && entries < MAX_TABLE && test_rng_chance(rng, 97); i--) {
        const int64_t j = test_rng_int(rng, 0, i);
        const int32_t page = pages[i];
        if (page >= 0 && pages[j] >= 0) {
            pages[i] = pages[j];
            pages[j] = page;
        }
    }
    return t;
}

/* Copies k or v of the padded problem to where the variant has it. */
static void copy_keys(const problem *p, variant *v, problem_tensor which, const flashc_block_table *t)
{
    const flashc_attention_params *s = &p->params;
    const flashc_tensor *from = problem_view(p, which), *to = params_view(&v->params, which);
    int64_t size[4];
    problem_sizes(p, which, size);
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t j = 0; j < rows_of(s->seqlens_k, b, s->seqlen_k); j++) {
            int64_t element = b, row = j;
            if (v->params.cu_seqlens_k != NULL) {
                element = 0;
                row += v->params.cu_seqlens_k[b];
            } else if (t->pages != NULL) {
                element = t->pages[b * t->stride[0] + j / t->page_size];
                row = j % t->page_size;
            }
            for (int64_t h = 0; h < size[1]; h++)
                for (int64_t d = 0; d < size[3]; d++)
                    memcpy(test_at(to, element, h, row, d), test_at(from, b, h, j, d),
                           flashc_dtype_size(from->dtype));
        }
}

/* q, mask or bias: rows by sequence, columns too if they are keys of packed sequences. */
static void copy_rows(const problem *p, const variant *v, problem_tensor which, const flashc_tensor *to)
{
    const flashc_attention_params *s = &p->params;
    const flashc_tensor *from = problem_view(p, which);
    int64_t size[4];
    problem_sizes(p, which, size);
    for (int64_t b = 0; b < s->batch; b++) {
        const int64_t element = v->params.cu_seqlens_q != NULL ? 0 : b;
        const int64_t row = v->params.cu_seqlens_q != NULL ? v->params.cu_seqlens_q[b] : 0;
        const bool by_key = which != TENSOR_Q && v->params.cu_seqlens_k != NULL;
        const int64_t column = by_key ? v->params.cu_seqlens_k[b] : 0;
        const int64_t columns = by_key ? v->params.cu_seqlens_k[b + 1] - column : size[3];
        for (int64_t h = 0; h < size[1]; h++)
            for (int64_t i = 0; i < rows_of(s->seqlens_q, b, s->seqlen_q); i++)
                for (int64_t d = 0; d < columns; d++)
                    memcpy(test_at(to, element, h, row + i, column + d), test_at(from, b, h, i, d),
                           flashc_dtype_size(from->dtype));
    }
}

static void make_variant(variant *v, const problem *p, test_rng *rng)
{
    const flashc_attention_params *s = &p->params;
    *v = (variant){.params = *s};
    flashc_attention_params *t = &v->params;
    const bool packed_q = test_rng_chance(rng, 60), bshd = test_rng_chance(rng, 60);
    const int64_t kind = test_rng_int(rng, packed_q ? 0 : 1, 3); /* of keys: 0 padded, 1 packed, else pages */
    int64_t elements_q = s->batch, elements_k = s->batch, elements_v = s->batch, rows_k = s->seqlen_k;
    int64_t rows_v = s->seqlen_k;
    if (packed_q) {
        t->cu_seqlens_q = pack_lengths(&v->cu_q, s->seqlens_q, s->batch, s->seqlen_q);
        t->seqlens_q = NULL;
        t->seqlen_q = t->cu_seqlens_q[s->batch];
        elements_q = 1;
    }
    if (kind == 1) {
        t->cu_seqlens_k = pack_lengths(&v->cu_k, s->seqlens_k, s->batch, s->seqlen_k);
        t->seqlens_k = NULL;
        rows_k = rows_v = t->seqlen_k = t->cu_seqlens_k[s->batch];
        elements_k = elements_v = 1;
    } else if (kind > 1) {
        t->block_table = make_table(&v->pages, p, rng);
        if (test_rng_chance(rng, 30))
            t->block_table_v = make_table(&v->pages_v, p, rng);
        const flashc_block_table *own = t->block_table_v.pages != NULL ? &t->block_table_v : &t->block_table;
        elements_k = t->block_table.num_pages;
        rows_k = t->block_table.page_size;
        elements_v = own->num_pages;
        rows_v = own->page_size;
    }
    make_view(v, TENSOR_Q, &t->q, (int64_t[]){elements_q, t->num_heads, t->seqlen_q, t->head_dim}, bshd);
    make_view(v, TENSOR_K, &t->k, (int64_t[]){elements_k, t->num_heads_k, rows_k, t->head_dim}, bshd);
    make_view(v, TENSOR_V, &t->v, (int64_t[]){elements_v, t->num_heads_k, rows_v, t->head_dim_v}, bshd);
    make_view(v, TENSOR_O, &t->o, (int64_t[]){elements_q, t->num_heads, t->seqlen_q, t->head_dim_v}, bshd);
    copy_rows(p, v, TENSOR_Q, &t->q);
    copy_keys(p, v, TENSOR_K, &t->block_table);
    copy_keys(p, v, TENSOR_V, t->block_table_v.pages != NULL ? &t->block_table_v : &t->block_table);
    if (s->k_scale.data != NULL) {
        make_view(v, TENSOR_K_SCALE, &t->k_scale, (int64_t[]){elements_k, t->num_heads_k, rows_k, 1}, bshd);
        copy_keys(p, v, TENSOR_K_SCALE, &t->block_table);
    }
    if (s->v_scale.data != NULL) {
        make_view(v, TENSOR_V_SCALE, &t->v_scale, (int64_t[]){elements_v, t->num_heads_k, rows_v, 1}, bshd);
        copy_keys(p, v, TENSOR_V_SCALE, t->block_table_v.pages != NULL ? &t->block_table_v : &t->block_table);
    }
    if (s->lse.data != NULL)
        make_view(v, TENSOR_LSE, &t->lse, (int64_t[]){elements_q, t->num_heads, t->seqlen_q, 1}, false);
    const int64_t scores[4] = {elements_q, t->num_heads, t->seqlen_q, t->seqlen_k};
    if (s->mask.data != NULL) {
        make_view(v, TENSOR_MASK, &t->mask, scores, false);
        copy_rows(p, v, TENSOR_MASK, &t->mask);
    }
    if (s->bias.data != NULL) {
        make_view(v, TENSOR_BIAS, &t->bias, scores, false);
        copy_rows(p, v, TENSOR_BIAS, &t->bias);
    }
}

static void free_variant(variant *v)
{
    for (problem_tensor which = TENSOR_Q; which < TENSORS; which++)
        guarded_free(&v->buffer[which]);
    guarded_free(&v->cu_q);
    guarded_free(&v->cu_k);
    guarded_free(&v->pages);
    guarded_free(&v->pages_v);
}

/* Every row of a sequence. */
static void assert_same_rows(const problem *p, const variant *v, problem_tensor which)
{
    const flashc_attention_params *s = &p->params, *t = &v->params;
    const flashc_tensor *a = problem_view(p, which), *b = which == TENSOR_O ? &t->o : &t->lse;
    int64_t size[4];
    problem_sizes(p, which, size);
    for (int64_t n = 0; a->data != NULL && n < s->batch; n++)
        for (int64_t i = 0; i < rows_of(s->seqlens_q, n, s->seqlen_q); i++)
            for (int64_t h = 0; h < size[1]; h++)
                for (int64_t d = 0; d < size[3]; d++) {
                    const int64_t element = t->cu_seqlens_q != NULL ? 0 : n;
                    const int64_t row = i + (t->cu_seqlens_q != NULL ? t->cu_seqlens_q[n] : 0);
                    if (test_get_bits(a, n, h, i, d) == test_get_bits(b, element, h, row, d))
                        continue;
                    problem_print(stderr, p);
                    fail_msg("%s of sequence %lld, head %lld, query %lld, column %lld: padded %.9g, %s q and %s k %.9g",
                             problem_tensor_name(which), (long long)n, (long long)h, (long long)i, (long long)d,
                             test_get(a, n, h, i, d), t->cu_seqlens_q != NULL ? "packed" : "padded",
                             t->cu_seqlens_k != NULL          ? "packed"
                             : t->block_table.pages != NULL   ? "paged"
                                                              : "padded",
                             test_get(b, element, h, row, d));
                }
}

/* More of the problems have sequences of different lengths, and V that is not finite, than problem_random() draws. */
static void make_ragged(problem *p, test_rng *rng)
{
    flashc_attention_params *s = &p->params;
    if (s->seqlens_q == NULL && test_rng_chance(rng, 60)) {
        int64_t *lengths = problem_add_array(p, ARRAY_SEQLENS_Q, s->seqlen_q);
        for (int64_t b = 0; b < s->batch; b++)
            lengths[b] = test_rng_int(rng, 0, s->seqlen_q);
    }
    if (s->seqlens_k == NULL && test_rng_chance(rng, 60)) {
        int64_t *lengths = problem_add_array(p, ARRAY_SEQLENS_K, s->seqlen_k);
        for (int64_t b = 0; b < s->batch; b++)
            lengths[b] = test_rng_int(rng, s->leftpad_k != NULL ? s->leftpad_k[b] : 0, s->seqlen_k);
    }
    if (test_rng_chance(rng, 20) && s->batch > 0 && s->seqlen_k > 0 && s->head_dim_v > 0)
        for (int n = 0; n < 3; n++)
            test_set(&s->v, test_rng_int(rng, 0, s->batch - 1), test_rng_int(rng, 0, s->num_heads_k - 1),
                     test_rng_int(rng, 0, s->seqlen_k - 1), test_rng_int(rng, 0, s->head_dim_v - 1),
                     n == 0 ? (double)NAN : (double)INFINITY);
}

static void packed_and_paged(const char *kernel)
{
    int64_t paged = 0, packed = 0;
    for (uint64_t seed = 1; seed <= COUNT; seed++) {
        problem p;
        variant v;
        test_rng rng = {seed + 5000};
        problem_random(&p, seed, kernel);
        make_ragged(&p, &rng);
        if (run_problem(&p)) {
            make_variant(&v, &p, &rng);
            paged += v.params.block_table.pages != NULL;
            packed += v.params.cu_seqlens_q != NULL || v.params.cu_seqlens_k != NULL;
            if (flashc_attention_fwd(&v.params) != FLASHC_OK) {
                problem_print(stderr, &p);
                fail_msg("%s", flashc_last_error());
            }
            assert_same_rows(&p, &v, TENSOR_O);
            assert_same_rows(&p, &v, TENSOR_LSE);
            free_variant(&v);
        }
        problem_free(&p);
    }
    if (paged == 0 || packed == 0)
        fail_msg("%s: %lld packed and %lld paged problems", kernel, (long long)packed, (long long)paged);
}

int main(void)
{
    static kernel_check check = {packed_and_paged};
    const struct CMUnitTest tests[] = {{"same_bits_padded_packed_and_paged", test_on_kernels, NULL, NULL, &check}};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
