#include "python/core/call.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const tensor_name[N_TENSORS] = {"q", "k", "v", "out", "lse", "mask", "bias"};

/* ---- shapes --------------------------------------------------------------------------------------------------- */

enum { BATCH, HEADS, ROWS, COLS };

/* A view of rank 2 to 4 as a flashc_tensor, and its sizes, on the axes batch, heads, rows, columns. */
static flashc_tensor as_tensor(const flashc_py_view *view, int bshd, int64_t size[4])
{
    static const int bhsd_axes[] = {BATCH, HEADS, ROWS, COLS}, bshd_axes[] = {BATCH, ROWS, HEADS, COLS};
    flashc_tensor tensor = {.data = view->data, .dtype = view->dtype};
    for (int i = 0; i < 4; i++)
        size[i] = 1;
    for (int i = 0; i < view->ndim; i++) {
        int axis = (bshd ? bshd_axes : bhsd_axes)[4 - view->ndim + i];
        if (view->ndim == 2)
            axis = i == 0 ? ROWS : COLS;
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
                 (long long)found, flashc_py_shape_text(shape, sizeof shape, c->view[tensor].shape, c->view[tensor].ndim));
    return -1;
}

static int check_rank(const flashc_py_call *c, int tensor, int expected)
{
    char shape[256];
    if (c->view[tensor].ndim == expected)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected %d axes%s, found %d: %s", tensor_name[tensor], expected,
                 tensor == LSE ? ", one less than q" : ", as many as q", c->view[tensor].ndim,
                 flashc_py_shape_text(shape, sizeof shape, c->view[tensor].shape, c->view[tensor].ndim));
    return -1;
}

/* mask and bias: right-aligned against [batch, heads, seqlen_q, seqlen_k]; size 1 broadcasts by stride 0. */
static int broadcast(const flashc_py_call *c, int tensor, flashc_tensor *out)
{
    char found[256], expected[256];
    const flashc_py_view *view = &c->view[tensor];
    const int64_t full[4] = {c->params.batch, c->params.num_heads, c->params.seqlen_q, c->params.seqlen_k};
    bool fits = view->ndim <= 4;
    *out = (flashc_tensor){.data = view->data, .dtype = view->dtype};
    for (int i = 0; fits && i < view->ndim; i++) {
        const int axis = 4 - view->ndim + i;
        fits = view->shape[i] == full[axis] || view->shape[i] == 1;
        out->stride[axis] = view->shape[i] == 1 ? 0 : view->stride[i];
    }
    if (fits)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected a shape that broadcasts to %s (batch, heads, seqlen_q, seqlen_k), found %s",
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

static int set_tensors(flashc_py_call *c, PyObject *const *args, int bshd, bool plan_only)
{
    flashc_attention_params *p = &c->params;
    int64_t q[4], k[4], v[4], o[4], lse[4];
    for (int i = 0; i < N_TENSORS; i++)
        if (i == O && plan_only && PyUnicode_Check(args[O])) {
            if (plan_output(c, args[O]) != 0)
                return -1;
        } else if ((args[i] != Py_None || i <= O) && (i == O || i == LSE ? flashc_py_view_acquire_output : flashc_py_view_acquire)(
                                      &c->view[i], args[i], tensor_name[i]) != 0)
            return -1;
    for (int i = 0; i < N_TENSORS; i++)
        if (c->view[i].name && (i == MASK ? flashc_py_view_expect_dtype(&c->view[i], FLASHC_BOOL)
                                : i == LSE ? flashc_py_view_expect_dtype(&c->view[i], FLASHC_F32)
                                           : flashc_py_view_expect_float(&c->view[i])) != 0)
            return -1;
    const int rank = c->view[Q].ndim;
    if (rank < 2 || rank > 4) {
        char shape[256];
        PyErr_Format(PyExc_ValueError, "q: expected 2, 3 or 4 axes, found %d: %s", rank,
                     flashc_py_shape_text(shape, sizeof shape, c->view[Q].shape, rank));
        return -1;
    }
    if (check_rank(c, K, rank) || check_rank(c, V, rank) || check_rank(c, O, rank))
        return -1;
    p->q = as_tensor(&c->view[Q], bshd, q);
    p->k = as_tensor(&c->view[K], bshd, k);
    p->v = as_tensor(&c->view[V], bshd, v);
    p->o = as_tensor(&c->view[O], bshd, o);
    p->batch = q[BATCH], p->num_heads = q[HEADS], p->seqlen_q = q[ROWS], p->head_dim = q[COLS];
    p->num_heads_k = k[HEADS], p->seqlen_k = k[ROWS], p->head_dim_v = v[COLS];
    if (check_size(c, K, "batch", k[BATCH], q[BATCH], Q) || check_size(c, K, "head_dim", k[COLS], q[COLS], Q) ||
        check_size(c, V, "batch", v[BATCH], q[BATCH], Q) || check_size(c, V, "number of heads", v[HEADS], k[HEADS], K) ||
        check_size(c, V, "number of keys", v[ROWS], k[ROWS], K) || check_size(c, O, "batch", o[BATCH], q[BATCH], Q) ||
        check_size(c, O, "number of heads", o[HEADS], q[HEADS], Q) ||
        check_size(c, O, "number of queries", o[ROWS], q[ROWS], Q) || check_size(c, O, "head_dim", o[COLS], v[COLS], V))
        return -1;
    if (args[LSE] != Py_None) {
        if (check_rank(c, LSE, rank - 1))
            return -1;
        p->lse = lse_tensor(&c->view[LSE], lse);
        if (check_size(c, LSE, "batch", lse[BATCH], q[BATCH], Q) ||
            check_size(c, LSE, "number of heads", lse[HEADS], q[HEADS], Q) ||
            check_size(c, LSE, "number of queries", lse[ROWS], q[ROWS], Q))
            return -1;
    }
    if ((args[MASK] != Py_None && broadcast(c, MASK, &p->mask)) || (args[BIAS] != Py_None && broadcast(c, BIAS, &p->bias)))
        return -1;
    return 0;
}

/* ---- the other arguments ---------------------------------------------------------------------------------------- */

/* Replaces what a conversion raised: TypeError, or ValueError for a number out of range. An exception that says nothing about
 * the argument (KeyboardInterrupt, MemoryError) stays. Returns -1. */
static int wrong_argument(const char *name, const char *expected, PyObject *found)
{
    if (PyErr_Occurred() && (!PyErr_ExceptionMatches(PyExc_Exception) || PyErr_ExceptionMatches(PyExc_MemoryError)))
        return -1;
    PyObject *type = PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_OverflowError) ? PyExc_ValueError : PyExc_TypeError;
    PyErr_Clear();
    PyErr_Format(type, "%s: expected %s, found %R", name, expected, found);
    return -1;
}

/* One int for every batch element, or a sequence of one each. */
static int set_offsets(flashc_py_call *c, PyObject *align)
{
    static const char expected[] = "'top-left', 'bottom-right', a position (int) or one per batch element";
    if (PyBool_Check(align))
        return wrong_argument("align", expected, align);
    Py_ssize_t n = PySequence_Check(align) ? PySequence_Size(align) : -1;
    PyObject *one = NULL;
    if (n < 0) { /* no sequence, or an array without axes */
        PyErr_Clear();
        n = (Py_ssize_t)c->params.batch;
        one = PyNumber_Index(align);
        if (!one)
            return wrong_argument("align", expected, align);
    }
    if (n != c->params.batch) { /* not with one */
        PyErr_Format(PyExc_ValueError, "align: expected one position per batch element, %lld, found %zd",
                     (long long)c->params.batch, n);
        return -1;
    }
    c->offsets = malloc(((size_t)n + 1) * sizeof c->offsets[0]);
    if (!c->offsets) {
        Py_XDECREF(one);
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = one ? NULL : PySequence_GetItem(align, i);
        PyObject *number = one ? Py_NewRef(one) : item ? PyNumber_Index(item) : NULL;
        c->offsets[i] = number ? PyLong_AsLongLong(number) : -1;
        Py_XDECREF(number);
        Py_XDECREF(item);
        if (PyErr_Occurred()) {
            Py_XDECREF(one);
            return wrong_argument("align", expected, align);
        }
    }
    Py_XDECREF(one);
    c->params.alignment = FLASHC_ALIGN_EXPLICIT;
    c->params.offsets = c->offsets;
    return 0;
}

static int set_alignment(flashc_py_call *c, PyObject *align)
{
    if (align == Py_None) {
        if (!c->params.causal)
            return 0;
        PyErr_SetString(PyExc_ValueError, "align: causal needs 'top-left' (torch's is_causal), 'bottom-right' "
                        "(FlashAttention, KV caches) or the position of query 0, found None");
        return -1;
    }
    if (!PyUnicode_Check(align))
        return set_offsets(c, align);
    if (PyUnicode_CompareWithASCIIString(align, "top-left") == 0)
        c->params.alignment = FLASHC_ALIGN_TOP_LEFT;
    else if (PyUnicode_CompareWithASCIIString(align, "bottom-right") == 0)
        c->params.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
    else {
        PyErr_Format(PyExc_ValueError, "align: expected 'top-left', 'bottom-right' or positions, found %R", align);
        return -1;
    }
    return 0;
}

int flashc_py_call_set_workspace(flashc_py_call *c, PyObject *workspace)
{
    if (workspace == Py_None)
        return 0;
    if (PyObject_GetBuffer(workspace, &c->workspace, PyBUF_WRITABLE) != 0)
        return wrong_argument("workspace", "a writable contiguous buffer", (PyObject *)Py_TYPE(workspace));
    c->params.workspace = c->workspace.buf;
    c->params.workspace_size = (size_t)c->workspace.len;
    return 0;
}

int flashc_py_call_build(flashc_py_call *c, PyObject *const *args, bool plan_only)
{
    memset(c, 0, sizeof *c);
    flashc_attention_params *p = &c->params;
    flashc_attention_params_init(p, sizeof *p);
    const int bshd = PyObject_IsTrue(args[BSHD]);
    p->causal = PyObject_IsTrue(args[CAUSAL]);
    if (p->causal < 0)
        return wrong_argument("causal", "True or False", args[CAUSAL]);
    if (bshd < 0 || set_tensors(c, args, bshd, plan_only) != 0 || set_alignment(c, args[ALIGN]) != 0)
        return -1;
    if (args[SCALE] != Py_None) {
        const double scale = PyFloat_AsDouble(args[SCALE]);
        if (PyErr_Occurred())
            return wrong_argument("scale", "a number", args[SCALE]);
        /* -inf is the C interface's word for the default; here that word is None. */
        if (!(fabs(scale) <= (double)FLT_MAX)) {
            PyErr_Format(PyExc_ValueError, "scale: expected a finite float32 number, found %R", args[SCALE]);
            return -1;
        }
        p->softmax_scale = (float)scale;
    }
    const long num_threads = PyLong_AsLong(args[NUM_THREADS]);
    if (PyErr_Occurred())
        return wrong_argument("num_threads", "an int", args[NUM_THREADS]);
    p->num_threads = num_threads > INT_MAX ? INT_MAX : num_threads < INT_MIN ? INT_MIN : (int)num_threads;
    if (args[KERNEL] != Py_None) {
        if (!PyUnicode_Check(args[KERNEL]) || !(c->kernel = PyUnicode_AsUTF8String(args[KERNEL])))
            return wrong_argument("kernel", "a name of flashc.kernels()", args[KERNEL]);
        char *kernel;
        if (PyBytes_AsStringAndSize(c->kernel, &kernel, NULL) != 0) { /* a null character inside */
            PyErr_Format(PyExc_ValueError, "kernel: expected a name of flashc.kernels(), found %R", args[KERNEL]);
            return -1;
        }
        p->kernel = kernel;
    }
    return 0;
}

void flashc_py_call_release(flashc_py_call *c)
{
    for (int i = 0; i < N_TENSORS; i++)
        flashc_py_view_release(&c->view[i]);
    free(c->offsets);
    Py_CLEAR(c->kernel);
    if (c->workspace.obj)
        PyBuffer_Release(&c->workspace);
}
