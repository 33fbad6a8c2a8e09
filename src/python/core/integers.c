#include "python/core/integers.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static int wrong(PyObject *type, const char *name, int axes, PyObject *found)
{
    if (PyErr_Occurred() && (!PyErr_ExceptionMatches(PyExc_Exception) || PyErr_ExceptionMatches(PyExc_MemoryError)))
        return -1;
    PyErr_Clear();
    PyErr_Format(type, "%s: expected int32 or int64 numbers on %d %s, found %R", name, axes,
                 axes == 1 ? "axis" : "axes of even length", found);
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
    if (format[0] == '@' || format[0] == '=' || format[0] == '<') /* little-endian machines only run here */
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
    if (reserve(out, buffer->shape[0], axes == 2 ? buffer->shape[1] : 1) != 0)
        return -1;
    for (int64_t i = 0; i < out->shape[0]; i++)
        for (int64_t j = 0; j < out->shape[1]; j++) {
            const char *at = (const char *)buffer->buf + i * buffer->strides[0];
            if (axes == 2)
                at += j * buffer->strides[1];
            int32_t narrow;
            int64_t *value = &out->values[i * out->shape[1] + j];
            if (size == sizeof *value) {
                memcpy(value, at, sizeof *value);
            } else {
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

int flashc_py_integers_expect(const flashc_py_integers *integers, const char *name, int64_t count)
{
    if (!integers->values || integers->shape[0] == count)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected %lld numbers, found %lld", name, (long long)count,
                 (long long)integers->shape[0]);
    return -1;
}

void flashc_py_integers_free(flashc_py_integers *integers)
{
    free(integers->values);
    free(integers->narrow);
    *integers = (flashc_py_integers){.values = NULL};
}
