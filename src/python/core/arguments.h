/* Arguments that are arrays, for the functions that take nothing but a few of them. */
#ifndef FLASHC_PYTHON_ARGUMENTS_H
#define FLASHC_PYTHON_ARGUMENTS_H

#include "python/core/view.h"

typedef struct {
    const char *name;
    bool output, optional; /* optional: may be None */
    flashc_py_types types;
} flashc_py_argument;

/* Acquires `n` views from the first arguments. On failure (-1) nothing stays acquired. */
int flashc_py_acquire_all(flashc_py_view *views, PyObject *const *args, const flashc_py_argument *arguments, int n);

/* Releases the views and turns (checked: 0, or -1 with an exception; status) into a result: None or NULL. */
PyObject *flashc_py_finish(flashc_py_view *views, int n, int checked, flashc_status status);

/* A bool, NumPy's too, or 0 or 1; all else, which Python would also take for true or false, is a mistake: causal="no".
 * Returns -1 with an exception. */
int flashc_py_flag(PyObject *object, const char *name);

/* Of an array of rank 2 to 4, in the layout: which of batch, head, row, column its axis i is. */
int flashc_py_axis_of(int rank, int i, int bshd);

/* A scale, if it was acquired: float32 of the shape of `rows` without its last axis, sizes of 1 repeating. Returns 0,
 * or -1 with an exception. */
int flashc_py_set_scale(const flashc_py_view *scale, const flashc_py_view *rows, int bshd, flashc_tensor *out);

/* Scales beside rows, each of them perhaps not acquired. */
typedef struct {
    const char *c_name, *name; /* of the scales: flashc.h's, and the argument's */
    const flashc_py_view *scale, *rows;
    int bshd;
} flashc_py_scales;

/* Are they given where the rows' type wants them, and only there? 0, or -1 with an exception. */
int flashc_py_check_scales(const flashc_py_scales *scales, int n);

/* flashc_py_raise(), which says of a wrong scale where it is in the caller's array. */
PyObject *flashc_py_raise_of_scales(flashc_status status, const flashc_py_scales *scales, int n);

#endif
