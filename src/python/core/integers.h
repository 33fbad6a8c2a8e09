/* Integers of Python's: lengths, positions and page numbers, copied out of whatever holds them. */
#ifndef FLASHC_PYTHON_INTEGERS_H
#define FLASHC_PYTHON_INTEGERS_H

#include "python/core/module.h"

typedef struct {
    int64_t *values;  /* in C order; NULL: not given */
    int64_t shape[2]; /* [n, 1] of one axis */
    int32_t *narrow;  /* the same in 32 bits, if asked for */
} flashc_py_integers;

/* Copies a buffer of int32 or int64 (NumPy), or a sequence of ints, or with two axes a sequence of those. None: leaves
 * *out empty. Returns 0, or -1 with TypeError or ValueError; free in any case. */
int flashc_py_integers_take(PyObject *object, const char *name, int axes, flashc_py_integers *out);

/* The same for page numbers: fills narrow too. */
int flashc_py_integers_take_pages(PyObject *object, const char *name, flashc_py_integers *out);

/* One int for every batch element, to be freed: from an int or from what has as many items. NULL with an
 * exception that names the argument. */
int64_t *flashc_py_integers_per_batch(PyObject *object, const char *name, const char *expected, int64_t batch);

/* Raises ValueError and returns -1 unless there are none or so many. */
int flashc_py_integers_expect(const flashc_py_integers *integers, const char *name, int64_t count);

/* Raises ValueError and returns -1 if an argument is given beside another that leaves it no meaning, and why. */
int flashc_py_expect_apart(const char *name, const void *given, const char *other, const void *other_given,
                           const char *why);
/* Raises ValueError and returns -1 if an argument is given without another that it needs, and what that is. */
int flashc_py_expect_beside(const char *name, bool given, const char *needed, const char *what, bool needed_given);

void flashc_py_integers_free(flashc_py_integers *integers);

#endif
