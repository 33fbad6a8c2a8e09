/* The functions of flashc.h's section 5 on Python arrays: checks shapes, calls, nothing else. */
#include "python/core/arguments.h"

#include <stdlib.h>

/* softmax(x, y, lse or None) */
PyObject *flashc_py_softmax(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    static const flashc_py_argument arguments[] = {{"x", false, false}, {"out", true, false}, {"lse", true, true}};
    flashc_py_view views[3];
    if (flashc_py_check_count("softmax", count, 3) != 0 || flashc_py_acquire_all(views, args, arguments, 3) != 0)
        return NULL;
    const flashc_py_view *x = &views[0], *y = &views[1], *lse = &views[2];
    int64_t rows = 0, cols = 0, x_stride = 0, y_rows, y_cols, y_stride = 0, n_lse;
    int checked = flashc_py_view_expect_float(x) || flashc_py_view_as_rows(x, &rows, &cols, &x_stride);
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
    return flashc_py_finish(views, 3, checked, status);
}

/* An f32 array that must be packed, with `like`'s shape less `dropped` axes. */
static int check_packed_f32(const flashc_py_view *view, const flashc_py_view *like, int dropped)
{
    int64_t n;
    return flashc_py_view_expect_dtype(view, FLASHC_F32) || flashc_py_view_expect_shape_of(view, like, dropped) ||
           flashc_py_view_as_flat(view, &n);
}

/* LSE of o: its rows, in layout "bshd" with the last two axes, seqlen and heads, the other way round. */
static int check_lse_part(const flashc_py_view *lse, const flashc_py_view *o, bool swapped)
{
    char expected[256], found[256];
    int64_t shape[FLASHC_PY_MAX_NDIM] = {0}, n;
    const int ndim = o->ndim - 1;
    bool fits = lse->ndim == ndim, fits_other = fits && ndim > 1;
    for (int i = 0; i < ndim; i++) {
        const int other = i < ndim - 2 || ndim < 2 ? i : 2 * ndim - 3 - i;
        shape[i] = o->shape[swapped ? other : i];
        fits = fits && lse->shape[i] == shape[i];
        fits_other = fits_other && lse->shape[i] == o->shape[swapped ? i : other];
    }
    if (fits)
        return flashc_py_view_expect_dtype(lse, FLASHC_F32) || flashc_py_view_as_flat(lse, &n);
    PyErr_Format(PyExc_ValueError, "%s: expected shape %s (of o_parts, in layout '%s'), found %s%s", lse->name,
                 flashc_py_shape_text(expected, sizeof expected, shape, ndim), swapped ? "bshd" : "bhsd",
                 flashc_py_shape_text(found, sizeof found, lse->shape, lse->ndim),
                 !fits_other ? "" : swapped ? ", that of layout 'bhsd'" : ", that of layout 'bshd'");
    return -1;
}

/* to[b][c][r] = from[b][r][c] */
static void swap_axes(const float *from, float *to, int64_t batch, int64_t rows, int64_t columns)
{
    for (int64_t b = 0; b < batch; b++, from += rows * columns, to += rows * columns)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < columns; c++)
                to[c * rows + r] = from[r * columns + c];
}

/* flashc_merge_partials(), whose LSE lies as the rows of O do: in layout "bshd" (o [batch, seqlen, heads, head_dim_v])
 * on copies, n and one, since that of attention is [batch, heads, seqlen] in any layout. */
static flashc_status merge(int64_t n, int64_t rows, const flashc_py_view *o, const float **parts, float *lse,
                           float *copies)
{
    const int64_t cols = o->shape[o->ndim - 1];
    if (!copies || rows == 0)
        return flashc_merge_partials(n, rows, cols, parts, parts + n, o->data, lse);
    const int64_t heads = o->shape[o->ndim - 2], seqlen = o->shape[o->ndim - 3], batch = rows / heads / seqlen;
    float *merged = copies + n * rows;
    for (int64_t i = 0; i < n; i++) {
        swap_axes(parts[n + i], copies + i * rows, batch, heads, seqlen);
        parts[n + i] = copies + i * rows;
    }
    const flashc_status status = flashc_merge_partials(n, rows, cols, parts, parts + n, o->data, merged);
    swap_axes(merged, lse, batch, seqlen, heads);
    return status;
}

/* merge_partials(o_parts, lse_parts, o, lse, bshd): two tuples of n arrays, two outputs. */
PyObject *flashc_py_merge_partials(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    static const flashc_py_argument outputs[] = {{"o", true, false}, {"lse", true, false}};
    if (flashc_py_check_count("merge_partials", count, 5) != 0)
        return NULL;
    const int bshd = PyObject_IsTrue(args[4]);
    if (bshd < 0)
        return NULL;
    if (!PyTuple_Check(args[0]) || !PyTuple_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "o_parts, lse_parts: expected two tuples");
        return NULL;
    }
    const Py_ssize_t n = PyTuple_Size(args[0]);
    if (n < 1 || PyTuple_Size(args[1]) != n) {
        PyErr_Format(PyExc_ValueError, "lse_parts: expected as many as o_parts, %zd, and at least one, found %zd", n,
                     PyTuple_Size(args[1]));
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
    float *copies = NULL;
    flashc_status status = FLASHC_OK;
    int64_t rows = 0, cols = 0, stride;
    int checked = flashc_py_acquire_all(out, args + 2, outputs, 2);
    if (checked == 0)
        checked = flashc_py_view_as_rows(&out[0], &rows, &cols, &stride) || check_packed_f32(&out[0], &out[0], 0) ||
                  check_lse_part(&out[1], &out[0], bshd && out[0].ndim > 2);
    for (Py_ssize_t i = 0; checked == 0 && i < 2 * n; i++) {
        const int is_lse = i >= n;
        checked = flashc_py_view_acquire(&views[i], PyTuple_GetItem(args[is_lse], i % n),
                                         is_lse ? "lse_parts" : "o_parts", FLASHC_PY_FLOATS) ||
                  (is_lse ? check_lse_part(&views[i], &out[0], bshd && out[0].ndim > 2)
                          : check_packed_f32(&views[i], &out[0], 0));
        parts[i] = views[i].data;
    }
    if (checked == 0 && bshd && out[0].ndim > 2) {
        copies = calloc((size_t)(n + 1) * (size_t)rows + 1, sizeof *copies);
        if (!copies)
            PyErr_NoMemory();
        checked = copies ? 0 : -1;
    }
    if (checked == 0) {
        Py_BEGIN_ALLOW_THREADS
        status = merge(n, rows, &out[0], parts, out[1].data, copies);
        Py_END_ALLOW_THREADS
    }
    PyObject *result = flashc_py_finish(views, (int)(2 * n + 2), checked, status);
    free(views);
    free(parts);
    free(copies);
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
    static const flashc_py_argument arguments[] = {STATE_ARGUMENTS};
    flashc_py_view views[STATE_ARRAYS];
    if (flashc_py_check_count("state_init", count, 3) != 0 || flashc_py_acquire_all(views, args, arguments, 3) != 0)
        return NULL;
    flashc_softmax_state state;
    const int checked = state_of(views, &state);
    flashc_status status = FLASHC_OK;
    if (checked == 0) {
        Py_BEGIN_ALLOW_THREADS
        status = flashc_softmax_state_init(&state);
        Py_END_ALLOW_THREADS
    }
    return flashc_py_finish(views, 3, checked, status);
}

/* state_update(row_max, row_sum, acc, scores [rows, n], v [n, head_dim_v] or None) */
PyObject *flashc_py_state_update(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    static const flashc_py_argument arguments[] = {STATE_ARGUMENTS, {"scores", false, false}, {"v", false, true}};
    flashc_py_view views[5];
    if (flashc_py_check_count("state_update", count, 5) != 0 || flashc_py_acquire_all(views, args, arguments, 5) != 0)
        return NULL;
    const flashc_py_view *scores = &views[3], *v = &views[4];
    flashc_softmax_state state;
    int64_t rows = 0, n = 0, scores_stride = 0, v_rows = 0, v_cols = 0, v_stride = 0;
    int checked = state_of(views, &state) || flashc_py_view_expect_dtype(scores, FLASHC_F32) ||
                  flashc_py_view_as_rows(scores, &rows, &n, &scores_stride);
    if (checked == 0 && v->name)
        checked = flashc_py_view_expect_dtype(v, FLASHC_F32) || flashc_py_view_as_rows(v, &v_rows, &v_cols, &v_stride);
    if (checked == 0 && (rows != state.rows || v_cols != state.head_dim_v || (v->name && v_rows != n))) {
        PyErr_Format(PyExc_ValueError,
                     "scores, v: expected [%lld, n] and [n, %lld], found [%lld, %lld] and [%lld, %lld]",
                     (long long)state.rows, (long long)state.head_dim_v, (long long)rows, (long long)n,
                     (long long)v_rows, (long long)v_cols);
        checked = -1;
    }
    flashc_status status = FLASHC_OK;
    if (checked == 0) {
        Py_BEGIN_ALLOW_THREADS
        status = flashc_softmax_state_update(&state, n, scores->data, scores_stride, v->name ? v->data : NULL,
                                             v_stride);
        Py_END_ALLOW_THREADS
    }
    return flashc_py_finish(views, 5, checked, status);
}

/* state_merge(row_max, row_sum, acc, from_row_max, from_row_sum, from_acc) */
PyObject *flashc_py_state_merge(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    static const flashc_py_argument arguments[] = {STATE_ARGUMENTS, STATE_ARGUMENTS};
    flashc_py_view views[2 * STATE_ARRAYS];
    if (flashc_py_check_count("state_merge", count, 6) != 0 || flashc_py_acquire_all(views, args, arguments, 6) != 0)
        return NULL;
    flashc_softmax_state into, from;
    const int checked = state_of(views, &into) || state_of(views + 3, &from);
    flashc_status status = FLASHC_OK;
    if (checked == 0) {
        Py_BEGIN_ALLOW_THREADS
        status = flashc_softmax_state_merge(&into, &from);
        Py_END_ALLOW_THREADS
    }
    return flashc_py_finish(views, 6, checked, status);
}

/* state_finish(row_max, row_sum, acc, o or None, lse) */
PyObject *flashc_py_state_finish(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    static const flashc_py_argument arguments[] = {STATE_ARGUMENTS, {"o", true, true}, {"lse", true, false}};
    flashc_py_view views[5];
    if (flashc_py_check_count("state_finish", count, 5) != 0 || flashc_py_acquire_all(views, args, arguments, 5) != 0)
        return NULL;
    flashc_softmax_state state;
    int checked = state_of(views, &state) || check_packed_f32(&views[4], &views[2], 1);
    if (checked == 0 && views[3].name)
        checked = check_packed_f32(&views[3], &views[2], 0);
    flashc_status status = FLASHC_OK;
    if (checked == 0) {
        Py_BEGIN_ALLOW_THREADS
        status = flashc_softmax_state_finish(&state, views[3].name ? views[3].data : NULL, state.head_dim_v,
                                             views[4].data);
        Py_END_ALLOW_THREADS
    }
    return flashc_py_finish(views, 5, checked, status);
}

/* trace(x, steps): x n contiguous doubles, steps a writable buffer of n flashc_trace_step. */
PyObject *flashc_py_trace(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    Py_buffer x, steps;
    if (flashc_py_check_count("trace", count, 2) != 0)
        return NULL;
    if (PyObject_GetBuffer(args[0], &x, PyBUF_SIMPLE) != 0) {
        PyErr_SetString(PyExc_TypeError, "x: expected a contiguous buffer of float64");
        return NULL;
    }
    if (PyObject_GetBuffer(args[1], &steps, PyBUF_WRITABLE) != 0) {
        PyErr_SetString(PyExc_TypeError, "steps: expected a contiguous buffer that can be written");
        PyBuffer_Release(&x);
        return NULL;
    }
    const int64_t n = x.len / (Py_ssize_t)sizeof(double);
    flashc_status status = FLASHC_OK;
    const bool fits = steps.len == n * (Py_ssize_t)sizeof(flashc_trace_step);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        status = flashc_softmax_trace(n, x.buf, steps.buf);
        Py_END_ALLOW_THREADS
    } else {
        PyErr_Format(PyExc_ValueError, "steps: expected %zd bytes a step for %lld steps, found %zd bytes",
                     sizeof(flashc_trace_step), (long long)n, steps.len);
    }
    PyObject *result = flashc_py_finish(NULL, 0, fits ? 0 : -1, status);
    PyBuffer_Release(&x);
    PyBuffer_Release(&steps);
    return result;
}
