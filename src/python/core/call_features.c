/* What most calls leave out: softcap, window, ALiBi, sinks, lengths, a block mask, a score_mod. */
#include "python/core/arguments.h"
#include "python/core/call.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

static const char *const feature_name[N_FEATURES] = {"softcap",    "window",    "block_mask_tile", "score_mod",
                                                     "alibi_slopes", "sinks",   "block_mask",      "k_scale",
                                                     "v_scale",    "seqlens_q", "seqlens_k",       "leftpad_k",
                                                     "scores",     "key_mass",  "row_max",         "scores_stage"};

static int set_softcap(flashc_py_call *c, PyObject *softcap)
{
    const double value = PyFloat_AsDouble(softcap);
    if (PyErr_Occurred())
        return flashc_py_wrong_argument("softcap", "a number", softcap);
    if (value != 0 && !(value >= (double)FLT_MIN && value <= (double)FLT_MAX)) {
        PyErr_Format(PyExc_ValueError, "softcap: expected a positive float32 number, or 0 or None for none, found %R",
                     softcap);
        return -1;
    }
    c->params.softcap = (float)value;
    return 0;
}

/* A pair of ints; none_is: what None stands for (0: not allowed). */
static int get_pair(const char *name, PyObject *object, int64_t none_is, int64_t pair[2])
{
    if (!PyTuple_Check(object) || PyTuple_Size(object) != 2)
        return flashc_py_wrong_argument(name, "a tuple of two ints", object);
    for (int i = 0; i < 2; i++) {
        PyObject *item = PyTuple_GetItem(object, i);
        if (item == Py_None && none_is != 0) {
            pair[i] = none_is;
            continue;
        }
        PyObject *number = PyBool_Check(item) ? NULL : PyNumber_Index(item);
        pair[i] = number ? PyLong_AsLongLong(number) : -1;
        Py_XDECREF(number);
        if (!number || PyErr_Occurred())
            return flashc_py_wrong_argument(name, "a tuple of two ints", object);
    }
    return 0;
}

static int wrong_shape(const flashc_py_view *view, const char *expected)
{
    char shape[256];
    PyErr_Format(PyExc_ValueError, "%s: expected %s, found %s", view->name, expected,
                 flashc_py_shape_text(shape, sizeof shape, view->shape, view->ndim));
    return -1;
}

/* A C-contiguous float32 array, [heads], or [batch, heads] where that is allowed. */
static int set_per_head(const flashc_py_call *c, const flashc_py_view *view, bool per_batch, const float **out)
{
    char expected[128];
    int64_t n;
    const int64_t batch = c->params.batch, heads = c->params.num_heads;
    if (flashc_py_view_expect_dtype(view, FLASHC_F32) != 0 || flashc_py_view_as_flat(view, &n) != 0)
        return -1;
    *out = view->data;
    if ((view->ndim == 1 && view->shape[0] == heads) ||
        (per_batch && view->ndim == 2 && view->shape[0] == batch && view->shape[1] == heads))
        return 0;
    PyOS_snprintf(expected, sizeof expected, per_batch ? "[%lld] (heads) or [%lld, %lld]" : "[%lld] (heads)",
                  (long long)heads, (long long)batch, (long long)heads);
    return wrong_shape(view, expected);
}

/* Right-aligned against [batch, heads, tiles of queries, tiles of keys]; 1 repeats along the first two. */
static int set_block_mask(flashc_py_call *c, const flashc_py_view *view, PyObject *tile)
{
    char expected[160];
    int64_t pair[2];
    flashc_attention_params *p = &c->params;
    if (flashc_py_view_expect_dtype(view, FLASHC_BOOL) != 0)
        return -1;
    if (get_pair("block_mask_tile", tile, 0, pair) != 0)
        return -1;
    if (pair[0] < 1 || pair[1] < 1) {
        PyErr_Format(PyExc_ValueError, "block_mask_tile: expected two positive ints, found %R", tile);
        return -1;
    }
    const int64_t queries = flashc_py_call_longest(p->cu_seqlens_q, p->batch, p->seqlen_q);
    const int64_t keys = c->keys_in_all >= 0 ? c->keys_in_all
                                             : flashc_py_call_longest(p->cu_seqlens_k, p->batch, p->seqlen_k);
    const int64_t sizes[4] = {p->batch, p->num_heads, queries / pair[0] + (queries % pair[0] != 0),
                              keys / pair[1] + (keys % pair[1] != 0)};
    p->block_mask = (flashc_tensor){.data = view->data, .dtype = FLASHC_BOOL};
    p->block_mask_m = pair[0];
    p->block_mask_n = pair[1];
    bool fits = view->ndim >= 2 && view->ndim <= 4;
    for (int i = 0; fits && i < view->ndim; i++) {
        const int axis = 4 - view->ndim + i;
        fits = view->shape[i] == sizes[axis] || (axis < 2 && view->shape[i] == 1);
        p->block_mask.stride[axis] = view->shape[i] == 1 ? 0 : view->stride[i];
    }
    if (fits)
        return 0;
    flashc_py_shape_text(expected, sizeof expected, sizes, 4);
    return wrong_shape(view, strcat(expected, " (batch, heads, tiles), the first two perhaps 1 or missing"));
}

/* Runs in whatever thread works on the item. The scores go to Python as bytes of their own, [queries, keys], and come
 * back as bytes: nothing that the function keeps can point into the workspace. */
static PyObject *call_with_copy(flashc_py_call *c, const flashc_score_block *b, float *copy)
{
    const Py_ssize_t size = (Py_ssize_t)((size_t)(b->n_queries * b->n_keys) * sizeof *copy);
    for (int64_t i = 0; i < b->n_queries; i++)
        for (int64_t j = 0; j < b->n_keys; j++)
            copy[i * b->n_keys + j] = b->scores[i * b->query_stride + j * b->key_stride];
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)copy, size);
    PyObject *result = bytes ? PyObject_CallFunction(c->score_mod, "OLLLLLL", bytes, (long long)b->n_queries,
                                                     (long long)b->n_keys, (long long)b->batch, (long long)b->head,
                                                     (long long)b->first_query, (long long)b->first_key)
                             : NULL;
    Py_XDECREF(bytes);
    if (result && (!PyBytes_Check(result) || PyBytes_Size(result) != size)) {
        Py_DECREF(result);
        PyErr_SetString(PyExc_TypeError, "score_mod: expected as many float32 scores as were given");
        return NULL;
    }
    return result;
}

static void run_score_mod(void *user_data, const flashc_score_block *b)
{
    flashc_py_call *c = user_data;
    float *copy = malloc((size_t)(b->n_queries * b->n_keys) * sizeof *copy);
    const PyGILState_STATE state = PyGILState_Ensure();
    PyObject *result = NULL;
    if (!c->error[0]) { /* else the call is ending */
        result = copy ? call_with_copy(c, b, copy) : PyErr_NoMemory();
        if (!result)
            PyErr_Fetch(&c->error[0], &c->error[1], &c->error[2]);
    }
    if (result)
        memcpy(copy, PyBytes_AsString(result), (size_t)PyBytes_Size(result));
    for (int64_t i = 0; result && i < b->n_queries; i++)
        for (int64_t j = 0; j < b->n_keys; j++)
            b->scores[i * b->query_stride + j * b->key_stride] = copy[i * b->n_keys + j];
    Py_XDECREF(result);
    PyGILState_Release(state);
    free(copy);
}

bool flashc_py_call_raise_of_score_mod(flashc_py_call *c)
{
    if (!c->error[0])
        return false;
    PyErr_Restore(c->error[0], c->error[1], c->error[2]);
    c->error[1] = c->error[2] = NULL;
    c->error[0] = Py_NewRef(Py_None); /* still there: score_mod is not called again */
    return true;
}

static int acquire_arrays(flashc_py_call *c, PyObject *features)
{
    for (int i = 0; i < N_FEATURE_ARRAYS; i++) {
        PyObject *object = PyTuple_GetItem(features, FIRST_FEATURE_ARRAY + i);
        if (object != Py_None &&
            flashc_py_view_acquire(&c->feature[i], object, feature_name[FIRST_FEATURE_ARRAY + i],
                                   FLASHC_PY_FLOATS) != 0)
            return -1;
    }
    return 0;
}

static int set_lengths(flashc_py_call *c, PyObject *features)
{
    const int64_t **const fields[N_LENGTHS] = {&c->params.seqlens_q, &c->params.seqlens_k, &c->params.leftpad_k};
    for (int i = 0; i < N_LENGTHS; i++) {
        PyObject *object = PyTuple_GetItem(features, FIRST_LENGTHS + i);
        if (object == Py_None)
            continue;
        c->lengths[i] = flashc_py_integers_per_batch(object, feature_name[FIRST_LENGTHS + i],
                                                     "an int or one per batch element", c->params.batch);
        if (!c->lengths[i])
            return -1;
        *fields[i] = c->lengths[i];
    }
    const flashc_attention_params *p = &c->params;
    const char *why = "which says the same";
    return flashc_py_expect_apart("seqlens_q", p->seqlens_q, "cu_seqlens_q", p->cu_seqlens_q, why) != 0
               ? -1
               : flashc_py_expect_apart("seqlens_k", p->seqlens_k, "cu_seqlens_k", p->cu_seqlens_k, why);
}

/* Where positions count there must be some. */
static int check_align(const flashc_attention_params *p)
{
    const char *asks = p->window_left >= 0 || p->window_right >= 0 ? "window" : p->alibi_slopes ? "alibi_slopes" : NULL;
    if (!asks || p->alignment != FLASHC_ALIGN_UNSET)
        return 0;
    PyErr_Format(PyExc_ValueError, "align: %s needs 'top-left', 'bottom-right' or the position of query 0, found None",
                 asks);
    return -1;
}

int flashc_py_call_set_features(flashc_py_call *c, PyObject *features)
{
    flashc_attention_params *p = &c->params;
    if (!PyTuple_Check(features) || PyTuple_Size(features) != N_FEATURES)
        return flashc_py_wrong_argument("features", "None or a tuple of all of them", features);
    PyObject *softcap = PyTuple_GetItem(features, SOFTCAP), *window = PyTuple_GetItem(features, WINDOW);
    PyObject *score_mod = PyTuple_GetItem(features, SCORE_MOD);
    int64_t pair[2] = {-1, -1};
    if ((softcap != Py_None && set_softcap(c, softcap) != 0) ||
        (window != Py_None && get_pair("window", window, -1, pair) != 0) || acquire_arrays(c, features) != 0 ||
        set_lengths(c, features) != 0)
        return -1;
    if (pair[0] < -1 || pair[1] < -1) {
        PyErr_Format(PyExc_ValueError, "window: expected numbers of keys, -1 or None for all, found %R", window);
        return -1;
    }
    p->window_left = pair[0];
    p->window_right = pair[1];
    if (flashc_py_set_scale(flashc_py_call_feature(c, K_SCALE), &c->view[K], c->bshd, &p->k_scale) != 0 ||
        flashc_py_set_scale(flashc_py_call_feature(c, V_SCALE), &c->view[V], c->bshd, &p->v_scale) != 0)
        return -1;
    const flashc_py_view *slopes = flashc_py_call_feature(c, ALIBI_SLOPES), *sinks = flashc_py_call_feature(c, SINKS);
    const flashc_py_view *block_mask = flashc_py_call_feature(c, BLOCK_MASK);
    if ((slopes->name && set_per_head(c, slopes, true, &p->alibi_slopes) != 0) ||
        (sinks->name && set_per_head(c, sinks, false, &p->sinks) != 0) ||
        (block_mask->name && set_block_mask(c, block_mask, PyTuple_GetItem(features, BLOCK_MASK_TILE)) != 0))
        return -1;
    p->alibi_batch_stride = slopes->name && slopes->ndim == 2 ? p->num_heads : 0;
    if (score_mod != Py_None) {
        c->score_mod = score_mod;
        p->score_mod = run_score_mod;
        p->score_mod_user_data = c;
    }
    return flashc_py_call_set_outputs(c, features) != 0 ? -1 : check_align(p);
}

void flashc_py_call_release_features(flashc_py_call *c)
{
    for (int i = 0; i < N_FEATURE_ARRAYS; i++)
        flashc_py_view_release(&c->feature[i]);
    for (int i = 0; i < N_LENGTHS; i++)
        free(c->lengths[i]);
    for (int i = 0; i < N_EXTRA_OUTPUTS; i++)
        flashc_py_view_release(&c->extra[i]);
    for (int i = 0; i < 3; i++)
        Py_CLEAR(c->error[i]);
}
