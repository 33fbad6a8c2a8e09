#include "python/core/view_sources.h"

#include <string.h>

char *flashc_py_shape_text(char *text, size_t size, const int64_t *shape, int ndim)
{
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < ndim && used < size; i++)
        used += (size_t)PyOS_snprintf(text + used, size - used, i ? ", %lld" : "[%lld", (long long)shape[i]);
    if (used < size)
        PyOS_snprintf(text + used, size - used, ndim ? "]" : "[]");
    return text;
}

/* The types that an argument may have, for messages: of some it is one, whatever the view was asked for. */
static const char *types_of(const flashc_py_view *view)
{
    static const char *const of_float32[] = {"alibi_slopes",   "sinks",   "k_scale", "v_scale", "prefix_k_scale",
                                             "prefix_v_scale", "o_parts", "lse_parts", "key_mass", "row_max"};
    if (strcmp(view->name, "mask") == 0)
        return "bool (values to be added are a bias)";
    if (strcmp(view->name, "block_mask") == 0)
        return "bool";
    for (size_t i = 0; i < sizeof of_float32 / sizeof of_float32[0]; i++)
        if (strcmp(view->name, of_float32[i]) == 0)
            return "float32";
    return view->types == FLASHC_PY_CACHES ? "float32, float16, bfloat16, int8, float8_e4m3fn, float8_e5m2 or uint8 "
                                             "(q8_0)"
           : view->types == FLASHC_PY_FLOAT8 ? "float32, float16, bfloat16, float8_e4m3fn or float8_e5m2"
                                             : "float32, float16 or bfloat16";
}

/* TypeError "q: expected ..., found float64": the object's own dtype where it has one, else what its protocol told,
 * else its class. */
int flashc_py_view_wrong_type(const flashc_py_view *view, PyObject *object, const char *found)
{
    const char *name = view->name, *expected = types_of(view);
    PyErr_Clear();
    PyObject *dtype = PyObject_GetAttrString(object, "dtype");
    if (dtype) {
        PyErr_Format(PyExc_TypeError, "%s: expected elements of type %s, found %S", name, expected, dtype);
        Py_DECREF(dtype);
        return -1;
    }
    PyErr_Clear();
    if (found)
        PyErr_Format(PyExc_TypeError, "%s: expected elements of type %s, found %s", name, expected, found);
    else
        PyErr_Format(PyExc_TypeError,
                     "%s: expected an array (NumPy, torch, DLPack or buffer protocol), found an object of type %S",
                     name, (PyObject *)Py_TYPE(object));
    return -1;
}

int flashc_py_view_expect_writable(const flashc_py_view *view)
{
    if (!view->read_only)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected an array that can be written, found a read-only one", view->name);
    return -1;
}

void flashc_py_view_release(flashc_py_view *view)
{
    if (!view->name)
        return;
    view->name = NULL;
    if (view->buffer.obj)
        PyBuffer_Release(&view->buffer);
    Py_CLEAR(view->capsule);
}

/* Shapes that an object only claims to have. */
static int too_large(const flashc_py_view *view)
{
    char shape[256];
    PyErr_Format(PyExc_ValueError, "%s: expected fewer than 2^63 elements, found shape %s", view->name,
                 flashc_py_shape_text(shape, sizeof shape, view->shape, view->ndim));
    return -1;
}

int flashc_py_view_as_rows(const flashc_py_view *view, int64_t *rows, int64_t *cols, int64_t *row_stride)
{
    char shape[256], strides[256];
    const int last = view->ndim - 1;
    int64_t expected;
    if (last < 0) {
        PyErr_Format(PyExc_ValueError, "%s: expected at least one axis, found a scalar", view->name);
        return -1;
    }
    *cols = view->shape[last];
    *rows = 1;
    *row_stride = *cols;
    bool fits = *cols <= 1 || view->stride[last] == 1;
    for (int i = last - 1; i >= 0; i--) {
        if (view->shape[i] != 1) {
            if (*rows == 1)
                *row_stride = view->stride[i];
            else
                fits = fits && !__builtin_mul_overflow(*row_stride, *rows, &expected) && view->stride[i] == expected;
            if (__builtin_mul_overflow(*rows, view->shape[i], rows))
                return too_large(view);
        }
    }
    if (fits || *rows == 0)
        return 0;
    PyErr_Format(PyExc_ValueError,
                 "%s: expected a contiguous last axis and one constant row stride, found shape %s with strides "
                 "%s (elements); pass a contiguous copy", view->name,
                 flashc_py_shape_text(shape, sizeof shape, view->shape, view->ndim),
                 flashc_py_shape_text(strides, sizeof strides, view->stride, view->ndim));
    return -1;
}

int flashc_py_view_as_flat(const flashc_py_view *view, int64_t *n)
{
    int64_t packed = 1;
    bool fits = true;
    for (int i = view->ndim - 1; i >= 0; i--) {
        fits = fits && (view->shape[i] == 1 || view->stride[i] == packed);
        if (__builtin_mul_overflow(packed, view->shape[i], &packed))
            return too_large(view);
    }
    *n = packed;
    if (fits || packed == 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected a C-contiguous array; pass a contiguous copy", view->name);
    return -1;
}

const char *flashc_py_dtype_name(flashc_dtype dtype)
{
    switch (dtype) {
    case FLASHC_F32: return "float32";
    case FLASHC_F16: return "float16";
    case FLASHC_BF16: return "bfloat16";
    case FLASHC_I8: return "int8";
    case FLASHC_F8_E4M3: return "float8_e4m3fn";
    case FLASHC_F8_E5M2: return "float8_e5m2";
    case FLASHC_Q8_0: return "uint8 (q8_0)";
    default: return flashc_dtype_name(dtype);
    }
}

int flashc_py_view_expect_dtype(const flashc_py_view *view, flashc_dtype dtype)
{
    if (view->dtype == dtype)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s: expected elements of type %s%s, found %s", view->name,
                 flashc_py_dtype_name(dtype),
                 strcmp(view->name, "mask") == 0 ? " (values to be added are a bias)" : "",
                 flashc_py_dtype_name(view->dtype));
    return -1;
}

int flashc_py_view_expect_float(const flashc_py_view *view)
{
    if (view->dtype != FLASHC_BOOL)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s: expected elements of type %s, found bool", view->name, types_of(view));
    return -1;
}

int flashc_py_view_expect_shape_of(const flashc_py_view *view, const flashc_py_view *other, int dropped)
{
    char expected[256], found[256];
    const int ndim = other->ndim - dropped;
    if (view->ndim == ndim && memcmp(view->shape, other->shape, (size_t)ndim * sizeof view->shape[0]) == 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected shape %s (of %s), found %s", view->name,
                 flashc_py_shape_text(expected, sizeof expected, other->shape, ndim), other->name,
                 flashc_py_shape_text(found, sizeof found, view->shape, view->ndim));
    return -1;
}
