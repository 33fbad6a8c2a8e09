/* A padded problem in another form: its sequences packed, or K and V in pages. */
#ifndef FLASHC_TESTS_FORM_H
#define FLASHC_TESTS_FORM_H

#include "support/problem.h"

#include <stdbool.h>
#include <stddef.h>

/* Orders in memory. */
typedef enum test_layout {
    LAYOUT_BHSD,
    LAYOUT_BSHD,
    LAYOUT_COLUMNS,  /* [batch, heads, dim, seqlen] */
    LAYOUT_REVERSED, /* [batch, heads, seqlen, dim], the last row first */
    LAYOUT_SHARED,   /* [batch, seqlen, dim], the same for all heads */
    LAYOUTS
} test_layout;

/* The strides that it gives a tensor of these sizes and type; lowest: elements before data, 0 but for REVERSED. */
void layout_strides(flashc_tensor *view, const int64_t size[4], test_layout layout);

typedef struct form_kind {
    bool packed_q, packed_k;
    int64_t page_size, page_size_v; /* 0: none; of v, 0: k's table is v's too */
    test_layout q, k, v, o;
} form_kind;

bool form_is_padded(const form_kind *kind);

typedef struct test_form {
    flashc_attention_params params;
    guarded_buffer buffer[TENSORS], cu_q, cu_k, pages, pages_v;
    unsigned char *before[TENSORS];
} test_form;

/* Copies the inputs of padded, which has neither pages nor packed sequences, and makes outputs where padded has some.
 * What is no query or key of a sequence, left padding too, is NaN, or an entry that is no page. */
void form_make(test_form *f, const flashc_attention_params *padded, const form_kind *kind, test_rng *rng);
/* Copies the results to the outputs of padded, and there to what packed sequences do not have what flashc.h says of it.
 * false: the call has changed what is not its own; message says what. */
bool form_collect(test_form *f, const flashc_attention_params *padded, char *message, size_t size);
void form_free(test_form *f);

#endif
