/* Arrays through the buffer protocol, and NumPy's with types of ml_dtypes, which that protocol has no format for. */
#include "python/core/view_sources.h"

#include <string.h>

/* NumPy has no buffer format for the types of ml_dtypes: such an array exports itself viewed as unsigned integers. */
static const struct {
    const char *name, *bits, *format; /* NumPy's names of the type and of integers, and their buffer format */
    flashc_dtype dtype;
    flashc_py_types types; /* the least that have it */
} ml_types[] = {
    {"bfloat16", "u2", "H", FLASHC_BF16, FLASHC_PY_FLOATS},
    {"float8_e4m3fn", "u1", "B", FLASHC_F8_E4M3, FLASHC_PY_FLOAT8},
    {"float8_e5m2", "u1", "B", FLASHC_F8_E5M2, FLASHC_PY_FLOAT8},
};

/* Which of them; -1: none. */
static int find_ml_type(PyObject *object)
{
    PyObject *dtype = PyObject_GetAttrString(object, "dtype");
    PyObject *name = dtype ? PyObject_GetAttrString(dtype, "name") : NULL;
    int found = -1;
    for (int i = 0; i < (int)(sizeof ml_types / sizeof ml_types[0]); i++)
        if (name && PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, ml_types[i].name) == 0)
            found = i;
    Py_XDECREF(name);
    Py_XDECREF(dtype);
    PyErr_Clear();
    return found;
}

/* dtype.byteorder: '=', '<' or '>', or '|' of single bytes. */
static PyObject *byte_order_of(PyObject *object)
{
    PyObject *dtype = PyObject_GetAttrString(object, "dtype");
    PyObject *order = dtype ? PyObject_GetAttrString(dtype, "byteorder") : NULL;
    Py_XDECREF(dtype);
    if (order && !PyUnicode_Check(order)) {
        PyErr_SetString(PyExc_TypeError, "dtype.byteorder: expected text");
        Py_CLEAR(order);
    }
    return order;
}

/* *ml_type: as find_ml_type(). */
static int get_buffer(flashc_py_view *view, PyObject *object, int *ml_type)
{
    *ml_type = -1;
    if (PyObject_GetBuffer(object, &view->buffer, PyBUF_RECORDS_RO) == 0)
        return 0;
    if (PyErr_ExceptionMatches(PyExc_MemoryError))
        return -1;
    PyErr_Clear();
    *ml_type = find_ml_type(object);
    if (*ml_type < 0 || ml_types[*ml_type].types > view->types)
        return flashc_py_view_wrong_type(view, object, NULL);
    /* In the array's own byte order, so that a foreign one is seen below. */
    PyObject *order = byte_order_of(object);
    PyObject *bits_type = order ? PyUnicode_FromFormat("%U%s", order, ml_types[*ml_type].bits) : NULL;
    PyObject *bits = bits_type ? PyObject_CallMethod(object, "view", "O", bits_type) : NULL;
    const int result = bits ? PyObject_GetBuffer(bits, &view->buffer, PyBUF_RECORDS_RO) : -1;
    Py_XDECREF(bits); /* the buffer holds it */
    Py_XDECREF(bits_type);
    Py_XDECREF(order);
    return result;
}

static int wrong_format(const flashc_py_view *view, PyObject *object)
{
    char found[64];
    PyOS_snprintf(found, sizeof found, "a buffer of format '%.32s'", view->buffer.format ? view->buffer.format : "B");
    return flashc_py_view_wrong_type(view, object, found);
}

int flashc_py_view_from_buffer(flashc_py_view *view, PyObject *object)
{
    static const char foreign_order = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '>' : '<';
    int ml_type;
    if (get_buffer(view, object, &ml_type) != 0)
        return -1;
    const Py_buffer *buffer = &view->buffer;
    const char *format = buffer->format ? buffer->format : "B";
    const bool foreign = format[0] == foreign_order || (format[0] == '!' && foreign_order == '>');
    if (format[0] != '\0' && strchr("@=<>!", format[0]))
        format++;
    if (ml_type >= 0 && strcmp(format, ml_types[ml_type].format) == 0)
        view->dtype = ml_types[ml_type].dtype;
    else if (strcmp(format, "f") == 0)
        view->dtype = FLASHC_F32;
    else if (strcmp(format, "e") == 0)
        view->dtype = FLASHC_F16;
    else if (strcmp(format, "?") == 0)
        view->dtype = FLASHC_BOOL;
    else if (view->types == FLASHC_PY_CACHES && ml_type < 0 && strcmp(format, "b") == 0)
        view->dtype = FLASHC_I8;
    else if (view->types == FLASHC_PY_CACHES && ml_type < 0 && strcmp(format, "B") == 0)
        view->dtype = FLASHC_Q8_0;
    else
        return wrong_format(view, object);
    const Py_ssize_t size = view->dtype == FLASHC_Q8_0 ? 1 : (Py_ssize_t)flashc_dtype_size(view->dtype);
    if (foreign && size > 1) {
        PyErr_Format(PyExc_ValueError,
                     "%s: expected the machine's byte order, found the other (format %s); convert it, e.g. "
                     "a.astype(a.dtype.newbyteorder('='))", view->name, buffer->format);
        return -1;
    }
    if (buffer->ndim > FLASHC_PY_MAX_NDIM) {
        PyErr_Format(PyExc_ValueError, "%s: expected at most %d axes, found %d", view->name, FLASHC_PY_MAX_NDIM,
                     buffer->ndim);
        return -1;
    }
    view->data = buffer->buf;
    view->read_only = buffer->readonly;
    view->ndim = buffer->ndim;
    Py_ssize_t packed = size;
    for (int i = buffer->ndim - 1; i >= 0; i--) {
        /* ctypes gives no strides, although it is asked for them. */
        const Py_ssize_t stride = buffer->strides ? buffer->strides[i] : packed;
        packed = (Py_ssize_t)((size_t)packed * (size_t)buffer->shape[i]); /* used only where it fits */
        if (stride % size != 0 && buffer->shape[i] > 1) {
            PyErr_Format(PyExc_ValueError,
                         "%s: expected strides of whole elements (%zd bytes), found %zd bytes on axis %d",
                         view->name, size, stride, i);
            return -1;
        }
        view->shape[i] = buffer->shape[i];
        view->stride[i] = stride / size;
    }
    return 0;
}
