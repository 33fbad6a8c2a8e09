/* Attention states: what AttentionState of the package calls. A state is the tuple (row_max, row_sum, acc, piece_n,
 * n_nodes, next_key), its arrays [levels, rows], [levels, rows] and [levels, rows, head_dim_v]. */
#include "python/core/call.h"

enum { ROW_MAX_ARRAY, ROW_SUM_ARRAY, ACC_ARRAY, STATE_ARRAYS, STATE_ITEMS = 6 };

typedef struct {
    flashc_attention_state state;
    flashc_py_view view[STATE_ARRAYS];
} state_argument;

static void release(state_argument *s)
{
    for (int i = 0; i < STATE_ARRAYS; i++)
        flashc_py_view_release(&s->view[i]);
}

/* 0, or -1 with an exception; to be released in any case. */
static int acquire(state_argument *s, PyObject *tuple)
{
    static const char *const name[STATE_ARRAYS] = {"row_max", "row_sum", "acc"};
    int64_t n;
    *s = (state_argument){.state = {.struct_size = sizeof s->state}};
    if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != STATE_ITEMS)
        return flashc_py_wrong_argument("state", "a tuple of six", tuple);
    for (int i = 0; i < STATE_ARRAYS; i++)
        if (flashc_py_view_acquire_output(&s->view[i], PyTuple_GetItem(tuple, i), name[i]) != 0 ||
            flashc_py_view_expect_dtype(&s->view[i], FLASHC_F32) != 0 || flashc_py_view_as_flat(&s->view[i], &n) != 0)
            return -1;
    const flashc_py_view *acc = &s->view[ACC_ARRAY];
    if (acc->ndim != 3) {
        PyErr_Format(PyExc_ValueError, "acc: expected 3 axes, found %d", acc->ndim);
        return -1;
    }
    for (int i = 0; i < ACC_ARRAY; i++)
        if (flashc_py_view_expect_shape_of(&s->view[i], acc, 1) != 0)
            return -1;
    s->state.levels = acc->shape[0];
    s->state.rows = acc->shape[1];
    s->state.head_dim_v = acc->shape[2];
    s->state.row_max = s->view[ROW_MAX_ARRAY].data;
    s->state.row_sum = s->view[ROW_SUM_ARRAY].data;
    s->state.acc = acc->data;
    s->state.piece_n = PyLong_AsLongLong(PyTuple_GetItem(tuple, 3));
    s->state.n_nodes = PyLong_AsLongLong(PyTuple_GetItem(tuple, 4));
    s->state.next_key = PyLong_AsLongLong(PyTuple_GetItem(tuple, 5));
    return PyErr_Occurred() ? flashc_py_wrong_argument("state", "ints after the arrays", tuple) : 0;
}

static void set_row_strides(flashc_attention_state *s, const flashc_attention_params *p)
{
    s->row_stride[0] = p->num_heads * p->seqlen_q;
    s->row_stride[1] = p->seqlen_q;
    s->row_stride[2] = 1;
}

/* attention_state_init(the arguments of explain, seqlen_k) */
PyObject *flashc_py_attention_state_init(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (flashc_py_check_count("attention_state_init", count, N_EXPLAIN + 1) != 0)
        return NULL;
    flashc_py_call c;
    flashc_attention_state s;
    flashc_status status = FLASHC_OK;
    int built = flashc_py_call_build(&c, args, true);
    if (built == 0) {
        c.params.seqlen_k = PyLong_AsLongLong(args[N_EXPLAIN]);
        built = PyErr_Occurred() ? flashc_py_wrong_argument("seqlen_k", "an int", args[N_EXPLAIN]) : 0;
    }
    if (built == 0)
        status = flashc_attention_state_init(&s, sizeof s, &c.params);
    if (status != FLASHC_OK)
        flashc_py_raise(status);
    flashc_py_call_release(&c);
    if (built != 0 || status != FLASHC_OK)
        return NULL;
    return Py_BuildValue("(LLLL)", (long long)s.levels, (long long)s.rows, (long long)s.head_dim_v,
                         (long long)s.piece_n);
}

/* What the state has become; releases it. */
static PyObject *finish(state_argument *s, bool failed, flashc_status status)
{
    PyObject *result = NULL;
    if (!failed && status != FLASHC_OK)
        flashc_py_raise(status);
    else if (!failed)
        result = Py_BuildValue("(LL)", (long long)s->state.n_nodes, (long long)s->state.next_key);
    release(s);
    return result;
}

typedef flashc_status (*state_function)(flashc_attention_state *, const flashc_attention_params *);

/* The arguments of explain, and a state. */
static PyObject *run(const char *name, state_function function, PyObject *const *args, Py_ssize_t count)
{
    if (flashc_py_check_count(name, count, N_EXPLAIN + 1) != 0)
        return NULL;
    flashc_py_call c;
    state_argument s;
    flashc_status status = FLASHC_OK;
    const bool failed = acquire(&s, args[N_EXPLAIN]) != 0;
    if (failed)
        return finish(&s, true, FLASHC_OK);
    const bool built = flashc_py_call_build(&c, args, true) == 0;
    if (built) {
        set_row_strides(&s.state, &c.params);
        Py_BEGIN_ALLOW_THREADS
        status = function(&s.state, &c.params);
        Py_END_ALLOW_THREADS
    }
    const bool raised = built && flashc_py_call_raise_of_score_mod(&c);
    PyObject *result = finish(&s, !built || raised, status);
    flashc_py_call_release(&c);
    return result;
}

static flashc_status finish_state(flashc_attention_state *state, const flashc_attention_params *params)
{
    return flashc_attention_finish(state, params);
}

PyObject *flashc_py_attention_accumulate(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    return run("attention_accumulate", flashc_attention_accumulate, args, count);
}

PyObject *flashc_py_attention_finish(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    return run("attention_finish", finish_state, args, count);
}

/* attention_state_merge(into, from) */
PyObject *flashc_py_attention_state_merge(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (flashc_py_check_count("attention_state_merge", count, 2) != 0)
        return NULL;
    state_argument into, from;
    flashc_status status = FLASHC_OK;
    if (acquire(&into, args[0]) != 0)
        return finish(&into, true, status);
    const bool failed = acquire(&from, args[1]) != 0;
    if (!failed) {
        Py_BEGIN_ALLOW_THREADS
        status = flashc_attention_state_merge(&into.state, &from.state);
        Py_END_ALLOW_THREADS
    }
    PyObject *result = finish(&into, failed, status);
    release(&from);
    return result;
}
