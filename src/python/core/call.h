/* Python arguments into one flashc_attention_params, for attention() and explain(). */
#ifndef FLASHC_PYTHON_CALL_H
#define FLASHC_PYTHON_CALL_H

#include "python/core/view.h"

/* The arguments in their order, as _core.pyi names them. */
enum { Q, K, V, O, LSE, MASK, BIAS, N_TENSORS };
enum { SCALE = N_TENSORS, CAUSAL, ALIGN, BSHD, NUM_THREADS, KERNEL, N_EXPLAIN };
enum { PROGRESS = N_EXPLAIN, WORKSPACE, N_ATTENTION };

/* A call being put together. Everything that params points to lives here or in the caller's arguments. */
typedef struct {
    flashc_attention_params params;
    flashc_py_view view[N_TENSORS];
    int64_t *offsets;
    PyObject *kernel; /* bytes */
    Py_buffer workspace;
} flashc_py_call;

/* Fills *call from the arguments up to N_EXPLAIN. Returns 0, or -1 with an exception. Release in any case.
 * plan_only: the argument O may be "f32", "f16" or "bf16" instead of an array; the call cannot be run then. */
int flashc_py_call_build(flashc_py_call *call, PyObject *const *args, bool plan_only);

/* The part of build() that is about arrays: fills call->view and params' tensors and sizes. */
int flashc_py_call_set_tensors(flashc_py_call *call, PyObject *const *args, int bshd, bool plan_only);

/* Takes the argument workspace. Returns 0, or -1 with an exception. */
int flashc_py_call_set_workspace(flashc_py_call *call, PyObject *workspace);

void flashc_py_call_release(flashc_py_call *call);

#endif
