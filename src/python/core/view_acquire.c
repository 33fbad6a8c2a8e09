/* Which protocol an array is read through, and what no protocol tells. */
#include "python/core/view_sources.h"

/* torch's lazy negation (x.conj().imag): DLPack gives the memory, which holds the values with the other sign. */
static int refuse_lazy_negation(PyObject *object, const char *name)
{
    static PyObject *method;
    if (!method && !(method = PyUnicode_InternFromString("is_neg")))
        return -1;
    PyObject *answer = PyObject_CallMethodObjArgs(object, method, NULL);
    if (!answer && !PyErr_ExceptionMatches(PyExc_Exception))
        return -1;
    PyErr_Clear(); /* no tensor of torch's */
    const bool negated = answer == Py_True;
    Py_XDECREF(answer);
    if (!negated)
        return 0;
    PyErr_Format(PyExc_ValueError,
                 "%s: expected a tensor whose memory holds its values, found one that torch negates lazily; pass "
                 "resolve_neg()", name);
    return -1;
}

static int acquire(flashc_py_view *view, PyObject *object, const char *name, flashc_py_types types)
{
    view->name = name;
    view->types = types;
    view->read_only = false;
    view->buffer.obj = NULL;
    view->capsule = NULL;
    int result;
    if (PyObject_CheckBuffer(object)) {
        result = flashc_py_refuse_masked_array(object, name);
        if (result == 0)
            result = flashc_py_view_from_buffer(view, object);
    } else {
        result = flashc_py_view_from_exchange_table(view, object);
        if (result == 0)
            result = flashc_py_view_from_dlpack(view, object);
        else if (result == 1)
            result = 0;
        if (result == 0)
            result = refuse_lazy_negation(object, name);
    }
    if (result != 0)
        flashc_py_view_release(view);
    return result;
}

/* Blocks of the last axis, whose bytes are contiguous, and whole blocks on the others. */
static int to_blocks(flashc_py_view *view)
{
    enum { BYTES = 34, COLUMNS = 32 };
    const int last = view->ndim - 1;
    char shape[256];
    bool whole =
        view->ndim > 0 && view->shape[last] % BYTES == 0 && (view->stride[last] == 1 || view->shape[last] == 0);
    for (int i = 0; i < last; i++)
        whole = whole && (view->stride[i] % BYTES == 0 || view->shape[i] < 2);
    if (!whole) {
        PyErr_Format(PyExc_ValueError,
                     "%s: expected rows of whole q8_0 blocks, %d contiguous bytes each, found uint8 %s",
                     view->name, BYTES, flashc_py_shape_text(shape, sizeof shape, view->shape, view->ndim));
        return -1;
    }
    for (int i = 0; i < last; i++)
        view->stride[i] /= BYTES;
    view->shape[last] = view->shape[last] / BYTES * COLUMNS;
    return 0;
}

int flashc_py_view_acquire(flashc_py_view *view, PyObject *object, const char *name, flashc_py_types types)
{
    int result = acquire(view, object, name, types);
    if (result == 0 && view->dtype == FLASHC_Q8_0 && (result = to_blocks(view)) != 0)
        flashc_py_view_release(view);
    return result;
}

int flashc_py_view_acquire_output(flashc_py_view *view, PyObject *object, const char *name)
{
    if (acquire(view, object, name, FLASHC_PY_FLOATS) != 0)
        return -1;
    if (flashc_py_view_expect_writable(view) == 0)
        return 0;
    flashc_py_view_release(view);
    return -1;
}
