/* The arrays of a call: acquired, their types and shapes checked, laid on the axes of flashc.h. */
#include "python/core/arguments.h"
#include "python/core/call.h"

static const char *const tensor_name[N_TENSORS] = {"q", "k", "v", "out", "lse", "mask", "bias"};

enum { BATCH, HEADS, ROWS, COLS };

flashc_tensor flashc_py_call_tensor(const flashc_py_view *view, int bshd, int64_t size[4])
{
    flashc_tensor tensor = {.data = view->data, .dtype = view->dtype};
    for (int i = 0; i < 4; i++)
        size[i] = 1;
    for (int i = 0; i < view->ndim; i++) {
        const int axis = flashc_py_axis_of(view->ndim, i, bshd);
        tensor.stride[axis] = view->stride[i];
        size[axis] = view->shape[i];
    }
    return tensor;
}

/* lse: q without its last axis, in the order batch, heads, rows whatever the layout. */
static flashc_tensor lse_tensor(const flashc_py_view *view, int64_t size[4])
{
    flashc_tensor tensor = {.data = view->data, .dtype = view->dtype};
    for (int i = 0; i < 4; i++)
        size[i] = 1;
    for (int i = 0; i < view->ndim; i++) {
        tensor.stride[ROWS - view->ndim + 1 + i] = view->stride[i];
        size[ROWS - view->ndim + 1 + i] = view->shape[i];
    }
    return tensor;
}

static int check_size(const flashc_py_call *c, int tensor, const char *what, int64_t found, int64_t expected, int like)
{
    char shape[256], like_shape[256];
    if (found == expected)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected %s %lld as in %s %s, found %lld in %s", tensor_name[tensor], what,
                 (long long)expected, tensor_name[like],
                 flashc_py_shape_text(like_shape, sizeof like_shape, c->view[like].shape, c->view[like].ndim),
                 (long long)found,
                 flashc_py_shape_text(shape, sizeof shape, c->view[tensor].shape, c->view[tensor].ndim));
    return -1;
}

/* Arrays of the other layout are seen here: the heads of one are the rows of the other. */
static int check_groups(const flashc_py_call *c, int64_t heads, int64_t heads_k)
{
    char shape[256], q_shape[256];
    if (heads_k < 1 || heads % heads_k == 0) /* the library refuses what is less than 1 */
        return 0;
    PyErr_Format(PyExc_ValueError,
                 "k: expected a number of heads (axis %d in layout '%s') that divides the %lld of q %s, found %lld in "
                 "%s",
                 c->bshd ? -2 : -3, c->bshd ? "bshd" : "bhsd", (long long)heads,
                 flashc_py_shape_text(q_shape, sizeof q_shape, c->view[Q].shape, c->view[Q].ndim), (long long)heads_k,
                 flashc_py_shape_text(shape, sizeof shape, c->view[K].shape, c->view[K].ndim));
    return -1;
}

/* why: said after the number that is expected. */
static int check_rank(const flashc_py_call *c, int tensor, int expected, const char *why)
{
    char shape[256];
    if (c->view[tensor].ndim == expected)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected %d axes%s, found %d: %s", tensor_name[tensor], expected, why,
                 c->view[tensor].ndim,
                 flashc_py_shape_text(shape, sizeof shape, c->view[tensor].shape, c->view[tensor].ndim));
    return -1;
}

/* Of q, and of k and v, which may be packed without each other, or in pages. */
static int check_ranks(const flashc_py_call *c)
{
    const bool packed_q = c->sequences[CU_SEQLENS_Q].values, packed_k = c->sequences[CU_SEQLENS_K].values;
    const bool paged = c->sequences[BLOCK_TABLE].narrow;
    const int rank = c->view[Q].ndim;
    if (rank < 2 || rank > 4) {
        char shape[256];
        PyErr_Format(PyExc_ValueError, "q: expected 2, 3 or 4 axes, found %d: %s", rank,
                     flashc_py_shape_text(shape, sizeof shape, c->view[Q].shape, rank));
        return -1;
    }
    if (packed_q && check_rank(c, Q, 3, " (packed)"))
        return -1;
    const int rank_k = paged ? 4 : packed_k ? 3 : packed_q ? 4 : rank;
    const char *why = paged ? " (pages)" : packed_k ? " (packed)" : packed_q ? " (a batch)" : ", as many as q";
    return check_rank(c, K, rank_k, why) || check_rank(c, V, rank_k, why) || check_rank(c, O, rank, ", as many as q");
}

/* mask and bias: right-aligned against [batch, heads, seqlen_q, seqlen_k]; size 1 broadcasts by stride 0. */
static int broadcast(const flashc_py_call *c, int tensor, flashc_tensor *out)
{
    char found[256], expected[256];
    const flashc_py_view *view = &c->view[tensor];
    const int64_t batch = c->params.cu_seqlens_q ? 1 : c->params.batch;
    const int64_t full[4] = {batch, c->params.num_heads, c->params.seqlen_q, c->params.seqlen_k};
    bool fits = view->ndim <= 4;
    *out = (flashc_tensor){.data = view->data, .dtype = view->dtype};
    for (int i = 0; fits && i < view->ndim; i++) {
        const int axis = 4 - view->ndim + i;
        fits = view->shape[i] == full[axis] || view->shape[i] == 1;
        out->stride[axis] = view->shape[i] == 1 ? 0 : view->stride[i];
    }
    if (fits)
        return 0;
    PyErr_Format(PyExc_ValueError,
                 "%s: expected a shape that broadcasts to %s (batch, heads, seqlen_q, seqlen_k), found %s",
                 tensor_name[tensor], flashc_py_shape_text(expected, sizeof expected, full, 4),
                 flashc_py_shape_text(found, sizeof found, view->shape, view->ndim));
    return -1;
}

/* explain's output where the caller has none: packed, of a type given by name. The address is never used. */
static int plan_output(flashc_py_call *c, PyObject *dtype)
{
    flashc_py_view *o = &c->view[O];
    const flashc_py_view *q = &c->view[Q], *v = &c->view[V];
    *o = (flashc_py_view){.name = tensor_name[O], .data = (void *)(uintptr_t)64, .ndim = q->ndim};
    for (flashc_dtype i = FLASHC_F32; i <= FLASHC_BF16; i++)
        if (PyUnicode_CompareWithASCIIString(dtype, flashc_dtype_name(i)) == 0)
            o->dtype = i;
    int64_t packed = 1;
    for (int i = q->ndim - 1; i >= 0; i--) {
        o->shape[i] = i == q->ndim - 1 && v->ndim > 0 ? v->shape[v->ndim - 1] : q->shape[i];
        o->stride[i] = packed;
        if (__builtin_mul_overflow(packed, o->shape[i], &packed)) {
            char shape[256];
            PyErr_Format(PyExc_ValueError, "q: expected an output of fewer than 2^63 elements, found %s",
                         flashc_py_shape_text(shape, sizeof shape, q->shape, q->ndim));
            return -1;
        }
    }
    return 0;
}

/* explain's LSE in the same way. */
static flashc_tensor plan_lse(const int64_t q[4])
{
    flashc_tensor lse = {.data = (void *)(uintptr_t)128, .dtype = FLASHC_F32, .stride = {0, q[ROWS], 1, 0}};
    (void)__builtin_mul_overflow(q[HEADS], q[ROWS], &lse.stride[0]); /* the library refuses so many query rows */
    return lse;
}

/* Every array that is given, of a type that fits its place. */
static int acquire_tensors(flashc_py_call *c, PyObject *const *args, bool plan_only)
{
    for (int i = 0; i < N_TENSORS; i++) {
        flashc_py_view *view = &c->view[i];
        const bool output = i == O || i == LSE, optional = i > O;
        int result;
        if (optional && (args[i] == Py_None || (i == LSE && plan_only && PyUnicode_Check(args[i]))))
            continue;
        if (i == O && plan_only && PyUnicode_Check(args[O]))
            result = plan_output(c, args[O]);
        else if (output)
            result = flashc_py_view_acquire_output(view, args[i], tensor_name[i]);
        else if (i == K || i == V)
            result = flashc_py_view_acquire(view, args[i], tensor_name[i], FLASHC_PY_CACHES);
        else
            result = flashc_py_view_acquire(view, args[i], tensor_name[i], FLASHC_PY_FLOATS);
        if (result != 0)
            return -1;
        if (i == MASK || i == LSE)
            result = flashc_py_view_expect_dtype(view, i == MASK ? FLASHC_BOOL : FLASHC_F32);
        else
            result = flashc_py_view_expect_float(view);
        if (result != 0)
            return -1;
    }
    return 0;
}

int flashc_py_call_set_tensors(flashc_py_call *c, PyObject *const *args, int bshd, bool plan_only)
{
    flashc_attention_params *p = &c->params;
    int64_t q[4], k[4], v[4], o[4], lse[4];
    if (acquire_tensors(c, args, plan_only) != 0)
        return -1;
    const flashc_py_integers *s = c->sequences;
    if (check_ranks(c) != 0)
        return -1;
    p->q = flashc_py_call_tensor(&c->view[Q], bshd, q);
    p->k = flashc_py_call_tensor(&c->view[K], bshd, k);
    p->v = flashc_py_call_tensor(&c->view[V], bshd, v);
    p->o = flashc_py_call_tensor(&c->view[O], bshd, o);
    const bool packed_q = s[CU_SEQLENS_Q].values, own_v = s[BLOCK_TABLE_V].narrow;
    const bool padded_k = !s[CU_SEQLENS_K].values && !s[BLOCK_TABLE].narrow;
    p->batch = packed_q ? s[CU_SEQLENS_Q].shape[0] - 1 : q[BATCH];
    p->num_heads = q[HEADS], p->seqlen_q = q[ROWS], p->head_dim = q[COLS];
    p->num_heads_k = k[HEADS], p->head_dim_v = v[COLS];
    const int64_t pages = s[BLOCK_TABLE].narrow ? s[BLOCK_TABLE].shape[1] : 1;
    if (__builtin_mul_overflow(pages, k[ROWS], &p->seqlen_k))
        p->seqlen_k = INT64_MAX; /* of pages that only claim to be so large: refused as seqlen_k */
    if ((padded_k && !packed_q && check_size(c, K, "batch", k[BATCH], q[BATCH], Q)) ||
        check_size(c, K, "head_dim", k[COLS], q[COLS], Q) || check_groups(c, q[HEADS], k[HEADS]) ||
        (!own_v && check_size(c, V, padded_k ? "batch" : "pages", v[BATCH], k[BATCH], K)) ||
        check_size(c, V, "number of heads", v[HEADS], k[HEADS], K) ||
        (!own_v && check_size(c, V, "number of keys", v[ROWS], k[ROWS], K)) ||
        check_size(c, O, "batch", o[BATCH], q[BATCH], Q) ||
        check_size(c, O, "number of heads", o[HEADS], q[HEADS], Q) ||
        check_size(c, O, "number of queries", o[ROWS], q[ROWS], Q) || check_size(c, O, "head_dim", o[COLS], v[COLS], V))
        return -1;
    if (padded_k && k[BATCH] != p->batch) {
        PyErr_Format(PyExc_ValueError, "k: expected batch %lld, one for each of cu_seqlens_q's sequences, found %lld",
                     (long long)p->batch, (long long)k[BATCH]);
        return -1;
    }
    if (flashc_py_call_set_sequences(c, k, v) != 0)
        return -1;
    if (plan_only && PyUnicode_Check(args[LSE])) {
        p->lse = plan_lse(q);
    } else if (args[LSE] != Py_None) {
        if (check_rank(c, LSE, c->view[Q].ndim - 1, ", one less than q"))
            return -1;
        p->lse = lse_tensor(&c->view[LSE], lse);
        if (check_size(c, LSE, "batch", lse[BATCH], q[BATCH], Q) ||
            check_size(c, LSE, "number of heads", lse[HEADS], q[HEADS], Q) ||
            check_size(c, LSE, "number of queries", lse[ROWS], q[ROWS], Q))
            return -1;
    }
    if ((args[MASK] != Py_None && broadcast(c, MASK, &p->mask)) ||
        (args[BIAS] != Py_None && broadcast(c, BIAS, &p->bias)))
        return -1;
    return 0;
}
