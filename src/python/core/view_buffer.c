/* Arrays through the buffer protocol, and NumPy's bfloat16, which that protocol has no format for. */
#include "python/core/view_sources.h"

#include <string.h>

/* NumPy has no buffer format for ml_dtypes' bfloat16: such an array exports itself viewed as uint16. */
static bool is_numpy_bfloat16(PyObject *object)
{
    PyObject *dtype = PyObject_GetAttrString(object, "dtype");
    PyObject *name = dtype ? PyObject_GetAttrString(dtype, "name") : NULL;
    const bool is = name && PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, "bfloat16") == 0;
    Py_XDECREF(name);
    Py_XDECREF(dtype);
    PyErr_Clear();
    return is;
}

/* dtype.byteorder: '=', '<' or '>'. */
static PyObject *bfloat16_byte_order(PyObject *object)
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

static int get_buffer(flashc_py_view *view, PyObject *object, bool *bfloat16)
{
    *bfloat16 = false;
    if (PyObject_GetBuffer(object, &view->buffer, PyBUF_RECORDS_RO) == 0)
        return 0;
    if (PyErr_ExceptionMatches(PyExc_MemoryError))
        return -1;
    PyErr_Clear();
    if (!is_numpy_bfloat16(object))
        return flashc_py_view_wrong_type(view->name, object, NULL);
    *bfloat16 = true;
    /* In the array's own byte order, so that a foreign one is seen below. */
    PyObject *order = bfloat16_byte_order(object);
    PyObject *bits_type = order ? PyUnicode_FromFormat("%Uu2", order) : NULL;
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
    return flashc_py_view_wrong_type(view->name, object, found);
}

int flashc_py_view_from_buffer(flashc_py_view *view, PyObject *object)
{
    static const char foreign_order = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '>' : '<';
    bool bfloat16;
    if (get_buffer(view, object, &bfloat16) != 0)
        return -1;
    const Py_buffer *buffer = &view->buffer;
    const char *format = buffer->format ? buffer->format : "B";
    const bool foreign = format[0] == foreign_order || (format[0] == '!' && foreign_order == '>');
    if (format[0] != '\0' && strchr("@=<>!", format[0]))
        format++;
    if (bfloat16 && strcmp(format, "H") == 0)
        view->dtype = FLASHC_BF16;
    else if (strcmp(format, "f") == 0)
        view->dtype = FLASHC_F32;
    else if (strcmp(format, "e") == 0)
        view->dtype = FLASHC_F16;
    else if (strcmp(format, "?") == 0)
        view->dtype = FLASHC_BOOL;
    else
        return wrong_format(view, object);
    if (foreign && view->dtype != FLASHC_BOOL) {
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
    const Py_ssize_t size = (Py_ssize_t)flashc_dtype_size(view->dtype);
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
