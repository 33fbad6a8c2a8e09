#include "support/form.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SHUFFLED = 20000, OUTPUT_POISON = 0x7f, INPUT_POISON = 0xff };

bool form_is_padded(const form_kind *kind)
{
    return !kind->packed_q && !kind->packed_k && kind->page_size == 0;
}

void layout_strides(flashc_tensor *view, const int64_t size[4], test_layout layout)
{
    const int64_t columns = view->dtype == FLASHC_Q8_0 ? size[3] / 32 : size[3];
    const int64_t heads = layout == LAYOUT_SHARED ? 1 : size[1];
    *view = (flashc_tensor){.dtype = view->dtype, .stride = {heads * size[2] * columns, size[2] * columns, columns, 1}};
    switch (layout) {
    case LAYOUT_BSHD:
        view->stride[1] = columns;
        view->stride[2] = size[1] * columns;
        break;
    case LAYOUT_COLUMNS:
        view->stride[2] = 1;
        view->stride[3] = size[2];
        break;
    case LAYOUT_REVERSED: view->stride[2] = -columns; break;
    case LAYOUT_SHARED: view->stride[1] = 0; break;
    case LAYOUT_BHSD:
    case LAYOUTS: break;
    }
}

/* Rows of sequence b in the padded q or k. */
static int64_t rows_of(const int64_t *lengths, int64_t b, int64_t otherwise)
{
    return lengths != NULL ? lengths[b] : otherwise;
}

/* The first row of k that is a key. */
static int64_t first_row(const flashc_attention_params *p, int64_t b)
{
    return p->leftpad_k != NULL ? p->leftpad_k[b] : 0;
}

/* Ends at a guard page, or starts there. */
static void make_view(test_form *f, problem_tensor which, const int64_t size[4], test_layout layout)
{
    flashc_tensor *view = params_view(&f->params, which);
    guarded_buffer *buffer = &f->buffer[which];
    layout_strides(view, size, layout);
    const int64_t columns = view->dtype == FLASHC_Q8_0 ? size[3] / 32 : size[3];
    const int64_t elements = size[0] * (layout == LAYOUT_SHARED ? 1 : size[1]) * size[2] * columns;
    *buffer = guarded_alloc((size_t)elements * flashc_dtype_size(view->dtype), layout == LAYOUT_REVERSED);
    memset(buffer->bytes, which >= TENSOR_O ? OUTPUT_POISON : view->dtype == FLASHC_BOOL ? 0 : INPUT_POISON,
           buffer->size);
    view->data = buffer->bytes;
    if (layout == LAYOUT_REVERSED && elements > 0)
        view->data = buffer->bytes + (size[2] - 1) * columns * (int64_t)flashc_dtype_size(view->dtype);
    if (size[3] == 1 && which != TENSOR_SCORES)
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

/* A table for the keys of p, pages in random order; entries for rows that are no keys are no pages. */
static flashc_block_table make_table(guarded_buffer *buffer, const flashc_attention_params *p, int64_t page_size,
                                     test_rng *rng)
{
    flashc_block_table t = {.page_size = page_size};
    t.max_pages = (p->seqlen_k + t.page_size - 1) / t.page_size + test_rng_int(rng, 0, 2);
    t.stride[0] = t.max_pages + test_rng_int(rng, 0, 3);
    t.stride[1] = 1;
    *buffer = guarded_alloc((size_t)(p->batch * t.stride[0] + 1) * sizeof(int32_t), false);
    int32_t *pages = (int32_t *)(void *)buffer->bytes;
    memset(pages, 0xff, buffer->size);
    t.pages = pages;
    for (int64_t b = 0; b < p->batch; b++)
        for (int64_t e = first_row(p, b) / t.page_size; e * t.page_size < rows_of(p->seqlens_k, b, p->seqlen_k); e++)
            pages[b * t.stride[0] + e] = (int32_t)t.num_pages++;
    /* Neighbours in memory now and then: they are read as one. */
    const int64_t entries = p->batch * t.stride[0];
    for (int64_t i = entries - 1; i > 0 && entries < MAX_SHUFFLED && test_rng_chance(rng, 97); i--) {
        const int64_t j = test_rng_int(rng, 0, i);
        const int32_t page = pages[i];
        if (page >= 0 && pages[j] >= 0) {
            pages[i] = pages[j];
            pages[j] = page;
        }
    }
    return t;
}

/* Copies k or v, or its scales, of the padded call to where the form has it. */
static void copy_keys(const flashc_attention_params *p, const test_form *f, problem_tensor which,
                      const flashc_block_table *t)
{
    const flashc_tensor *from = params_view((flashc_attention_params *)(uintptr_t)p, which);
    const flashc_tensor *to = params_view((flashc_attention_params *)(uintptr_t)&f->params, which);
    int64_t size[4];
    params_sizes(p, which, size);
    for (int64_t b = 0; b < p->batch; b++)
        for (int64_t j = first_row(p, b); j < rows_of(p->seqlens_k, b, p->seqlen_k); j++) {
            int64_t element = b, row = j;
            if (f->params.cu_seqlens_k != NULL) {
                element = 0;
                row += f->params.cu_seqlens_k[b];
            } else if (t->pages != NULL) {
                element = t->pages[b * t->stride[0] + j / t->page_size];
                row = j % t->page_size;
            }
            for (int64_t h = 0; h < size[1]; h++)
                for (int64_t d = 0; d < size[3]; d++)
                    memcpy(test_at(to, element, h, row, d), test_at(from, b, h, j, d), flashc_dtype_size(from->dtype));
        }
}

/* Where the form has sequence b's part of a tensor with rows by query, and with columns by key if it is of scores; how
 * large that part is in the form. */
typedef struct place {
    int64_t element, row, column, rows, columns;
} place;

static place place_of(const flashc_attention_params *p, const flashc_attention_params *t, problem_tensor which,
                      int64_t b)
{
    int64_t size[4];
    params_sizes(p, which, size);
    place at = {.element = b, .rows = rows_of(p->seqlens_q, b, p->seqlen_q), .columns = size[3]};
    const bool of_scores = which == TENSOR_MASK || which == TENSOR_BIAS || which == TENSOR_SCORES;
    if (t->cu_seqlens_q != NULL) {
        at.element = 0;
        at.row = t->cu_seqlens_q[b];
    } else if (which >= TENSOR_O) {
        at.rows = p->seqlen_q;
    }
    if (of_scores && t->cu_seqlens_k != NULL) {
        at.column = t->cu_seqlens_k[b];
        at.columns = t->cu_seqlens_k[b + 1] - at.column;
    }
    if (which == TENSOR_KEY_MASS) {
        const bool packed = t->cu_seqlens_k != NULL;
        at = (place){.element = packed ? 0 : b, .row = packed ? t->cu_seqlens_k[b] : 0, .columns = 1};
        at.rows = packed ? t->cu_seqlens_k[b + 1] - at.row : p->seqlen_k;
    }
    return at;
}

/* q, mask or bias. */
static void copy_rows(const flashc_attention_params *p, const test_form *f, problem_tensor which)
{
    const flashc_tensor *from = params_view((flashc_attention_params *)(uintptr_t)p, which);
    const flashc_tensor *to = params_view((flashc_attention_params *)(uintptr_t)&f->params, which);
    for (int64_t b = 0; b < p->batch; b++) {
        const place at = place_of(p, &f->params, which, b);
        for (int64_t h = 0; h < p->num_heads; h++)
            for (int64_t i = 0; i < at.rows; i++)
                for (int64_t d = 0; d < at.columns; d++)
                    memcpy(test_at(to, at.element, h, at.row + i, at.column + d), test_at(from, b, h, i, d),
                           flashc_dtype_size(from->dtype));
    }
}

static void make_outputs(test_form *f, int64_t elements_q, test_layout layout)
{
    flashc_attention_params *t = &f->params;
    const int64_t rows[4] = {elements_q, t->num_heads, t->seqlen_q, 1};
    if (t->o.data != NULL)
        make_view(f, TENSOR_O, (int64_t[]){elements_q, t->num_heads, t->seqlen_q, t->head_dim_v}, layout);
    if (t->lse.data != NULL)
        make_view(f, TENSOR_LSE, rows, LAYOUT_BHSD);
    if (t->row_max.data != NULL)
        make_view(f, TENSOR_ROW_MAX, rows, LAYOUT_BHSD);
    if (t->scores.data != NULL)
        make_view(f, TENSOR_SCORES, (int64_t[]){elements_q, t->num_heads, t->seqlen_q, t->seqlen_k}, LAYOUT_BHSD);
    if (t->key_mass.data != NULL)
        make_view(f, TENSOR_KEY_MASS,
                  (int64_t[]){t->cu_seqlens_k != NULL ? 1 : t->batch, t->num_heads, t->seqlen_k, 1}, LAYOUT_BHSD);
}

static void make_keys(test_form *f, const flashc_attention_params *p, const form_kind *kind)
{
    flashc_attention_params *t = &f->params;
    const flashc_block_table *own = t->block_table_v.pages != NULL ? &t->block_table_v : &t->block_table;
    for (problem_tensor which = TENSOR_K; which <= TENSOR_V_SCALE; which++) {
        if (params_view(t, which)->data == NULL && which >= TENSOR_K_SCALE)
            continue;
        if (which >= TENSOR_K_SCALE && params_view(t, which)->stride[0] == 0 && params_view(t, which)->stride[2] == 0)
            continue; /* one a head, as it is */
        const bool of_v = which == TENSOR_V || which == TENSOR_V_SCALE, scales = which >= TENSOR_K_SCALE;
        const flashc_block_table *table = of_v ? own : &t->block_table;
        const bool paged = table->pages != NULL;
        const test_layout layout = of_v ? kind->v : kind->k;
        make_view(f, which,
                  (int64_t[]){paged ? table->num_pages : t->cu_seqlens_k != NULL ? 1 : p->batch, p->num_heads_k,
                              paged ? table->page_size : t->seqlen_k,
                              scales ? 1 : of_v ? p->head_dim_v : p->head_dim},
                  !scales ? layout : layout == LAYOUT_BSHD ? LAYOUT_BHSD : LAYOUT_BSHD); /* unlike the rows */
        copy_keys(p, f, which, table);
    }
}

void form_make(test_form *f, const flashc_attention_params *p, const form_kind *kind, test_rng *rng)
{
    *f = (test_form){.params = *p};
    flashc_attention_params *t = &f->params;
    if (kind->packed_q) {
        t->cu_seqlens_q = pack_lengths(&f->cu_q, p->seqlens_q, p->batch, p->seqlen_q);
        t->seqlens_q = NULL;
        t->seqlen_q = t->cu_seqlens_q[p->batch];
    }
    if (kind->packed_k) {
        t->cu_seqlens_k = pack_lengths(&f->cu_k, p->seqlens_k, p->batch, p->seqlen_k);
        t->seqlens_k = NULL;
        t->seqlen_k = t->cu_seqlens_k[p->batch];
    }
    if (kind->page_size > 0)
        t->block_table = make_table(&f->pages, p, kind->page_size, rng);
    if (kind->page_size_v > 0)
        t->block_table_v = make_table(&f->pages_v, p, kind->page_size_v, rng);
    const int64_t elements_q = kind->packed_q ? 1 : p->batch;
    make_view(f, TENSOR_Q, (int64_t[]){elements_q, p->num_heads, t->seqlen_q, p->head_dim}, kind->q);
    copy_rows(p, f, TENSOR_Q);
    make_keys(f, p, kind);
    for (problem_tensor which = TENSOR_MASK; which <= TENSOR_BIAS; which++)
        if (params_view(t, which)->data != NULL) {
            make_view(f, which, (int64_t[]){elements_q, p->num_heads, t->seqlen_q, t->seqlen_k}, LAYOUT_BHSD);
            copy_rows(p, f, which);
        }
    make_outputs(f, elements_q, kind->o);
    for (problem_tensor which = TENSOR_Q; which < TENSORS; which++) {
        const guarded_buffer *buffer = &f->buffer[which];
        f->before[which] = buffer->size > 0 ? malloc(buffer->size) : NULL;
        if (f->before[which] != NULL)
            memcpy(f->before[which], buffer->bytes, buffer->size);
    }
}

/* Moves an output's results to the padded one, and leaves poison. */
static void collect(const test_form *f, const flashc_attention_params *p, problem_tensor which)
{
    const flashc_tensor *from = params_view((flashc_attention_params *)(uintptr_t)&f->params, which);
    const flashc_tensor *to = params_view((flashc_attention_params *)(uintptr_t)p, which);
    const size_t element = flashc_dtype_size(from->dtype);
    const bool zero = which == TENSOR_O || which == TENSOR_KEY_MASS ||
                      (which == TENSOR_SCORES && p->scores_stage == FLASHC_SCORES_WEIGHTS);
    int64_t size[4];
    params_sizes(p, which, size);
    for (int64_t b = 0; b < p->batch; b++) {
        const place at = place_of(p, &f->params, which, b);
        for (int64_t n = 0; n < size[1] * size[2] * size[3]; n++) {
            const int64_t d = n % size[3], i = n / size[3] % size[2], h = n / size[3] / size[2];
            if (i < at.rows && d < at.columns) {
                unsigned char *result = test_at(from, at.element, h, at.row + i, at.column + d);
                memcpy(test_at(to, b, h, i, d), result, element);
                memset(result, OUTPUT_POISON, element);
            } else {
                test_set(to, b, h, i, d, zero ? 0.0 : -(double)INFINITY);
            }
        }
    }
}

/* Where the keys alone are packed, rows of scores have columns for those of other sequences: do these hold what a
 * hidden key has? Leaves poison there. */
static bool others_are_hidden(const test_form *f)
{
    const flashc_attention_params *p = &f->params;
    const double hidden = p->scores_stage == FLASHC_SCORES_WEIGHTS ? 0.0 : -(double)INFINITY;
    bool all = true;
    for (int64_t b = 0; b < p->batch; b++)
        for (int64_t n = 0; n < p->num_heads * p->seqlen_q * p->seqlen_k; n++) {
            const int64_t j = n % p->seqlen_k, i = n / p->seqlen_k % p->seqlen_q, h = n / p->seqlen_k / p->seqlen_q;
            if (j >= p->cu_seqlens_k[b] && j < p->cu_seqlens_k[b + 1])
                continue;
            all = all && test_get(&p->scores, b, h, i, j) == hidden;
            memset(test_at(&p->scores, b, h, i, j), OUTPUT_POISON, flashc_dtype_size(p->scores.dtype));
        }
    return all;
}

bool form_collect(test_form *f, const flashc_attention_params *p, char *message, size_t size)
{
    for (problem_tensor which = TENSOR_Q; which < TENSORS; which++) {
        const guarded_buffer *buffer = &f->buffer[which];
        if (which >= TENSOR_O && params_view(&f->params, which)->data != NULL)
            collect(f, p, which);
        if (which == TENSOR_SCORES && f->params.scores.data != NULL && f->params.cu_seqlens_k != NULL &&
            f->params.cu_seqlens_q == NULL && !others_are_hidden(f)) {
            snprintf(message, size, "scores in columns of another sequence are not those of hidden keys");
            return false;
        }
        if (f->before[which] != NULL && memcmp(buffer->bytes, f->before[which], buffer->size) != 0) {
            snprintf(message, size, "%s of the packed or paged call was changed where no result belongs",
                     problem_tensor_name(which));
            return false;
        }
    }
    return true;
}

void form_free(test_form *f)
{
    for (problem_tensor which = TENSOR_Q; which < TENSORS; which++) {
        guarded_free(&f->buffer[which]);
        free(f->before[which]);
    }
    guarded_free(&f->cu_q);
    guarded_free(&f->cu_k);
    guarded_free(&f->pages);
    guarded_free(&f->pages_v);
}
