/* What attention() fills: scores, key_mass and row_max, besides o and lse; and that nothing else is in its memory. */
#include "python/core/apart.h"
#include "python/core/call.h"

static const char *const output_name[N_EXTRA_OUTPUTS] = {"scores", "key_mass", "row_max"};

/* Right-aligned against `axes` sizes, all of them there or 1. The axes of the result: those of flashc.h. */
static int set_output(flashc_py_view *view, int axes, const int64_t size[4], flashc_tensor *out)
{
    char expected[256], found[256];
    *out = (flashc_tensor){.data = view->data, .dtype = view->dtype};
    bool fits = view->ndim <= axes;
    for (int axis = 0; fits && axis < axes; axis++) {
        const int i = axis - (axes - view->ndim);
        fits = size[axis] == (i < 0 ? 1 : view->shape[i]);
        out->stride[axis] = i < 0 ? 0 : view->stride[i];
    }
    if (fits)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected shape %s, found %s", view->name,
                 flashc_py_shape_text(expected, sizeof expected, size, axes),
                 flashc_py_shape_text(found, sizeof found, view->shape, view->ndim));
    return -1;
}

static int set_stage(flashc_attention_params *p, PyObject *stage)
{
    static const char *const stages[] = {"scaled", "capped", "masked", "weights"};
    for (int i = 0; i < 4 && PyUnicode_Check(stage); i++)
        if (PyUnicode_CompareWithASCIIString(stage, stages[i]) == 0) {
            p->scores_stage = (flashc_score_stage)i;
            return 0;
        }
    PyErr_Format(PyUnicode_Check(stage) ? PyExc_ValueError : PyExc_TypeError,
                 "scores_stage: expected 'scaled', 'capped', 'masked' or 'weights', found %R", stage);
    return -1;
}

int flashc_py_call_set_outputs(flashc_py_call *c, PyObject *features)
{
    flashc_attention_params *p = &c->params;
    const int64_t batch_q = p->cu_seqlens_q ? 1 : p->batch, batch_k = p->cu_seqlens_k ? 1 : p->batch;
    const int64_t size[N_EXTRA_OUTPUTS][4] = {{batch_q, p->num_heads, p->seqlen_q, p->seqlen_k},
                                              {batch_k, p->num_heads, p->seqlen_k},
                                              {batch_q, p->num_heads, p->seqlen_q}};
    flashc_tensor *const tensor[N_EXTRA_OUTPUTS] = {&p->scores, &p->key_mass, &p->row_max};
    for (int i = 0; i < N_EXTRA_OUTPUTS; i++) {
        flashc_py_view *view = &c->extra[i];
        PyObject *object = PyTuple_GetItem(features, FIRST_EXTRA_OUTPUT + i);
        if (object == Py_None)
            continue;
        if (flashc_py_view_acquire_output(view, object, output_name[i]) != 0 ||
            (i == 0 ? flashc_py_view_expect_float(view) : flashc_py_view_expect_dtype(view, FLASHC_F32)) != 0 ||
            set_output(view, i == 0 ? 4 : 3, size[i], tensor[i]) != 0)
            return -1;
    }
    return p->scores.data ? set_stage(p, PyTuple_GetItem(features, SCORES_STAGE)) : 0;
}

int flashc_py_call_check_apart(const flashc_py_call *c, PyObject *o, const flashc_py_view *more, int n_more)
{
    enum { MAX_MORE = 4, MAX_EXTENTS = N_TENSORS + N_FEATURE_ARRAYS + N_EXTRA_OUTPUTS + 1 + MAX_MORE };
    flashc_py_extent extents[MAX_EXTENTS];
    int n = 0;
    if (!PyUnicode_Check(o))
        extents[n++] = flashc_py_extent_of(&c->view[O]);
    extents[n++] = flashc_py_extent_of(&c->view[LSE]);
    for (int i = 0; i < N_EXTRA_OUTPUTS; i++)
        extents[n++] = flashc_py_extent_of(&c->extra[i]);
    if (c->workspace.obj) {
        const uintptr_t low = (uintptr_t)c->workspace.buf;
        extents[n++] = (flashc_py_extent){"workspace", NULL, low, low + (uintptr_t)c->workspace.len};
    }
    const int outputs = n;
    for (int i = 0; i < N_TENSORS; i++)
        if (i != O && i != LSE)
            extents[n++] = flashc_py_extent_of(&c->view[i]);
    for (int i = 0; i < N_FEATURE_ARRAYS; i++)
        extents[n++] = flashc_py_extent_of(&c->feature[i]);
    for (int i = 0; i < n_more && i < MAX_MORE; i++)
        extents[n++] = flashc_py_extent_of(&more[i]);
    return flashc_py_expect_extents_apart(extents, outputs, n);
}
