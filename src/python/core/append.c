/* flashc._core.append(). */
#include "python/core/arguments.h"
#include "python/core/integers.h"

/* The arguments in their order, as _core.pyi names them. */
enum { K, V, K_CACHE, V_CACHE, Q, Q_OUT, COS, SIN, N_TENSORS };
enum { K_SCALE = N_TENSORS, V_SCALE, N_VIEWS };
enum {
    POSITIONS = N_VIEWS, SEQLENS, CU_SEQLENS, BLOCK_TABLE, BLOCK_TABLE_V, ROTARY_POSITIONS, INTERLEAVED, BSHD, N_APPEND
};
enum { N_INTEGERS = INTERLEAVED - POSITIONS };

static const flashc_py_argument arguments[N_VIEWS] = {
    {.name = "k", .optional = true},
    {.name = "v", .optional = true},
    {.name = "k_cache", .output = true, .optional = true, .types = FLASHC_PY_CACHES},
    {.name = "v_cache", .output = true, .optional = true, .types = FLASHC_PY_CACHES},
    {.name = "q", .optional = true},
    {.name = "q_out", .output = true, .optional = true},
    {.name = "cos", .optional = true},
    {.name = "sin", .optional = true},
    {.name = "k_scale", .optional = true},
    {.name = "v_scale", .optional = true},
};
static const char *const integer_names[N_INTEGERS] = {"positions",   "seqlens",       "cu_seqlens",
                                                      "block_table", "block_table_v", "rotary_positions"};

typedef struct {
    flashc_append_params params;
    flashc_py_view view[N_VIEWS];
    flashc_py_integers integers[N_INTEGERS];
    int64_t size[N_TENSORS][4]; /* [batch or page, head, row, column] */
} call;

static const flashc_py_integers *integers(const call *c, int which)
{
    return &c->integers[which - POSITIONS];
}

/* Of 3 or 4 axes in the layout; tables have 2. */
static int as_tensor(call *c, int which, int bshd, flashc_tensor *tensor)
{
    const flashc_py_view *view = &c->view[which];
    const bool is_table = which >= COS;
    char shape[256];
    if (!view->name)
        return 0;
    if (flashc_py_view_expect_float(view) != 0)
        return -1;
    if (is_table ? view->ndim != 2 : view->ndim != 3 && view->ndim != 4) {
        PyErr_Format(PyExc_ValueError, "%s: expected %s axes, found %d: %s", view->name, is_table ? "2" : "3 or 4",
                     view->ndim, flashc_py_shape_text(shape, sizeof shape, view->shape, view->ndim));
        return -1;
    }
    *tensor = (flashc_tensor){.data = view->data, .dtype = view->dtype};
    for (int i = 0; i < 4; i++)
        c->size[which][i] = 1;
    for (int i = 0; i < view->ndim; i++) {
        const int axis = flashc_py_axis_of(view->ndim, i, bshd);
        tensor->stride[axis] = view->stride[i];
        c->size[which][axis] = view->shape[i];
    }
    return 0;
}

static int expect(const call *c, int which, int axis, int64_t expected, const char *what)
{
    char shape[256];
    const flashc_py_view *view = &c->view[which];
    if (!view->name || c->size[which][axis] == expected)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected %s %lld, found %lld in %s", view->name, what, (long long)expected,
                 (long long)c->size[which][axis], flashc_py_shape_text(shape, sizeof shape, view->shape, view->ndim));
    return -1;
}

/* Written beside codes of int8, read otherwise. */
static int take_scale(call *c, int which, int cache, int bshd, flashc_tensor *tensor)
{
    const flashc_py_view *scale = &c->view[which], *of = &c->view[cache];
    if (!scale->name)
        return 0;
    if (!of->name) {
        PyErr_Format(PyExc_ValueError, "%s: expected None without %s, found an array", scale->name,
                     arguments[cache].name);
        return -1;
    }
    if (of->dtype == FLASHC_I8 && flashc_py_view_expect_writable(scale) != 0)
        return -1;
    return flashc_py_set_scale(scale, of, bshd, tensor);
}

/* What goes together. */
static int check_pairs(const call *c)
{
    static const int pairs[][2] = {{K, K_CACHE}, {V, V_CACHE}, {Q, Q_OUT}, {COS, SIN}};
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        const int one = pairs[i][0], other = pairs[i][1];
        if (!c->view[one].name != !c->view[other].name) {
            PyErr_Format(PyExc_ValueError, "%s, %s: expected both or neither, found %s alone", arguments[one].name,
                         arguments[other].name, arguments[c->view[one].name ? one : other].name);
            return -1;
        }
    }
    const bool rotates = c->view[COS].name != NULL;
    return flashc_py_expect_apart("seqlens", integers(c, SEQLENS)->values, "cu_seqlens",
                                  integers(c, CU_SEQLENS)->values, "which says the same") != 0 ||
                   flashc_py_expect_beside("block_table_v", integers(c, BLOCK_TABLE_V)->narrow, "block_table",
                                           "page numbers", integers(c, BLOCK_TABLE)->narrow) != 0 ||
                   flashc_py_expect_beside("interleaved", c->params.rotary_interleaved, "cos, sin", "arrays",
                                           rotates) != 0 ||
                   flashc_py_expect_beside("rotary_positions", integers(c, ROTARY_POSITIONS)->values, "cos, sin",
                                           "arrays", rotates) != 0
               ? -1
               : 0;
}

static int take_arguments(call *c, PyObject *const *args, int bshd)
{
    flashc_append_params *p = &c->params;
    flashc_tensor *const tensors[N_TENSORS] = {&p->k, &p->v,     &p->k_cache,    &p->v_cache,
                                               &p->q, &p->q_out, &p->rotary_cos, &p->rotary_sin};
    p->rotary_interleaved = flashc_py_flag(args[INTERLEAVED], "interleaved");
    if (p->rotary_interleaved < 0)
        return -1;
    for (int i = 0; i < N_TENSORS; i++)
        if (as_tensor(c, i, bshd, tensors[i]) != 0)
            return -1;
    if (take_scale(c, K_SCALE, K_CACHE, bshd, &p->k_cache_scale) != 0 ||
        take_scale(c, V_SCALE, V_CACHE, bshd, &p->v_cache_scale) != 0)
        return -1;
    for (int i = POSITIONS; i < INTERLEAVED; i++) {
        const bool pages = i == BLOCK_TABLE || i == BLOCK_TABLE_V;
        flashc_py_integers *out = &c->integers[i - POSITIONS];
        if ((pages ? flashc_py_integers_take_pages(args[i], integer_names[i - POSITIONS], out)
                   : flashc_py_integers_take(args[i], integer_names[i - POSITIONS], 1, out)) != 0)
            return -1;
    }
    return check_pairs(c);
}

/* Sizes of what is given, held against each other. */
static int set_sizes(call *c)
{
    flashc_append_params *p = &c->params;
    const int first = c->view[K].name ? K : c->view[V].name ? V : Q;
    const int64_t *rows = c->size[first];
    const flashc_py_integers *cu = integers(c, CU_SEQLENS);
    if (!c->view[first].name) {
        PyErr_SetString(PyExc_ValueError, "k, v, q: expected at least one of them, found None");
        return -1;
    }
    if (cu->values && (cu->shape[0] < 1 || expect(c, first, 0, 1, "packed rows without a batch axis, or one of"))) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError,
                            "cu_seqlens: expected a number for each sequence and one more, found none");
        return -1;
    }
    p->batch = cu->values ? cu->shape[0] - 1 : rows[0];
    p->seqlen_new = rows[2];
    p->num_heads_k = c->size[c->view[K].name ? K : V][1];
    p->num_heads = c->view[Q].name ? c->size[Q][1] : 1;
    p->head_dim = c->view[K].name ? c->size[K][3] : c->view[Q].name ? c->size[Q][3] : 1;
    p->head_dim_v = c->size[V][3];
    for (int i = K; i <= Q_OUT; i++) {
        const bool is_cache = i == K_CACHE || i == V_CACHE, of_v = i == V || i == V_CACHE, of_q = i >= Q;
        const bool paged = is_cache && integers(c, BLOCK_TABLE)->narrow;
        if ((!paged && expect(c, i, 0, is_cache ? p->batch : rows[0], "batch")) ||
            expect(c, i, 1, of_q ? p->num_heads : p->num_heads_k, "heads") ||
            (!is_cache && expect(c, i, 2, p->seqlen_new, "rows")) ||
            expect(c, i, 3, of_v ? p->head_dim_v : p->head_dim, "head_dim"))
            return -1;
    }
    const int cache = c->view[K_CACHE].name ? K_CACHE : V_CACHE;
    p->seqlen_cache = c->size[cache][2];
    const bool own_v = integers(c, BLOCK_TABLE_V)->narrow;
    if (!own_v && (expect(c, V_CACHE, 0, c->size[cache][0], "pages") || expect(c, V_CACHE, 2, p->seqlen_cache, "rows")))
        return -1;
    p->rotary_dim = 2 * c->size[COS][3];
    p->rotary_len = c->size[COS][2];
    if (!c->view[COS].name)
        p->rotary_dim = p->rotary_len = 0;
    return expect(c, SIN, 2, p->rotary_len, "positions") || expect(c, SIN, 3, p->rotary_dim / 2, "columns") ? -1 : 0;
}

static int set_integers(call *c)
{
    flashc_append_params *p = &c->params;
    for (int i = POSITIONS; i < INTERLEAVED; i++)
        if (flashc_py_integers_expect(integers(c, i), integer_names[i - POSITIONS], p->batch + (i == CU_SEQLENS)) != 0)
            return -1;
    p->positions = integers(c, POSITIONS)->values;
    p->seqlens_new = integers(c, SEQLENS)->values;
    p->cu_seqlens_new = integers(c, CU_SEQLENS)->values;
    p->rotary_positions = integers(c, ROTARY_POSITIONS)->values;
    const struct {
        int which, cache, other;
        flashc_block_table *table;
    } tables[] = {{BLOCK_TABLE, K_CACHE, V_CACHE, &p->block_table},
                  {BLOCK_TABLE_V, V_CACHE, V_CACHE, &p->block_table_v}};
    for (int i = 0; i < 2; i++) {
        const flashc_py_integers *pages = integers(c, tables[i].which);
        const int64_t *size = c->size[c->view[tables[i].cache].name ? tables[i].cache : tables[i].other];
        if (pages->narrow)
            *tables[i].table = (flashc_block_table){.pages = pages->narrow,
                                                    .stride = {pages->shape[1], 1},
                                                    .max_pages = pages->shape[1],
                                                    .num_pages = size[0],
                                                    .page_size = size[2]};
    }
    return 0;
}

PyObject *flashc_py_append(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    call c = {.params = {.struct_size = 0}};
    if (flashc_py_check_count("append", count, N_APPEND) != 0 ||
        flashc_py_acquire_all(c.view, args, arguments, N_VIEWS) != 0)
        return NULL;
    flashc_append_params_init(&c.params, sizeof c.params);
    flashc_status status = FLASHC_OK;
    const int bshd = PyObject_IsTrue(args[BSHD]);
    const flashc_py_scales scales[] = {{"k_cache_scale", "k_scale", &c.view[K_SCALE], &c.view[K_CACHE], bshd},
                                       {"v_cache_scale", "v_scale", &c.view[V_SCALE], &c.view[V_CACHE], bshd}};
    const int checked = bshd < 0 || take_arguments(&c, args, bshd) != 0 || flashc_py_check_scales(scales, 2) != 0 ||
                                set_sizes(&c) != 0 || set_integers(&c) != 0
                            ? -1
                            : 0;
    if (checked == 0) {
        Py_BEGIN_ALLOW_THREADS
        status = flashc_append(&c.params);
        Py_END_ALLOW_THREADS
    }
    if (checked == 0 && status != FLASHC_OK)
        flashc_py_raise_of_scales(status, scales, 2);
    PyObject *result = flashc_py_finish(c.view, N_VIEWS, checked != 0 || status != FLASHC_OK ? -1 : 0, FLASHC_OK);
    for (int i = 0; i < N_INTEGERS; i++)
        flashc_py_integers_free(&c.integers[i]);
    return result;
}
