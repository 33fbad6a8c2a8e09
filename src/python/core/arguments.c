#include "python/core/arguments.h"

#include <stdio.h>
#include <string.h>

static int acquire(flashc_py_view *view, PyObject *object, const flashc_py_argument *argument)
{
    if (flashc_py_view_acquire(view, object, argument->name, argument->types) != 0)
        return -1;
    if (!argument->output || flashc_py_view_expect_writable(view) == 0)
        return 0;
    flashc_py_view_release(view);
    return -1;
}

int flashc_py_acquire_all(flashc_py_view *views, PyObject *const *args, const flashc_py_argument *arguments, int n)
{
    for (int i = 0; i < n; i++) {
        views[i].name = NULL;
        if (args[i] == Py_None && arguments[i].optional)
            continue;
        if (acquire(&views[i], args[i], &arguments[i]) == 0)
            continue;
        while (i-- > 0)
            flashc_py_view_release(&views[i]);
        return -1;
    }
    return 0;
}

PyObject *flashc_py_finish(flashc_py_view *views, int n, int checked, flashc_status status)
{
    if (checked == 0 && status != FLASHC_OK)
        flashc_py_raise(status); /* before the release, which may run code that calls flashc */
    for (int i = 0; i < n; i++)
        flashc_py_view_release(&views[i]);
    return checked != 0 || status != FLASHC_OK ? NULL : Py_NewRef(Py_None);
}

int flashc_py_flag(PyObject *object, const char *name)
{
    const int is_true = PyObject_RichCompareBool(object, Py_True, Py_EQ);
    const int is_false = is_true == 0 ? PyObject_RichCompareBool(object, Py_False, Py_EQ) : 0;
    if (is_true == 1 || is_false == 1)
        return is_true;
    return flashc_py_wrong_argument(name, "True or False", object);
}

int flashc_py_axis_of(int rank, int i, int bshd)
{
    enum { BATCH, HEADS, ROWS, COLS };
    static const int bhsd_axes[] = {BATCH, HEADS, ROWS, COLS}, bshd_axes[] = {BATCH, ROWS, HEADS, COLS};
    if (rank == 2)
        return i == 0 ? ROWS : COLS;
    return (bshd ? bshd_axes : bhsd_axes)[4 - rank + i];
}

int flashc_py_set_scale(const flashc_py_view *scale, const flashc_py_view *rows, int bshd, flashc_tensor *out)
{
    char found[256], expected[256];
    if (!scale->name)
        return 0;
    if (flashc_py_view_expect_dtype(scale, FLASHC_F32) != 0)
        return -1;
    bool fits = scale->ndim == rows->ndim - 1;
    *out = (flashc_tensor){.data = scale->data, .dtype = scale->dtype};
    for (int i = 0; fits && i < scale->ndim; i++) {
        fits = scale->shape[i] == 1 || scale->shape[i] == rows->shape[i];
        out->stride[flashc_py_axis_of(rows->ndim, i, bshd)] = scale->shape[i] == 1 ? 0 : scale->stride[i];
    }
    if (fits)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected shape %s (of %s without its last axis) or 1 for any of it, found %s",
                 scale->name, flashc_py_shape_text(expected, sizeof expected, rows->shape, rows->ndim - 1), rows->name,
                 flashc_py_shape_text(found, sizeof found, scale->shape, scale->ndim));
    return -1;
}

static int check_scale(const flashc_py_scales *s)
{
    const bool given = s->scale->name != NULL;
    const flashc_dtype dtype = s->rows->name ? s->rows->dtype : FLASHC_F32;
    const bool may = dtype == FLASHC_I8 || dtype == FLASHC_F8_E4M3 || dtype == FLASHC_F8_E5M2;
    if (!s->rows->name || (given ? may : dtype != FLASHC_I8))
        return 0;
    if (given)
        PyErr_Format(PyExc_ValueError, "%s: expected None with %s of type %s, found an array", s->name, s->rows->name,
                     flashc_py_dtype_name(dtype));
    else
        PyErr_Format(PyExc_ValueError, "%s: expected an array with %s of type int8, a scale for each row, found None",
                     s->name, s->rows->name);
    return -1;
}

int flashc_py_check_scales(const flashc_py_scales *scales, int n)
{
    for (int i = 0; i < n; i++)
        if (check_scale(&scales[i]) != 0)
            return -1;
    return 0;
}

/* "[1, 0]" for element [batch or page, head, row]. */
static void index_text(const flashc_py_scales *s, const int64_t element[3], char text[64])
{
    int64_t index[3];
    const int ndim = s->scale->ndim;
    for (int i = 0; i < ndim && i < 3; i++)
        index[i] = s->scale->shape[i] == 1 ? 0 : element[flashc_py_axis_of(ndim + 1, i, s->bshd)];
    flashc_py_shape_text(text, 64, index, ndim);
}

PyObject *flashc_py_raise_of_scales(flashc_status status, const flashc_py_scales *scales, int n)
{
    const char *message = flashc_last_error();
    for (int i = 0; i < n; i++) {
        char text[64];
        long long element[3];
        int used = 0;
        const size_t length = strlen(scales[i].c_name);
        if (!scales[i].scale->name || strncmp(message, scales[i].c_name, length) != 0 ||
            sscanf(message + length, "[%lld][%lld][%lld]%n", &element[0], &element[1], &element[2], &used) != 3)
            continue;
        index_text(&scales[i], (const int64_t[]){element[0], element[1], element[2]}, text);
        PyErr_Format(PyExc_ValueError, "%s%s%s", scales[i].name, text, message + length + used);
        return NULL;
    }
    return flashc_py_raise(status);
}
