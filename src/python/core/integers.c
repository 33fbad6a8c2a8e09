#include "python/core/integers.h"

#include <stdlib.h>
#include <string.h>

static int wrong(PyObject *type, const char *name, int axes, PyObject *found)
{
    if (flashc_py_raised_otherwise())
        return -1;
    PyErr_Clear();
    PyErr_Format(type, "%s: expected int32 or int64 numbers on %s, found %.200R", name,
                 axes == 1 ? "1 axis" : "2 axes, for each sequence a row of the same length", found);
    return -1;
}

static int reserve(flashc_py_integers *out, int64_t rows, int64_t columns)
{
    int64_t count;
    if (!__builtin_mul_overflow(rows, columns, &count) && count < INT64_MAX / 16)
        out->values = malloc(((size_t)count + 1) * sizeof *out->values);
    out->shape[0] = rows;
    out->shape[1] = columns;
    if (out->values)
        return 0;
    PyErr_NoMemory();
    return -1;
}

/* Bytes of a signed native integer of this struct format, 0 for anything else. */
static size_t integer_size(const Py_buffer *buffer)
{
    const char *format = buffer->format ? buffer->format : "B";
    if (format[0] == '@' || format[0] == '=' || format[0] == '<') /* this runs on little-endian machines alone */
        format++;
    return format[0] != '\0' && format[1] == '\0' && strchr("ilq", format[0]) &&
                   (buffer->itemsize == 4 || buffer->itemsize == 8)
               ? (size_t)buffer->itemsize
               : 0;
}

static int take_buffer(PyObject *object, const char *name, int axes, const Py_buffer *buffer, flashc_py_integers *out)
{
    const size_t size = integer_size(buffer);
    if (size == 0 || buffer->ndim != axes)
        return wrong(size == 0 ? PyExc_TypeError : PyExc_ValueError, name, axes, object);
    const Py_ssize_t columns = axes == 2 ? buffer->shape[1] : 1;
    if (reserve(out, buffer->shape[0], columns) != 0)
        return -1;
    /* ctypes gives no strides, although it is asked for them. */
    const Py_ssize_t packed[2] = {columns * (Py_ssize_t)size, (Py_ssize_t)size};
    const Py_ssize_t *stride = buffer->strides ? buffer->strides : packed;
    for (int64_t i = 0; i < out->shape[0]; i++)
        for (int64_t j = 0; j < columns; j++) {
            const char *at = (const char *)buffer->buf + i * stride[0] + (axes == 2 ? j * stride[1] : 0);
            int64_t *value = &out->values[i * columns + j];
            if (size == sizeof *value) {
                memcpy(value, at, sizeof *value);
            } else {
                int32_t narrow;
                memcpy(&narrow, at, sizeof narrow);
                *value = narrow;
            }
        }
    return 0;
}

/* n ints of a sequence. */
static int take_items(PyObject *object, Py_ssize_t n, int64_t *values)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = PySequence_GetItem(object, i);
        PyObject *number = item && !PyBool_Check(item) ? PyNumber_Index(item) : NULL;
        values[i] = number ? PyLong_AsLongLong(number) : 0;
        Py_XDECREF(number);
        Py_XDECREF(item);
        if (!number || PyErr_Occurred())
            return -1;
    }
    return 0;
}

static int take_sequence(PyObject *object, const char *name, int axes, flashc_py_integers *out)
{
    const Py_ssize_t rows = PySequence_Check(object) && !PyUnicode_Check(object) ? PySequence_Size(object) : -1;
    if (rows < 0)
        return wrong(PyExc_TypeError, name, axes, object);
    if (axes == 1) {
        if (reserve(out, rows, 1) != 0)
            return -1;
        return take_items(object, rows, out->values) == 0 ? 0 : wrong(PyExc_TypeError, name, axes, object);
    }
    for (Py_ssize_t i = 0; i < rows; i++) {
        PyObject *row = PySequence_GetItem(object, i);
        const Py_ssize_t columns = row && PySequence_Check(row) && !PyUnicode_Check(row) ? PySequence_Size(row) : -1;
        int result = columns < 0 || (i > 0 && columns != out->shape[1]) ? -1 : 0;
        if (result == 0 && i == 0)
            result = reserve(out, rows, columns);
        if (result == 0)
            result = take_items(row, columns, out->values + i * columns);
        Py_XDECREF(row);
        if (result != 0)
            return wrong(PyExc_TypeError, name, axes, object);
    }
    return rows > 0 ? 0 : reserve(out, 0, 0);
}

int flashc_py_integers_take(PyObject *object, const char *name, int axes, flashc_py_integers *out)
{
    *out = (flashc_py_integers){.values = NULL};
    if (object == Py_None)
        return 0;
    Py_buffer buffer;
    if (!PyObject_CheckBuffer(object))
        return take_sequence(object, name, axes, out);
    if (flashc_py_refuse_masked_array(object, name) != 0)
        return -1;
    if (PyObject_GetBuffer(object, &buffer, PyBUF_RECORDS_RO) != 0)
        return wrong(PyExc_TypeError, name, axes, object);
    const int result = take_buffer(object, name, axes, &buffer, out);
    PyBuffer_Release(&buffer);
    return result;
}

int flashc_py_integers_take_pages(PyObject *object, const char *name, flashc_py_integers *out)
{
    if (flashc_py_integers_take(object, name, 2, out) != 0)
        return -1;
    if (!out->values)
        return 0;
    const int64_t count = out->shape[0] * out->shape[1];
    out->narrow = malloc(((size_t)count + 1) * sizeof *out->narrow);
    if (!out->narrow) {
        PyErr_NoMemory();
        return -1;
    }
    for (int64_t i = 0; i < count; i++) {
        if (out->values[i] < INT32_MIN || out->values[i] > INT32_MAX) {
            PyErr_Format(PyExc_ValueError, "%s[%lld][%lld]: expected a page number of 32 bits, found %lld", name,
                         (long long)(i / out->shape[1]), (long long)(i % out->shape[1]), (long long)out->values[i]);
            return -1;
        }
        out->narrow[i] = (int32_t)out->values[i];
    }
    return 0;
}

int64_t *flashc_py_integers_per_batch(PyObject *object, const char *name, const char *expected, int64_t batch)
{
    if (PyBool_Check(object) || PyDict_Check(object) || PyUnicode_Check(object))
        return flashc_py_wrong_argument(name, expected, object), NULL;
    Py_ssize_t n = PyObject_Size(object);
    PyObject *one = NULL;
    if (n < 0) { /* a number, or an array without axes */
        PyErr_Clear();
        n = (Py_ssize_t)batch;
        one = PyNumber_Index(object);
        if (!one)
            return flashc_py_wrong_argument(name, expected, object), NULL;
    }
    if (n != batch) { /* not with one */
        PyErr_Format(PyExc_ValueError, "%s: expected one int per batch element, %lld, found %zd", name,
                     (long long)batch, n);
        return NULL;
    }
    int64_t *array = malloc(((size_t)n + 1) * sizeof *array);
    if (!array)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; array && i < n; i++) {
        PyObject *index = one ? NULL : PyLong_FromSsize_t(i); /* by object: a tensor is no sequence of the C API's */
        PyObject *item = index ? PyObject_GetItem(object, index) : NULL;
        Py_XDECREF(index);
        PyObject *number = one ? Py_NewRef(one) : item ? PyNumber_Index(item) : NULL;
        array[i] = number ? PyLong_AsLongLong(number) : -1;
        Py_XDECREF(number);
        Py_XDECREF(item);
        if (PyErr_Occurred()) {
            flashc_py_wrong_argument(name, expected, object);
            free(array);
            array = NULL;
        }
    }
    Py_XDECREF(one);
    return array;
}

int flashc_py_integers_expect(const flashc_py_integers *integers, const char *name, int64_t count)
{
    if (!integers->values || integers->shape[0] == count)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected %lld numbers, found %lld", name, (long long)count,
                 (long long)integers->shape[0]);
    return -1;
}

int flashc_py_expect_apart(const char *name, const void *given, const char *other, const void *other_given,
                           const char *why)
{
    if (!given || !other_given)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected None beside %s, %s, found both", name, other, why);
    return -1;
}

int flashc_py_expect_beside(const char *name, bool given, const char *needed, const char *what, bool needed_given)
{
    if (!given || needed_given)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected %s beside %s, found None", needed, what, name);
    return -1;
}

void flashc_py_integers_free(flashc_py_integers *integers)
{
    free(integers->values);
    free(integers->narrow);
    *integers = (flashc_py_integers){.values = NULL};
}
