/* The part of a call that says how sequences lie: packed, or in pages. */
#include "python/core/call.h"

static const char *const names[N_SEQUENCES] = {"cu_seqlens_q", "cu_seqlens_k", "block_table", "block_table_v"};

int flashc_py_call_take_sequences(flashc_py_call *c, PyObject *sequences)
{
    if (sequences == Py_None)
        return 0;
    if (!PyTuple_Check(sequences) || PyTuple_Size(sequences) != N_SEQUENCES) {
        PyErr_Format(PyExc_TypeError, "sequences: expected a tuple of %d, found %R", N_SEQUENCES, sequences);
        return -1;
    }
    for (int i = 0; i < N_SEQUENCES; i++) {
        PyObject *item = PyTuple_GetItem(sequences, i);
        const int result = i >= BLOCK_TABLE ? flashc_py_integers_take_pages(item, names[i], &c->sequences[i])
                                            : flashc_py_integers_take(item, names[i], 1, &c->sequences[i]);
        if (result != 0)
            return -1;
        if (i < BLOCK_TABLE && c->sequences[i].values && c->sequences[i].shape[0] < 1) {
            PyErr_Format(PyExc_ValueError, "%s: expected a number for each sequence and one more, found none",
                         names[i]);
            return -1;
        }
    }
    const flashc_py_integers *s = c->sequences;
    return flashc_py_expect_beside(names[BLOCK_TABLE_V], s[BLOCK_TABLE_V].narrow, names[BLOCK_TABLE], "page numbers",
                                   s[BLOCK_TABLE].narrow) != 0
               ? -1
               : flashc_py_expect_apart(names[CU_SEQLENS_K], s[CU_SEQLENS_K].values, names[BLOCK_TABLE],
                                        s[BLOCK_TABLE].narrow, "where seqlens_k says how many rows are keys");
}

static int set_table(const flashc_py_call *c, int which, const int64_t size[4], flashc_block_table *table)
{
    const flashc_py_integers *pages = &c->sequences[which];
    if (!pages->narrow)
        return 0;
    *table = (flashc_block_table){.pages = pages->narrow,
                                  .stride = {pages->shape[1], 1},
                                  .max_pages = pages->shape[1],
                                  .num_pages = size[0],
                                  .page_size = size[2]};
    return flashc_py_integers_expect(pages, names[which], c->params.batch);
}

int flashc_py_call_set_sequences(flashc_py_call *c, const int64_t k_size[4], const int64_t v_size[4])
{
    flashc_attention_params *p = &c->params;
    const flashc_py_integers *s = c->sequences;
    for (int i = CU_SEQLENS_Q; i <= CU_SEQLENS_K; i++)
        if (flashc_py_integers_expect(&s[i], names[i], p->batch + 1) != 0)
            return -1;
    p->cu_seqlens_q = s[CU_SEQLENS_Q].values;
    p->cu_seqlens_k = s[CU_SEQLENS_K].values;
    return set_table(c, BLOCK_TABLE, k_size, &p->block_table) != 0 ||
                   set_table(c, BLOCK_TABLE_V, v_size, &p->block_table_v) != 0
               ? -1
               : 0;
}

int64_t flashc_py_call_longest(const int64_t *cu_seqlens, int64_t batch, int64_t otherwise)
{
    int64_t longest = 0, rows;
    for (int64_t b = 0; cu_seqlens && b < batch; b++)
        if (!__builtin_sub_overflow(cu_seqlens[b + 1], cu_seqlens[b], &rows) && rows > longest)
            longest = rows;
    return cu_seqlens ? longest : otherwise;
}
