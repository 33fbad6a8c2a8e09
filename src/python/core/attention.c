/* flashc._core.attention() and .explain(); how attention calls are run. */
#include "python/core/call.h"

#include <string.h>
#include <time.h>

/* Ctrl-C and the caller's progress function. flashc calls back on the thread that entered, so its own
 * thread state is the one to take up again. */
typedef struct {
    PyThreadState *thread;
    PyObject *function; /* or Py_None */
    flashc_py_call *call;
    struct timespec next;
    bool raised;
} watcher;

enum { SIGNAL_PERIOD_NS = 50 * 1000 * 1000 }; /* Ctrl-C is answered within this time and the current item's */

static bool is_due(watcher *w)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec < w->next.tv_sec || (now.tv_sec == w->next.tv_sec && now.tv_nsec < w->next.tv_nsec))
        return false;
    w->next = now;
    w->next.tv_nsec += SIGNAL_PERIOD_NS;
    if (w->next.tv_nsec >= 1000000000) {
        w->next.tv_nsec -= 1000000000;
        w->next.tv_sec++;
    }
    return true;
}

static int watch(void *user_data, int64_t done, int64_t total)
{
    watcher *w = user_data;
    if (!is_due(w) && w->function == Py_None)
        return 0;
    PyEval_RestoreThread(w->thread);
    w->raised = PyErr_CheckSignals() != 0 || flashc_py_call_raise_of_score_mod(w->call);
    if (!w->raised && w->function != Py_None) {
        PyObject *result = PyObject_CallFunction(w->function, "LL", (long long)done, (long long)total);
        w->raised = result == NULL;
        Py_XDECREF(result);
    }
    w->thread = PyEval_SaveThread();
    return w->raised;
}

bool flashc_py_call_watched(flashc_py_call *c, PyObject *progress, flashc_py_function *function, void *context,
                            flashc_status *status)
{
    watcher w = {.function = progress, .call = c};
    is_due(&w); /* starts the period */
    c->params.progress = watch;
    c->params.progress_user_data = &w;
    w.thread = PyEval_SaveThread();
    *status = function(context, &c->params);
    PyEval_RestoreThread(w.thread);
    return w.raised || flashc_py_call_raise_of_score_mod(c);
}

int flashc_py_check_progress(PyObject *progress)
{
    if (progress == Py_None || PyCallable_Check(progress))
        return 0;
    PyErr_Format(PyExc_TypeError, "progress: expected a function, found %R", progress);
    return -1;
}

static flashc_status forward(void *prefix, const flashc_attention_params *params)
{
    return prefix ? flashc_attention_shared_prefix(params, prefix) : flashc_attention_fwd(params);
}

PyObject *flashc_py_call_run(flashc_py_call *c, PyObject *progress, flashc_py_prefix *prefix)
{
    flashc_status status = FLASHC_OK;
    flashc_py_scales scales[2 * N_CALL_SCALES];
    const bool failed = flashc_py_check_progress(progress) != 0 ||
                        flashc_py_call_watched(c, progress, forward, prefix ? &prefix->shared : NULL, &status);
    flashc_py_call_scales(c, scales);
    if (prefix)
        memcpy(scales + N_CALL_SCALES, prefix->scales, sizeof prefix->scales);
    if (!failed && status != FLASHC_OK) /* before the release, which may run code that calls flashc */
        flashc_py_raise_of_scales(status, scales, prefix ? 2 * N_CALL_SCALES : N_CALL_SCALES);
    flashc_py_call_release(c);
    return failed || status != FLASHC_OK ? NULL : Py_NewRef(Py_None);
}

PyObject *flashc_py_attention(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (flashc_py_check_count("attention", count, N_ATTENTION) != 0)
        return NULL;
    flashc_py_call c;
    if (flashc_py_call_build(&c, args, false) != 0 || flashc_py_call_set_workspace(&c, args[WORKSPACE]) != 0 ||
        flashc_py_call_check_apart(&c, args[O], NULL, 0) != 0) {
        flashc_py_call_release(&c);
        return NULL;
    }
    return flashc_py_call_run(&c, args[PROGRESS], NULL);
}

PyObject *flashc_py_explanation(const flashc_explanation *e)
{
    const char *compute = e->compute == FLASHC_COMPUTE_BF16 ? "bf16" : "f32";
    return Py_BuildValue("(sssLLLLLLKds)", e->kernel, compute, e->gemm, (long long)e->block_m, (long long)e->block_n,
                         (long long)e->rows_per_item, (long long)e->piece_n, (long long)e->num_items,
                         (long long)e->num_threads, (unsigned long long)e->workspace_size, e->flops, e->refused);
}

/* Of each work item a tuple, which the package makes an ItemWork. */
static PyObject *items_of(const flashc_attention_params *params, int64_t count)
{
    flashc_item_work *work = PyMem_Calloc((size_t)count + 1, sizeof *work);
    if (!work)
        return PyErr_NoMemory();
    const flashc_status status = flashc_explain_items(params, 0, count, work);
    PyObject *list = status == FLASHC_OK ? PyList_New(0) : flashc_py_raise(status);
    for (int64_t i = 0; list && i < count; i++) {
        const flashc_item_work *w = &work[i];
        PyObject *item = Py_BuildValue("(LLLLLLLLdd)", (long long)w->batch, (long long)w->head_k, (long long)w->rows,
                                       (long long)w->first_key, (long long)w->keys, (long long)w->pieces,
                                       (long long)w->tiles, (long long)w->edge_tiles, w->scores, w->flops);
        if (!item || PyList_Append(list, item) != 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    PyMem_Free(work);
    return list;
}

/* explain(the arguments up to N_EXPLAIN, whether items are wanted) */
PyObject *flashc_py_explain(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (flashc_py_check_count("explain", count, N_EXPLAIN + 1) != 0)
        return NULL;
    flashc_py_call c;
    flashc_explanation e = {.struct_size = sizeof e};
    PyObject *plan = NULL, *items = NULL;
    flashc_status status = FLASHC_OK;
    if (flashc_py_call_build(&c, args, true) == 0 && flashc_py_call_check_apart(&c, args[O], NULL, 0) == 0 &&
        (status = flashc_explain(&c.params, &e)) == FLASHC_OK) {
        plan = flashc_py_explanation(&e);
        items = args[N_EXPLAIN] == Py_True ? items_of(&c.params, e.num_items) : Py_NewRef(Py_None);
    }
    if (status != FLASHC_OK)
        flashc_py_raise(status);
    flashc_py_call_release(&c);
    if (plan && items)
        return Py_BuildValue("(NN)", plan, items);
    Py_XDECREF(plan);
    Py_XDECREF(items);
    return NULL;
}
