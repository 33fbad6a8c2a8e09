/* Attention states: what AttentionState of the package calls. A state is the tuple (row_max, row_sum, acc, piece_n,
 * n_nodes, next_key, seqlen_k, seqlens_k), its arrays [levels, rows], [levels, rows] and [levels, rows, head_dim_v];
 * seqlens_k may be None. */
#include "python/core/call.h"

/* The tuple's items in order; the first of them are arrays. */
enum { ROW_MAX_ITEM, ROW_SUM_ITEM, ACC_ITEM, PIECE_N_ITEM, N_NODES_ITEM, NEXT_KEY_ITEM, SEQLEN_K_ITEM, SEQLENS_K_ITEM,
       STATE_ITEMS, STATE_ARRAYS = PIECE_N_ITEM };

typedef struct {
    flashc_attention_state state;
    flashc_py_view view[STATE_ARRAYS];
    flashc_py_integers seqlens_k;
} state_argument;

static void release(state_argument *s)
{
    for (int i = 0; i < STATE_ARRAYS; i++)
        flashc_py_view_release(&s->view[i]);
    flashc_py_integers_free(&s->seqlens_k);
}

/* 0, or -1 with an exception; to be released in any case. */
static int acquire(state_argument *s, PyObject *tuple)
{
    static const char *const name[STATE_ARRAYS] = {"row_max", "row_sum", "acc"};
    int64_t n;
    *s = (state_argument){.state = {.struct_size = sizeof s->state}};
    if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != STATE_ITEMS)
        return flashc_py_wrong_argument("state", "a tuple of eight", tuple);
    for (int i = 0; i < STATE_ARRAYS; i++)
        if (flashc_py_view_acquire_output(&s->view[i], PyTuple_GetItem(tuple, i), name[i]) != 0 ||
            flashc_py_view_expect_dtype(&s->view[i], FLASHC_F32) != 0 || flashc_py_view_as_flat(&s->view[i], &n) != 0)
            return -1;
    const flashc_py_view *acc = &s->view[ACC_ITEM];
    if (acc->ndim != 3) {
        PyErr_Format(PyExc_ValueError, "acc: expected 3 axes, found %d", acc->ndim);
        return -1;
    }
    for (int i = 0; i < ACC_ITEM; i++)
        if (flashc_py_view_expect_shape_of(&s->view[i], acc, 1) != 0)
            return -1;
    s->state.levels = acc->shape[0];
    s->state.rows = acc->shape[1];
    s->state.head_dim_v = acc->shape[2];
    s->state.row_max = s->view[ROW_MAX_ITEM].data;
    s->state.row_sum = s->view[ROW_SUM_ITEM].data;
    s->state.acc = acc->data;
    const struct {
        const char *name;
        int64_t *value;
    } ints[] = {{"piece_n", &s->state.piece_n},
                {"n_nodes", &s->state.n_nodes},
                {"next_key", &s->state.next_key},
                {"seqlen_k", &s->state.seqlen_k}};
    for (int i = 0; i <= SEQLEN_K_ITEM - PIECE_N_ITEM; i++) {
        PyObject *given = PyTuple_GetItem(tuple, PIECE_N_ITEM + i);
        *ints[i].value = PyLong_AsLongLong(given);
        if (PyErr_Occurred())
            return flashc_py_wrong_argument(ints[i].name, "an int", given);
    }
    if (flashc_py_integers_take(PyTuple_GetItem(tuple, SEQLENS_K_ITEM), "seqlens_k", 1, &s->seqlens_k) != 0)
        return -1;
    s->state.seqlens_k = s->seqlens_k.values;
    return 0;
}

static void set_row_strides(flashc_attention_state *s, const flashc_attention_params *p)
{
    s->row_stride[0] = p->num_heads * p->seqlen_q;
    s->row_stride[1] = p->seqlen_q;
    s->row_stride[2] = 1;
}

/* The call is built of a chunk: this is what the one call has in its place. */
static int set_whole(flashc_attention_params *p, int64_t seqlen_k, PyObject *seqlens_k, flashc_py_integers *lengths)
{
    p->seqlen_k = seqlen_k;
    if (flashc_py_integers_take(seqlens_k, "seqlens_k", 1, lengths) != 0 ||
        flashc_py_integers_expect(lengths, "seqlens_k", p->batch) != 0)
        return -1;
    p->seqlens_k = lengths->values;
    p->cu_seqlens_k = NULL;
    return 0;
}

/* attention_state_init(the arguments of explain, seqlen_k, seqlens_k) */
PyObject *flashc_py_attention_state_init(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (flashc_py_check_count("attention_state_init", count, N_EXPLAIN + 2) != 0)
        return NULL;
    flashc_py_call c;
    flashc_py_integers lengths = {.values = NULL};
    flashc_attention_state s;
    flashc_status status = FLASHC_OK;
    const int64_t keys = PyLong_AsLongLong(args[N_EXPLAIN]);
    if (PyErr_Occurred())
        return flashc_py_wrong_argument("seqlen_k", "an int", args[N_EXPLAIN]), NULL;
    int built = flashc_py_call_build_chunk(&c, args, true, keys);
    if (built == 0)
        built = set_whole(&c.params, keys, args[N_EXPLAIN + 1], &lengths);
    if (built == 0)
        status = flashc_attention_state_init(&s, sizeof s, &c.params);
    if (status != FLASHC_OK)
        flashc_py_raise(status);
    flashc_py_call_release(&c);
    flashc_py_integers_free(&lengths);
    if (built != 0 || status != FLASHC_OK)
        return NULL;
    return Py_BuildValue("(LLLL)", (long long)s.levels, (long long)s.rows, (long long)s.head_dim_v,
                         (long long)s.piece_n);
}

static int set_attribute(PyObject *owner, const char *name, int64_t value)
{
    PyObject *number = PyLong_FromLongLong(value);
    const int result = number ? PyObject_SetAttrString(owner, name, number) : -1;
    Py_XDECREF(number);
    return result;
}

/* Tells the state's owner, if there is one, what it has become: here, not in the package's code, where Ctrl-C could
 * come between the arrays and the numbers. Releases the state. */
static PyObject *finish(state_argument *s, bool failed, flashc_status status, PyObject *owner)
{
    if (!failed && status != FLASHC_OK)
        flashc_py_raise(status);
    failed = failed || status != FLASHC_OK ||
             (owner && (set_attribute(owner, "n_nodes", s->state.n_nodes) != 0 ||
                        set_attribute(owner, "next_key", s->state.next_key) != 0));
    release(s);
    return failed ? NULL : Py_NewRef(Py_None);
}

/* The library goes by strides: a block mask has tiles of seqlen_k keys. */
static int check_block_mask(const flashc_attention_state *s, const flashc_attention_params *p)
{
    const int64_t rows = flashc_py_call_longest(p->cu_seqlens_k, p->batch, p->seqlen_k);
    if (!p->block_mask.data || rows == 0 || (s->next_key <= s->seqlen_k && rows <= s->seqlen_k - s->next_key))
        return 0;
    PyErr_Format(PyExc_ValueError, "k: expected no more keys than seqlen_k, %lld, of which the block mask has tiles, "
                 "found %lld from %lld on", (long long)s->seqlen_k, (long long)rows, (long long)s->next_key);
    return -1;
}

static int check_head_dim_v(const flashc_attention_state *s, const flashc_attention_params *p)
{
    if (p->head_dim_v == s->head_dim_v)
        return 0;
    PyErr_Format(PyExc_ValueError, "v: expected head_dim %lld as in the chunks before, found %lld",
                 (long long)s->head_dim_v, (long long)p->head_dim_v);
    return -1;
}

static int check_scales(const flashc_py_call *c)
{
    flashc_py_scales scales[N_CALL_SCALES];
    flashc_py_call_scales(c, scales);
    return flashc_py_check_scales(scales, N_CALL_SCALES);
}

/* owner: the object that has the state's n_nodes and next_key, -1 when it is spoiled; or NULL, for what fills O and LSE
 * instead of the state. */
static PyObject *run(flashc_py_function *function, PyObject *const *args, PyObject *progress, PyObject *owner)
{
    flashc_py_call c;
    state_argument s;
    flashc_status status = FLASHC_OK;
    bool raised = false;
    if (acquire(&s, args[N_EXPLAIN]) != 0)
        return finish(&s, true, FLASHC_OK, NULL);
    const bool fits = flashc_py_call_build_chunk(&c, args, owner != NULL, s.state.seqlen_k) == 0 &&
                      flashc_py_check_progress(progress) == 0 &&
                      flashc_py_integers_expect(&s.seqlens_k, "seqlens_k", c.params.batch) == 0 &&
                      check_block_mask(&s.state, &c.params) == 0 && check_head_dim_v(&s.state, &c.params) == 0 &&
                      check_scales(&c) == 0 &&
                      flashc_py_call_check_apart(&c, args[O], s.view, STATE_ARRAYS) == 0;
    if (fits) {
        set_row_strides(&s.state, &c.params);
        raised = flashc_py_call_watched(&c, progress, function, &s.state, &status);
    }
    if (raised && owner) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        if (set_attribute(owner, "next_key", -1) != 0)
            PyErr_Clear();
        PyErr_Restore(type, value, traceback);
    }
    const bool failed = !fits || raised || status != FLASHC_OK;
    if (fits && !raised && status != FLASHC_OK) {
        flashc_py_scales scales[N_CALL_SCALES];
        flashc_py_call_scales(&c, scales);
        flashc_py_raise_of_scales(status, scales, N_CALL_SCALES);
    }
    PyObject *result = finish(&s, failed, FLASHC_OK, owner);
    flashc_py_call_release(&c);
    return result;
}

static flashc_status accumulate_state(void *state, const flashc_attention_params *params)
{
    return flashc_attention_accumulate(state, params);
}

static flashc_status finish_state(void *state, const flashc_attention_params *params)
{
    return flashc_attention_finish(state, params);
}

/* attention_accumulate(the arguments of explain, state, progress, owner) */
PyObject *flashc_py_attention_accumulate(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (flashc_py_check_count("attention_accumulate", count, N_EXPLAIN + 3) != 0)
        return NULL;
    return run(accumulate_state, args, args[N_EXPLAIN + 1], args[N_EXPLAIN + 2]);
}

/* attention_finish(the arguments of explain, state) */
PyObject *flashc_py_attention_finish(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (flashc_py_check_count("attention_finish", count, N_EXPLAIN + 1) != 0)
        return NULL;
    return run(finish_state, args, Py_None, NULL);
}

/* attention_state_merge(into, from, owner of into) */
PyObject *flashc_py_attention_state_merge(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (flashc_py_check_count("attention_state_merge", count, 3) != 0)
        return NULL;
    state_argument into, from;
    flashc_status status = FLASHC_OK;
    if (acquire(&into, args[0]) != 0)
        return finish(&into, true, status, NULL);
    const bool failed = acquire(&from, args[1]) != 0;
    if (!failed) {
        Py_BEGIN_ALLOW_THREADS
        status = flashc_attention_state_merge(&into.state, &from.state);
        Py_END_ALLOW_THREADS
    }
    PyObject *result = finish(&into, failed, status, args[2]);
    release(&from);
    return result;
}
