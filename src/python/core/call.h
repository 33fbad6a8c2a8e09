/* Python arguments into one flashc_attention_params, for attention() and explain(). */
#ifndef FLASHC_PYTHON_CALL_H
#define FLASHC_PYTHON_CALL_H

#include "python/core/arguments.h"
#include "python/core/integers.h"
#include "python/core/view.h"

/* The arguments in their order, as _core.pyi names them. */
enum { Q, K, V, O, LSE, MASK, BIAS, N_TENSORS };
enum { SCALE = N_TENSORS, CAUSAL, ALIGN, BSHD, NUM_THREADS, KERNEL, COMPUTE, SEQUENCES, FEATURES, N_EXPLAIN };
enum { PROGRESS = N_EXPLAIN, WORKSPACE, N_ATTENTION };
/* SEQUENCES is None, or a tuple of: */
enum { CU_SEQLENS_Q, CU_SEQLENS_K, BLOCK_TABLE, BLOCK_TABLE_V, N_SEQUENCES };
/* FEATURES is None, or a tuple of what most calls leave out: */
enum { SOFTCAP, WINDOW, BLOCK_MASK_TILE, SCORE_MOD, ALIBI_SLOPES, SINKS, BLOCK_MASK, K_SCALE, V_SCALE, SEQLENS_Q,
       SEQLENS_K, LEFTPAD_K, SCORES, KEY_MASS, ROW_MAX, SCORES_STAGE, N_FEATURES };
enum { FIRST_FEATURE_ARRAY = ALIBI_SLOPES, N_FEATURE_ARRAYS = 5, FIRST_LENGTHS = SEQLENS_Q, N_LENGTHS = 3,
       FIRST_EXTRA_OUTPUT = SCORES, N_EXTRA_OUTPUTS = 3 };

/* A call being put together. Everything that params points to lives here or in the caller's arguments. */
typedef struct {
    flashc_attention_params params;
    int64_t keys_in_all; /* of a chunk: what block masks have tiles of; < 0: the call's */
    bool bshd;
    flashc_py_view view[N_TENSORS];
    flashc_py_integers sequences[N_SEQUENCES];
    int64_t *offsets;
    flashc_py_view feature[N_FEATURE_ARRAYS];
    int64_t *lengths[N_LENGTHS];
    flashc_py_view extra[N_EXTRA_OUTPUTS];
    PyObject *score_mod; /* the caller's, or NULL */
    PyObject *error[3];  /* what it raised: type, value, traceback; guarded by the GIL */
    PyObject *kernel;    /* bytes */
    Py_buffer workspace;
} flashc_py_call;

/* Fills *call from the arguments up to N_EXPLAIN. Returns 0, or -1 with an exception. Release in any case.
 * plan_only: the argument O may be "f32", "f16" or "bf16" instead of an array, and LSE "f32"; what fills them cannot be
 * run then. */
int flashc_py_call_build(flashc_py_call *call, PyObject *const *args, bool plan_only);
/* The same of a chunk of keys: how many there will be in all. */
int flashc_py_call_build_chunk(flashc_py_call *call, PyObject *const *args, bool plan_only, int64_t keys_in_all);

/* Rows of the longest sequence, or (not packed) `otherwise`. */
int64_t flashc_py_call_longest(const int64_t *cu_seqlens, int64_t batch, int64_t otherwise);

/* The part of build() that is about arrays: fills call->view and params' tensors and sizes. */
int flashc_py_call_set_tensors(flashc_py_call *call, PyObject *const *args, int bshd, bool plan_only);

/* A view of rank 2 to 4, and its sizes, on the axes batch, heads, rows, columns. */
flashc_tensor flashc_py_call_tensor(const flashc_py_view *view, int bshd, int64_t size[4]);

/* The array of a feature (ALIBI_SLOPES to V_SCALE); without a name where none was given. */
static inline const flashc_py_view *flashc_py_call_feature(const flashc_py_call *call, int feature)
{
    return &call->feature[feature - FIRST_FEATURE_ARRAY];
}

/* k_scale and v_scale of a call. */
enum { N_CALL_SCALES = 2 };
void flashc_py_call_scales(const flashc_py_call *call, flashc_py_scales scales[N_CALL_SCALES]);

/* A prefix, and its scales. */
typedef struct {
    flashc_shared_prefix shared;
    flashc_py_scales scales[N_CALL_SCALES];
} flashc_py_prefix;

/* Runs a call that was built, with the caller's progress function or Py_None, on a prefix if there is one, and releases
 * it. None, or NULL with an exception. */
PyObject *flashc_py_call_run(flashc_py_call *call, PyObject *progress, flashc_py_prefix *prefix);

/* Runs function(context, the call's params) without the GIL, watching for signals and calling progress, which was
 * checked. True, with an exception, if one of these or score_mod raised. */
typedef flashc_status flashc_py_function(void *context, const flashc_attention_params *params);
bool flashc_py_call_watched(flashc_py_call *call, PyObject *progress, flashc_py_function *function, void *context,
                            flashc_status *status);
/* Is it a function, or None? 0, or -1 with an exception. */
int flashc_py_check_progress(PyObject *progress);

/* As a tuple, which the package makes an Explanation. */
PyObject *flashc_py_explanation(const flashc_explanation *explanation);

/* The part of build() that is about FEATURES, after everything else. */
int flashc_py_call_set_features(flashc_py_call *call, PyObject *features);
void flashc_py_call_release_features(flashc_py_call *call);
/* Raises what score_mod raised in a worker. */
bool flashc_py_call_raise_of_score_mod(flashc_py_call *call);
/* Its part that is about outputs besides O and LSE. */
int flashc_py_call_set_outputs(flashc_py_call *call, PyObject *features);

/* Takes the argument SEQUENCES, then, once tensors and sizes are set, its part in params. Return 0, or -1 with an
 * exception. */
int flashc_py_call_take_sequences(flashc_py_call *call, PyObject *sequences);
int flashc_py_call_set_sequences(flashc_py_call *call, const int64_t k_size[4], const int64_t v_size[4]);

/* Raises ValueError and returns -1 if an output (or the workspace) has an element of another array of the call, or of
 * n_more views besides, which may be without a name. o: the argument O; text is none. */
int flashc_py_call_check_apart(const flashc_py_call *call, PyObject *o, const flashc_py_view *more, int n_more);

/* Takes the argument workspace. Returns 0, or -1 with an exception. */
int flashc_py_call_set_workspace(flashc_py_call *call, PyObject *workspace);

void flashc_py_call_release(flashc_py_call *call);

#endif
