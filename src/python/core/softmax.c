/* The functions of flashc.h's sections 3 and 4 on Python arrays: checks shapes, calls, nothing else. */
#include "python/core/module.h"
#include "python/core/view.h"

#include <stdlib.h>

/* Acquires `n` views from the first arguments; a name that begins with '+' is an output, and None is allowed for a
 * name that ends with '?'. On failure nothing stays acquired. */
typedef struct {
    const char *name;
    bool output, optional;
} argument;

static int acquire_all(flashc_py_view *views, PyObject *const *args, const argument *arguments, int n)
{
    for (int i = 0; i < n; i++) {
        views[i].name = NULL;
        if (args[i] == Py_None && arguments[i].optional)
            continue;
        if ((arguments[i].output ? flashc_py_view_acquire_output : flashc_py_view_acquire)(&views[i], args[i],
                                                                                        arguments[i].name) == 0)
            continue;
        while (i-- > 0)
            flashc_py_view_release(&views[i]);
        return -1;
    }
    return 0;
}

/* Releases the views and turns (no exception, status) into a result: None or NULL. */
static PyObject *finish(flashc_py_view *views, int n, int checked, flashc_status status)
{
    for (int i = 0; i < n; i++)
        flashc_py_view_release(&views[i]);
    if (checked != 0)
        return NULL;
    return status == FLASHC_OK ? Py_NewRef(Py_None) : flashc_py_raise(status);
}

/* softmax(x, y, lse or None) */
PyObject *flashc_py_softmax(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    static const argument arguments[] = {{"x", false, false}, {"out", true, false}, {"lse", true, true}};
    flashc_py_view views[3];
    if (flashc_py_check_count("softmax", count, 3) != 0 || acquire_all(views, args, arguments, 3) != 0)
        return NULL;
    const flashc_py_view *x = &views[0], *y = &views[1], *lse = &views[2];
    int64_t rows = 0, cols = 0, x_stride = 0, y_rows, y_cols, y_stride = 0, n_lse;
    int checked = flashc_py_view_as_rows(x, &rows, &cols, &x_stride);
    if (checked == 0)
        checked = flashc_py_view_expect_shape_of(y, x, 0) || flashc_py_view_expect_dtype(y, x->dtype) ||
                  flashc_py_view_as_rows(y, &y_rows, &y_cols, &y_stride);
    if (checked == 0 && lse->name)
        checked = flashc_py_view_expect_shape_of(lse, x, 1) || flashc_py_view_expect_dtype(lse, FLASHC_F32) ||
                  flashc_py_view_as_flat(lse, &n_lse);
    flashc_status status = FLASHC_OK;
    if (checked == 0) {
        Py_BEGIN_ALLOW_THREADS
        status = flashc_softmax(rows, cols, x->data, x_stride, y->data, y_stride, x->dtype,
                                lse->name ? lse->data : NULL);
        Py_END_ALLOW_THREADS
    }
    return finish(views, 3, checked, status);
}

/* An f32 array that must be packed, with `like`'s shape less `dropped` axes. */
static int check_packed_f32(const flashc_py_view *view, const flashc_py_view *like, int dropped)
{
    int64_t n;
    return flashc_py_view_expect_dtype(view, FLASHC_F32) || flashc_py_view_expect_shape_of(view, like, dropped) ||
           flashc_py_view_as_flat(view, &n);
}

/* merge_states(o_parts, lse_parts, o, lse): two tuples of n arrays, two outputs. */
PyObject *flashc_py_merge_states(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    static const argument outputs[] = {{"o", true, false}, {"lse", true, false}};
    if (flashc_py_check_count("merge_states", count, 4) != 0)
        return NULL;
    const Py_ssize_t n = PyTuple_Size(args[0]);
    if (n < 0)
        return NULL;
    if (n < 1 || PyTuple_Size(args[1]) != n) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "lse_parts: expected as many as o_parts, %zd, and at least one", n);
        return NULL;
    }
    flashc_py_view *views = calloc(2 * (size_t)n + 2, sizeof *views);
    const float **parts = calloc(2 * (size_t)n, sizeof *parts);
    if (!views || !parts) {
        free(views);
        free(parts);
        return PyErr_NoMemory();
    }
    flashc_py_view *out = &views[2 * n];
    flashc_status status = FLASHC_OK;
    int64_t rows = 0, cols = 0, stride;
    int checked = acquire_all(out, args + 2, outputs, 2);
    if (checked == 0)
        checked = flashc_py_view_as_rows(&out[0], &rows, &cols, &stride) || check_packed_f32(&out[0], &out[0], 0) ||
                  check_packed_f32(&out[1], &out[0], 1);
    for (Py_ssize_t i = 0; checked == 0 && i < 2 * n; i++) {
        const int is_lse = i >= n;
        checked = flashc_py_view_acquire(&views[i], PyTuple_GetItem(args[is_lse], i % n), is_lse ? "lse_parts" : "o_parts") ||
                  check_packed_f32(&views[i], &out[0], is_lse);
        parts[i] = views[i].data;
    }
    if (checked == 0) {
        Py_BEGIN_ALLOW_THREADS
        status = flashc_merge_partials(n, rows, cols, parts, parts + n, out[0].data, out[1].data);
        Py_END_ALLOW_THREADS
    }
    PyObject *result = finish(views, (int)(2 * n + 2), checked, status);
    free(views);
    free(parts);
    return result;
}

/* The state in three f32 arrays: row_max [rows], row_sum [rows], acc [rows, head_dim_v]. */
enum { STATE_ARRAYS = 3 };
#define STATE_ARGUMENTS {"row_max", true, false}, {"row_sum", true, false}, {"acc", true, false}

static int state_of(const flashc_py_view *views, flashc_softmax_state *state)
{
    int64_t stride;
    if (flashc_py_view_as_rows(&views[2], &state->rows, &state->head_dim_v, &stride) ||
        check_packed_f32(&views[2], &views[2], 0) || check_packed_f32(&views[0], &views[2], 1) ||
        check_packed_f32(&views[1], &views[2], 1))
        return -1;
    state->row_max = views[0].data;
    state->row_sum = views[1].data;
    state->acc = views[2].data;
    state->acc_row_stride = state->head_dim_v;
    state->acc_col_stride = 1;
    return 0;
}

/* state_init(row_max, row_sum, acc) */
PyObject *flashc_py_state_init(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    static const argument arguments[] = {STATE_ARGUMENTS};
    flashc_py_view views[STATE_ARRAYS];
    if (flashc_py_check_count("state_init", count, 3) != 0 || acquire_all(views, args, arguments, 3) != 0)
        return NULL;
    flashc_softmax_state state;
    const int checked = state_of(views, &state);
    return finish(views, 3, checked, checked == 0 ? flashc_softmax_state_init(&state) : FLASHC_OK);
}

/* state_update(row_max, row_sum, acc, scores [rows, n], v [n, head_dim_v] or None) */
PyObject *flashc_py_state_update(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    static const argument arguments[] = {STATE_ARGUMENTS, {"scores", false, false}, {"v", false, true}};
    flashc_py_view views[5];
    if (flashc_py_check_count("state_update", count, 5) != 0 || acquire_all(views, args, arguments, 5) != 0)
        return NULL;
    const flashc_py_view *scores = &views[3], *v = &views[4];
    flashc_softmax_state state;
    int64_t rows = 0, n = 0, scores_stride = 0, v_rows = 0, v_cols = 0, v_stride = 0;
    int checked = state_of(views, &state) || flashc_py_view_expect_dtype(scores, FLASHC_F32) ||
                  flashc_py_view_as_rows(scores, &rows, &n, &scores_stride);
    if (checked == 0 && v->name)
        checked = flashc_py_view_expect_dtype(v, FLASHC_F32) || flashc_py_view_as_rows(v, &v_rows, &v_cols, &v_stride);
    if (checked == 0 && (rows != state.rows || v_cols != state.head_dim_v || (v->name && v_rows != n))) {
        PyErr_Format(PyExc_ValueError, "scores, v: expected [%lld, n] and [n, %lld], found [%lld, %lld] and [%lld, %lld]",
                     (long long)state.rows, (long long)state.head_dim_v, (long long)rows, (long long)n,
                     (long long)v_rows, (long long)v_cols);
        checked = -1;
    }
    flashc_status status = FLASHC_OK;
    if (checked == 0) {
        Py_BEGIN_ALLOW_THREADS
        status = flashc_softmax_state_update(&state, n, scores->data, scores_stride, v->name ? v->data : NULL, v_stride);
        Py_END_ALLOW_THREADS
    }
    return finish(views, 5, checked, status);
}

/* state_merge(row_max, row_sum, acc, from_row_max, from_row_sum, from_acc) */
PyObject *flashc_py_state_merge(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    static const argument arguments[] = {STATE_ARGUMENTS, STATE_ARGUMENTS};
    flashc_py_view views[2 * STATE_ARRAYS];
    if (flashc_py_check_count("state_merge", count, 6) != 0 || acquire_all(views, args, arguments, 6) != 0)
        return NULL;
    flashc_softmax_state into, from;
    const int checked = state_of(views, &into) || state_of(views + 3, &from);
    return finish(views, 6, checked, checked == 0 ? flashc_softmax_state_merge(&into, &from) : FLASHC_OK);
}

/* state_finish(row_max, row_sum, acc, o or None, lse) */
PyObject *flashc_py_state_finish(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    static const argument arguments[] = {STATE_ARGUMENTS, {"o", true, true}, {"lse", true, false}};
    flashc_py_view views[5];
    if (flashc_py_check_count("state_finish", count, 5) != 0 || acquire_all(views, args, arguments, 5) != 0)
        return NULL;
    flashc_softmax_state state;
    int checked = state_of(views, &state) || check_packed_f32(&views[4], &views[2], 1);
    if (checked == 0 && views[3].name)
        checked = check_packed_f32(&views[3], &views[2], 0);
    flashc_status status = FLASHC_OK;
    if (checked == 0)
        status = flashc_softmax_state_finish(&state, views[3].name ? views[3].data : NULL, state.head_dim_v,
                                             views[4].data);
    return finish(views, 5, checked, status);
}

/* trace(x, steps): x n contiguous doubles, steps a writable buffer of n flashc_trace_step. */
PyObject *flashc_py_trace(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    Py_buffer x, steps;
    if (flashc_py_check_count("trace", count, 2) != 0 || PyObject_GetBuffer(args[0], &x, PyBUF_SIMPLE) != 0)
        return NULL;
    if (PyObject_GetBuffer(args[1], &steps, PyBUF_WRITABLE) != 0) {
        PyBuffer_Release(&x);
        return NULL;
    }
    const int64_t n = x.len / (Py_ssize_t)sizeof(double);
    flashc_status status = FLASHC_OK;
    const bool fits = steps.len == n * (Py_ssize_t)sizeof(flashc_trace_step);
    if (fits)
        status = flashc_softmax_trace(n, x.buf, steps.buf);
    else
        PyErr_Format(PyExc_ValueError, "steps: expected %zd bytes a step for %lld steps, found %zd bytes",
                     sizeof(flashc_trace_step), (long long)n, steps.len);
    PyBuffer_Release(&x);
    PyBuffer_Release(&steps);
    return finish(NULL, 0, fits ? 0 : -1, status);
}

/* convert(dst, src) */
PyObject *flashc_py_convert(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    static const argument arguments[] = {{"dst", true, false}, {"x", false, false}};
    flashc_py_view views[2];
    if (flashc_py_check_count("convert", count, 2) != 0 || acquire_all(views, args, arguments, 2) != 0)
        return NULL;
    int64_t n = 0;
    const int checked = flashc_py_view_as_flat(&views[0], &n) || flashc_py_view_as_flat(&views[1], &n) ||
                        flashc_py_view_expect_shape_of(&views[0], &views[1], 0);
    flashc_status status = FLASHC_OK;
    if (checked == 0)
        status = flashc_convert(views[0].data, views[0].dtype, views[1].data, views[1].dtype, n);
    return finish(views, 2, checked, status);
}

/* compare(a, b, rtol, atol) -> (equal, mismatches, worst, max_abs_error, max_abs_index), indices into the flat arrays */
PyObject *flashc_py_compare(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    static const argument arguments[] = {{"a", false, false}, {"b", false, false}};
    flashc_py_view views[2];
    if (flashc_py_check_count("compare", count, 4) != 0 || acquire_all(views, args, arguments, 2) != 0)
        return NULL;
    int64_t n = 0;
    const double rtol = PyFloat_AsDouble(args[2]), atol = PyFloat_AsDouble(args[3]);
    const int checked = PyErr_Occurred() || flashc_py_view_as_flat(&views[0], &n) || flashc_py_view_as_flat(&views[1], &n) ||
                        flashc_py_view_expect_shape_of(&views[0], &views[1], 0);
    flashc_compare_report r = {0};
    flashc_status status = FLASHC_OK;
    if (!checked)
        status = flashc_compare(n, views[0].data, views[0].dtype, views[1].data, views[1].dtype, rtol, atol, &r);
    PyObject *none = finish(views, 2, checked, status);
    if (!none)
        return NULL;
    Py_DECREF(none);
    return Py_BuildValue("(NLLdL)", PyBool_FromLong(r.equal), (long long)r.mismatches, (long long)r.worst, r.max_abs_error,
                         (long long)r.max_abs_index);
}

/* is_softmax(y, tolerance) -> bool; a negative tolerance is the type's default */
PyObject *flashc_py_is_softmax(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    static const argument arguments[] = {{"y", false, false}};
    flashc_py_view y[1];
    if (flashc_py_check_count("is_softmax", count, 2) != 0 || acquire_all(y, args, arguments, 1) != 0)
        return NULL;
    int64_t rows = 0, cols = 0, stride = 0;
    int valid = 0;
    const double tolerance = PyFloat_AsDouble(args[1]);
    const int checked = PyErr_Occurred() || flashc_py_view_as_rows(y, &rows, &cols, &stride);
    flashc_status status = FLASHC_OK;
    if (!checked)
        status = flashc_is_softmax(rows, cols, y->data, stride, y->dtype, tolerance, &valid, NULL);
    PyObject *none = finish(y, 1, checked, status);
    if (!none)
        return NULL;
    Py_DECREF(none);
    return PyBool_FromLong(valid);
}
