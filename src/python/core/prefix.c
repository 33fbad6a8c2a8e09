/* flashc._core.shared_prefix_attention() and .explain_shared_prefix(). */
#include "python/core/arguments.h"
#include "python/core/call.h"

enum { PREFIX_K, PREFIX_V, PREFIX_K_SCALE, PREFIX_V_SCALE, N_PREFIX };

static const flashc_py_argument arguments[N_PREFIX] = {
    {"prefix_k", .types = FLASHC_PY_CACHES},
    {"prefix_v", .types = FLASHC_PY_CACHES},
    {"prefix_k_scale", .optional = true},
    {"prefix_v_scale", .optional = true},
};

/* *rows: as many as there must be; < 0: any, which are put there. */
static int set_rows(const flashc_py_call *c, const flashc_py_view *view, int64_t columns, int64_t *rows,
                    flashc_tensor *tensor)
{
    char shape[256];
    int64_t size[4];
    const int ndim = c->view[Q].ndim == 2 ? 2 : 3;
    if (view->ndim == ndim) {
        *tensor = flashc_py_call_tensor(view, c->bshd, size);
        if (size[1] == c->params.num_heads_k && size[3] == columns && (*rows < 0 || size[2] == *rows)) {
            *rows = size[2];
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "%s: expected %d axes, %lld K/V heads, %lld columns%s, found %s", view->name, ndim,
                 (long long)c->params.num_heads_k, (long long)columns, *rows < 0 ? "" : " and the rows of prefix_k",
                 flashc_py_shape_text(shape, sizeof shape, view->shape, view->ndim));
    return -1;
}

static int set_prefix(const flashc_py_call *c, const flashc_py_view *views, flashc_py_prefix *with_scales)
{
    flashc_shared_prefix *prefix = &with_scales->shared;
    flashc_py_scales *scales = with_scales->scales;
    flashc_shared_prefix_init(prefix, sizeof *prefix);
    prefix->seqlen = -1;
    scales[0] = (flashc_py_scales){"prefix->k_scale", "prefix_k_scale", &views[PREFIX_K_SCALE], &views[PREFIX_K],
                                   c->bshd};
    scales[1] = (flashc_py_scales){"prefix->v_scale", "prefix_v_scale", &views[PREFIX_V_SCALE], &views[PREFIX_V],
                                   c->bshd};
    if (set_rows(c, &views[PREFIX_K], c->params.head_dim, &prefix->seqlen, &prefix->k) != 0 ||
        set_rows(c, &views[PREFIX_V], c->params.head_dim_v, &prefix->seqlen, &prefix->v) != 0)
        return -1;
    if (flashc_py_check_scales(scales, N_CALL_SCALES) != 0 ||
        flashc_py_set_scale(&views[PREFIX_K_SCALE], &views[PREFIX_K], c->bshd, &prefix->k_scale) != 0)
        return -1;
    return flashc_py_set_scale(&views[PREFIX_V_SCALE], &views[PREFIX_V], c->bshd, &prefix->v_scale);
}

static void release_views(flashc_py_view views[N_PREFIX])
{
    for (int i = 0; i < N_PREFIX; i++)
        if (views[i].name)
            flashc_py_view_release(&views[i]);
}

/* Takes the arguments of a function: n_own of attention() or explain(), then the prefix's. -1, with nothing left to be
 * released, after an exception. */
static int acquire(PyObject *const *args, int n_own, bool plan_only, flashc_py_view views[N_PREFIX], flashc_py_call *c,
                   flashc_py_prefix *prefix)
{
    if (flashc_py_acquire_all(views, args + n_own, arguments, N_PREFIX) != 0)
        return -1;
    if (flashc_py_call_build(c, args, plan_only) == 0 && set_prefix(c, views, prefix) == 0 &&
        flashc_py_call_check_apart(c, args[O], views, N_PREFIX) == 0)
        return 0;
    flashc_py_call_release(c);
    release_views(views);
    return -1;
}

/* shared_prefix_attention(the arguments of attention, prefix_k, prefix_v, prefix_k_scale, prefix_v_scale) */
PyObject *flashc_py_shared_prefix_attention(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    flashc_py_view views[N_PREFIX];
    flashc_py_prefix prefix;
    flashc_py_call c;
    if (flashc_py_check_count("shared_prefix_attention", count, N_ATTENTION + N_PREFIX) != 0 ||
        acquire(args, N_ATTENTION, false, views, &c, &prefix) != 0)
        return NULL;
    PyObject *result = flashc_py_call_run(&c, args[PROGRESS], &prefix);
    release_views(views);
    return result;
}

/* explain_shared_prefix(the arguments of explain, prefix_k, prefix_v, prefix_k_scale, prefix_v_scale) */
PyObject *flashc_py_explain_shared_prefix(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    flashc_py_view views[N_PREFIX];
    flashc_py_prefix prefix;
    flashc_py_call c;
    flashc_explanation on_prefix = {.struct_size = sizeof on_prefix}, own = {.struct_size = sizeof own};
    if (flashc_py_check_count("explain_shared_prefix", count, N_EXPLAIN + N_PREFIX) != 0 ||
        acquire(args, N_EXPLAIN, true, views, &c, &prefix) != 0)
        return NULL;
    const flashc_status status = flashc_explain_shared_prefix(&c.params, &prefix.shared, &on_prefix, &own);
    if (status != FLASHC_OK)
        flashc_py_raise(status);
    flashc_py_call_release(&c);
    release_views(views);
    return status == FLASHC_OK ? Py_BuildValue("(NN)", flashc_py_explanation(&on_prefix), flashc_py_explanation(&own))
                               : NULL;
}
