/* The extension module flashc._core: flashc.h for the package's Python code. Compiled against the header, so that no
 * struct layout is written down twice. */
#include "python/core/module.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* What flashc.h calls otherwise than the package, where a word begins so; the first that fits. */
static const struct {
    const char *c, *python;
} names[] = {
    {"prefix->", "prefix_"}, {"state->", ""}, {"into->", "self."}, {"of into", "of self"}, {"than into", "than self"},
    {"from->", "other."}, {"from: ", "other: "}, {"k_cache_scale", "k_scale"}, {"v_cache_scale", "v_scale"},
    {"cu_seqlens_new", "cu_seqlens"}, {"seqlens_new", "seqlens"}, {"seqlen_new", "seqlen"}, {"o.data", "out"},
    {"o.", "out."}, {"of o (", "of out ("}, {".data", ""},
    {"FLASHC_ALIGN_BOTTOM_RIGHT", "'bottom-right'"}, {"chunk, found NULL", "chunk, found None"},
    {"flashc_attention_state_clear()", "clear()"}, {"rotary_cos", "cos"}, {"rotary_sin", "sin"},
    {"workspace_size", "workspace"},
};

/* The message in the package's names; as much of it as fits. */
static void translate(const char *message, char *text, size_t size)
{
    size_t used = 0;
    for (const char *at = message; *at && used + 1 < size;) {
        const bool begins = at == message || *at == '.' || !(isalnum((unsigned char)at[-1]) || at[-1] == '_');
        size_t i = 0;
        while (i < sizeof names / sizeof names[0] && !(begins && strncmp(at, names[i].c, strlen(names[i].c)) == 0))
            i++;
        if (i == sizeof names / sizeof names[0]) {
            text[used++] = *at++;
        } else {
            const int length = snprintf(text + used, size - used, "%s", names[i].python);
            used = used + (size_t)length < size ? used + (size_t)length : size - 1;
            at += strlen(names[i].c);
        }
    }
    text[used] = '\0';
}

PyObject *flashc_py_raise(flashc_status status)
{
    char text[1024];
    translate(flashc_last_error(), text, sizeof text);
    PyErr_Format(status == FLASHC_ERR_MEMORY ? PyExc_MemoryError : PyExc_ValueError, "%s", text);
    return NULL;
}

bool flashc_py_raised_otherwise(void)
{
    return PyErr_Occurred() && (!PyErr_ExceptionMatches(PyExc_Exception) || PyErr_ExceptionMatches(PyExc_MemoryError));
}

int flashc_py_wrong_argument(const char *name, const char *expected, PyObject *found)
{
    if (flashc_py_raised_otherwise())
        return -1;
    const bool out_of_range = PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_OverflowError);
    PyErr_Clear();
    PyErr_Format(out_of_range ? PyExc_ValueError : PyExc_TypeError, "%s: expected %s, found %.200R", name, expected,
                 found);
    return -1;
}

int flashc_py_refuse_masked_array(PyObject *object, const char *name)
{
    static PyObject *unmasked; /* the last type that was found to be another: nearly all arrays are of one */
    PyObject *type = (PyObject *)Py_TYPE(object);
    if (type == unmasked)
        return 0;
    PyObject *type_name = PyObject_GetAttrString(type, "__name__"); /* may run code, in other threads too */
    if (!type_name)
        return -1;
    const bool masked = PyUnicode_CompareWithASCIIString(type_name, "MaskedArray") == 0;
    Py_DECREF(type_name);
    if (!masked) {
        PyObject *before = unmasked;
        unmasked = Py_NewRef(type);
        Py_XDECREF(before);
        return 0;
    }
    PyErr_Format(PyExc_TypeError,
                 "%s: expected an array without a mask, found numpy.ma.MaskedArray; pass filled(), and what the mask "
                 "hides as flashc's own arguments say it", name);
    return -1;
}

int flashc_py_check_count(const char *function, Py_ssize_t count, Py_ssize_t expected)
{
    if (count == expected)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s: expected %zd arguments, found %zd", function, expected, count);
    return -1;
}

/* version() -> str. Not out of info(), which loads OpenBLAS to tell its build. */
static PyObject *version(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module, (void)args;
    if (flashc_py_check_count("version", count, 0) != 0)
        return NULL;
    return PyUnicode_FromString(flashc_version());
}

/* kernels() -> [(name, description, reason or None)] */
static PyObject *kernels(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module, (void)args;
    if (flashc_py_check_count("kernels", count, 0) != 0)
        return NULL;
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < flashc_kernel_count(); i++) {
        flashc_kernel kernel;
        const flashc_status status = flashc_kernel_get(i, &kernel);
        PyObject *row = status == FLASHC_OK
                            ? Py_BuildValue("(ssz)", kernel.name, kernel.description, kernel.unavailable)
                            : flashc_py_raise(status);
        if (!row || PyList_Append(list, row) != 0)
            Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

/* info() -> (version, cpu_features, blas, openmp, default_threads) */
static PyObject *info(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module, (void)args;
    if (flashc_py_check_count("info", count, 0) != 0)
        return NULL;
    flashc_system_info s = {.struct_size = sizeof s};
    const flashc_status status = flashc_system_get(&s);
    if (status != FLASHC_OK)
        return flashc_py_raise(status);
    return Py_BuildValue("(sssNi)", s.version, s.cpu_features, s.blas, PyBool_FromLong(s.openmp), s.default_threads);
}

#define ROW(name, function) {name, (PyCFunction)(void (*)(void))(function), METH_FASTCALL, NULL}
static PyMethodDef methods[] = {
    ROW("attention", flashc_py_attention),
    ROW("explain", flashc_py_explain),
    ROW("append", flashc_py_append),
    ROW("attention_state_init", flashc_py_attention_state_init),
    ROW("attention_accumulate", flashc_py_attention_accumulate),
    ROW("attention_finish", flashc_py_attention_finish),
    ROW("attention_state_merge", flashc_py_attention_state_merge),
    ROW("shared_prefix_attention", flashc_py_shared_prefix_attention),
    ROW("explain_shared_prefix", flashc_py_explain_shared_prefix),
    ROW("softmax", flashc_py_softmax),
    ROW("merge_partials", flashc_py_merge_partials),
    ROW("state_init", flashc_py_state_init),
    ROW("state_update", flashc_py_state_update),
    ROW("state_merge", flashc_py_state_merge),
    ROW("state_finish", flashc_py_state_finish),
    ROW("trace", flashc_py_trace),
    ROW("convert", flashc_py_convert),
    ROW("compare", flashc_py_compare),
    ROW("is_softmax", flashc_py_is_softmax),
    ROW("kernels", kernels),
    ROW("info", info),
    ROW("version", version),
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "flashc._core", .m_doc = "flashc.h for the package's Python code.", .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC PyInit__core(void)
{
    return PyModule_Create(&definition);
}
