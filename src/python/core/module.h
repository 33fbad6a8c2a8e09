/* What the files of the extension module flashc._core share. */
#ifndef FLASHC_PYTHON_MODULE_H
#define FLASHC_PYTHON_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "flashc.h"

#include <stdbool.h>

/* Raises what a failed status means, with flashc_last_error() as the text, but for the name that the argument has in
 * Python: MemoryError for FLASHC_ERR_MEMORY, else ValueError. Returns NULL. */
PyObject *flashc_py_raise(flashc_status status);

/* Is an exception set that says nothing about an argument (KeyboardInterrupt, MemoryError)? It goes through as it
 * is. */
bool flashc_py_raised_otherwise(void);

/* Replaces what a conversion raised by "name: expected ..., found ...": TypeError, or ValueError for a number out of
 * range. An exception that says nothing about the argument stays. Returns -1. */
int flashc_py_wrong_argument(const char *name, const char *expected, PyObject *found);

/* NumPy's masked arrays: their buffer has what the mask hides too. Raises TypeError and returns -1 for one. */
int flashc_py_refuse_masked_array(PyObject *object, const char *name);

/* Functions of the module; every one is METH_FASTCALL, called by the package's Python code, which
 * documents them, with all arguments in order (_core.pyi). */
#define FLASHC_PY_FUNCTION(name) PyObject *name(PyObject *module, PyObject *const *args, Py_ssize_t count)
FLASHC_PY_FUNCTION(flashc_py_attention);
FLASHC_PY_FUNCTION(flashc_py_explain);
FLASHC_PY_FUNCTION(flashc_py_append);
FLASHC_PY_FUNCTION(flashc_py_attention_state_init);
FLASHC_PY_FUNCTION(flashc_py_attention_accumulate);
FLASHC_PY_FUNCTION(flashc_py_attention_finish);
FLASHC_PY_FUNCTION(flashc_py_attention_state_merge);
FLASHC_PY_FUNCTION(flashc_py_shared_prefix_attention);
FLASHC_PY_FUNCTION(flashc_py_explain_shared_prefix);
FLASHC_PY_FUNCTION(flashc_py_softmax);
FLASHC_PY_FUNCTION(flashc_py_merge_partials);
FLASHC_PY_FUNCTION(flashc_py_state_init);
FLASHC_PY_FUNCTION(flashc_py_state_update);
FLASHC_PY_FUNCTION(flashc_py_state_merge);
FLASHC_PY_FUNCTION(flashc_py_state_finish);
FLASHC_PY_FUNCTION(flashc_py_trace);
FLASHC_PY_FUNCTION(flashc_py_convert);
FLASHC_PY_FUNCTION(flashc_py_compare);
FLASHC_PY_FUNCTION(flashc_py_is_softmax);

/* Raises TypeError and returns -1 if a function did not get exactly `expected` arguments. */
int flashc_py_check_count(const char *function, Py_ssize_t count, Py_ssize_t expected);

#endif
