#include "python/core/call.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int set_offsets(flashc_py_call *c, PyObject *align)
{
    c->offsets = flashc_py_integers_per_batch(
        align, "align", "'top-left', 'bottom-right', a position (int) or one per batch element", c->params.batch);
    if (!c->offsets)
        return -1;
    c->params.alignment = FLASHC_ALIGN_EXPLICIT;
    c->params.offsets = c->offsets;
    return 0;
}

static int set_alignment(flashc_py_call *c, PyObject *align)
{
    if (align == Py_None) {
        if (!c->params.causal)
            return 0;
        PyErr_SetString(PyExc_ValueError, "align: causal needs 'top-left' (torch's is_causal), 'bottom-right' "
                        "(FlashAttention, KV caches) or the position of query 0, found None");
        return -1;
    }
    if (!PyUnicode_Check(align))
        return set_offsets(c, align);
    if (PyUnicode_CompareWithASCIIString(align, "top-left") == 0)
        c->params.alignment = FLASHC_ALIGN_TOP_LEFT;
    else if (PyUnicode_CompareWithASCIIString(align, "bottom-right") == 0)
        c->params.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
    else {
        PyErr_Format(PyExc_ValueError, "align: expected 'top-left', 'bottom-right' or positions, found %R", align);
        return -1;
    }
    return 0;
}

int flashc_py_call_set_workspace(flashc_py_call *c, PyObject *workspace)
{
    if (workspace == Py_None)
        return 0;
    if (PyObject_GetBuffer(workspace, &c->workspace, PyBUF_WRITABLE) != 0)
        return flashc_py_wrong_argument("workspace", "a writable contiguous buffer", (PyObject *)Py_TYPE(workspace));
    c->params.workspace = c->workspace.buf;
    c->params.workspace_size = (size_t)c->workspace.len;
    return 0;
}

static int set_compute(flashc_py_call *c, PyObject *compute)
{
    if (compute == Py_None)
        return 0;
    const bool is_text = PyUnicode_Check(compute);
    if (is_text && PyUnicode_CompareWithASCIIString(compute, "f32") == 0)
        c->params.compute = FLASHC_COMPUTE_F32;
    else if (is_text && PyUnicode_CompareWithASCIIString(compute, "bf16") == 0)
        c->params.compute = FLASHC_COMPUTE_BF16;
    else {
        PyErr_Format(is_text ? PyExc_ValueError : PyExc_TypeError, "compute: expected 'f32' or 'bf16', found %R",
                     compute);
        return -1;
    }
    return 0;
}

static int build(flashc_py_call *c, PyObject *const *args, bool plan_only, int64_t keys_in_all)
{
    memset(c, 0, sizeof *c);
    c->keys_in_all = keys_in_all;
    flashc_attention_params *p = &c->params;
    flashc_attention_params_init(p, sizeof *p);
    const int bshd = PyObject_IsTrue(args[BSHD]);
    c->bshd = bshd > 0;
    p->causal = flashc_py_flag(args[CAUSAL], "causal");
    if (p->causal < 0)
        return -1;
    if (bshd < 0 || flashc_py_call_take_sequences(c, args[SEQUENCES]) != 0 ||
        flashc_py_call_set_tensors(c, args, bshd, plan_only) != 0 || set_alignment(c, args[ALIGN]) != 0)
        return -1;
    if (args[SCALE] != Py_None) {
        const double scale = PyFloat_AsDouble(args[SCALE]);
        if (PyErr_Occurred())
            return flashc_py_wrong_argument("scale", "a number", args[SCALE]);
        /* -inf is the C interface's word for the default; here that word is None. */
        if (!(fabs(scale) <= (double)FLT_MAX)) {
            PyErr_Format(PyExc_ValueError, "scale: expected a finite float32 number, found %R", args[SCALE]);
            return -1;
        }
        if (scale != 0.0 && (float)scale == 0.0f) {
            PyErr_Format(PyExc_ValueError, "scale: expected 0 or a number that float32 has, found %R", args[SCALE]);
            return -1;
        }
        p->softmax_scale = (float)scale;
    }
    const long num_threads = PyLong_AsLong(args[NUM_THREADS]);
    if (PyErr_Occurred())
        return flashc_py_wrong_argument("num_threads", "an int", args[NUM_THREADS]);
    p->num_threads = num_threads > INT_MAX ? INT_MAX : num_threads < INT_MIN ? INT_MIN : (int)num_threads;
    if (args[KERNEL] != Py_None) {
        if (!PyUnicode_Check(args[KERNEL]) || !(c->kernel = PyUnicode_AsUTF8String(args[KERNEL])))
            return flashc_py_wrong_argument("kernel", "a name of flashc.kernels()", args[KERNEL]);
        char *kernel;
        if (PyBytes_AsStringAndSize(c->kernel, &kernel, NULL) != 0) { /* a null character inside */
            PyErr_Format(PyExc_ValueError, "kernel: expected a name of flashc.kernels(), found %R", args[KERNEL]);
            return -1;
        }
        p->kernel = kernel;
    }
    if (set_compute(c, args[COMPUTE]) != 0)
        return -1;
    return args[FEATURES] == Py_None ? 0 : flashc_py_call_set_features(c, args[FEATURES]);
}

void flashc_py_call_scales(const flashc_py_call *c, flashc_py_scales scales[N_CALL_SCALES])
{
    scales[0] =
        (flashc_py_scales){"k_scale", "k_scale", flashc_py_call_feature(c, K_SCALE), &c->view[K], c->bshd};
    scales[1] =
        (flashc_py_scales){"v_scale", "v_scale", flashc_py_call_feature(c, V_SCALE), &c->view[V], c->bshd};
}

int flashc_py_call_build(flashc_py_call *c, PyObject *const *args, bool plan_only)
{
    flashc_py_scales scales[N_CALL_SCALES];
    if (build(c, args, plan_only, -1) != 0)
        return -1;
    flashc_py_call_scales(c, scales);
    return flashc_py_check_scales(scales, N_CALL_SCALES);
}

int flashc_py_call_build_chunk(flashc_py_call *c, PyObject *const *args, bool plan_only, int64_t keys_in_all)
{
    return build(c, args, plan_only, keys_in_all);
}

void flashc_py_call_release(flashc_py_call *c)
{
    for (int i = 0; i < N_TENSORS; i++)
        flashc_py_view_release(&c->view[i]);
    for (int i = 0; i < N_SEQUENCES; i++)
        flashc_py_integers_free(&c->sequences[i]);
    free(c->offsets);
    flashc_py_call_release_features(c);
    Py_CLEAR(c->kernel);
    if (c->workspace.obj)
        PyBuffer_Release(&c->workspace);
}
