/* The functions of flashc.h's section 6 on Python arrays: checks shapes, calls, nothing else. */
#include "python/core/arguments.h"

/* convert(dst, src) */
PyObject *flashc_py_convert(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    static const flashc_py_argument arguments[] = {{.name = "dst", .output = true, .types = FLASHC_PY_FLOAT8},
                                                   {.name = "x", .types = FLASHC_PY_FLOAT8}};
    flashc_py_view views[2];
    if (flashc_py_check_count("convert", count, 2) != 0 || flashc_py_acquire_all(views, args, arguments, 2) != 0)
        return NULL;
    int64_t n = 0;
    const int checked = flashc_py_view_expect_float(&views[0]) || flashc_py_view_expect_float(&views[1]) ||
                        flashc_py_view_as_flat(&views[0], &n) || flashc_py_view_as_flat(&views[1], &n) ||
                        flashc_py_view_expect_shape_of(&views[0], &views[1], 0);
    flashc_status status = FLASHC_OK;
    if (checked == 0) {
        Py_BEGIN_ALLOW_THREADS
        status = flashc_convert(views[0].data, views[0].dtype, views[1].data, views[1].dtype, n);
        Py_END_ALLOW_THREADS
    }
    return flashc_py_finish(views, 2, checked, status);
}

static int number(PyObject *object, const char *name, double *value)
{
    *value = PyFloat_AsDouble(object);
    if (!PyErr_Occurred())
        return 0;
    if (PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError, "%s: expected a number, found %R", name, object);
    }
    return -1;
}

/* Those of flashc-run's --compare, by the coarser of both types. */
static const struct { flashc_dtype dtype; double rtol, atol; } default_tolerances[] = {
    {FLASHC_F32, 1e-5, 1e-6}, {FLASHC_F16, 2e-3, 1e-3}, {FLASHC_BF16, 1.6e-2, 8e-3}};

static int tolerance(PyObject *object, bool relative, const flashc_py_view views[2], double *value)
{
    if (object != Py_None)
        return number(object, relative ? "rtol" : "atol", value);
    for (size_t i = 0; i < sizeof default_tolerances / sizeof default_tolerances[0]; i++)
        if (views[0].dtype == default_tolerances[i].dtype || views[1].dtype == default_tolerances[i].dtype)
            *value = relative ? default_tolerances[i].rtol : default_tolerances[i].atol; /* the last is the coarsest */
    return 0;
}

/* compare(a, b, rtol or None, atol or None) -> (equal, mismatches, worst, max_abs_error, max_abs_index): indices of
 * flat arrays */
PyObject *flashc_py_compare(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    static const flashc_py_argument arguments[] = {{"a", false, false}, {"b", false, false}};
    flashc_py_view views[2];
    if (flashc_py_check_count("compare", count, 4) != 0 || flashc_py_acquire_all(views, args, arguments, 2) != 0)
        return NULL;
    int64_t n = 0;
    double rtol = 0, atol = 0;
    const int checked = tolerance(args[2], true, views, &rtol) || tolerance(args[3], false, views, &atol) ||
                        flashc_py_view_expect_float(&views[0]) || flashc_py_view_expect_float(&views[1]) ||
                        flashc_py_view_as_flat(&views[0], &n) || flashc_py_view_as_flat(&views[1], &n) ||
                        flashc_py_view_expect_shape_of(&views[0], &views[1], 0);
    flashc_compare_report r = {0};
    flashc_status status = FLASHC_OK;
    if (!checked) {
        Py_BEGIN_ALLOW_THREADS
        status = flashc_compare(n, views[0].data, views[0].dtype, views[1].data, views[1].dtype, rtol, atol, &r);
        Py_END_ALLOW_THREADS
    }
    PyObject *none = flashc_py_finish(views, 2, checked, status);
    if (!none)
        return NULL;
    Py_DECREF(none);
    return Py_BuildValue("(NLLdL)", PyBool_FromLong(r.equal), (long long)r.mismatches, (long long)r.worst,
                         r.max_abs_error, (long long)r.max_abs_index);
}

/* is_softmax(y, tolerance) -> bool; a negative tolerance is the type's default */
PyObject *flashc_py_is_softmax(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    static const flashc_py_argument arguments[] = {{"y", false, false}};
    flashc_py_view y[1];
    if (flashc_py_check_count("is_softmax", count, 2) != 0 || flashc_py_acquire_all(y, args, arguments, 1) != 0)
        return NULL;
    int64_t rows = 0, cols = 0, stride = 0;
    int valid = 0;
    double tolerance = 0;
    const int checked = number(args[1], "tolerance", &tolerance) || flashc_py_view_expect_float(y) ||
                        flashc_py_view_as_rows(y, &rows, &cols, &stride);
    flashc_status status = FLASHC_OK;
    if (!checked) {
        Py_BEGIN_ALLOW_THREADS
        status = flashc_is_softmax(rows, cols, y->data, stride, y->dtype, tolerance, &valid, NULL);
        Py_END_ALLOW_THREADS
    }
    PyObject *none = flashc_py_finish(y, 1, checked, status);
    if (!none)
        return NULL;
    Py_DECREF(none);
    return PyBool_FromLong(valid);
}
