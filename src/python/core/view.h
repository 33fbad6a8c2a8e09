/*
 * An array of Python's, seen without a copy: where it lies, what it holds. Three protocols, in the order of
 * their cost: DLPack's C exchange table (torch), the buffer protocol (NumPy, memoryview), __dlpack__().
 */
#ifndef FLASHC_PYTHON_VIEW_H
#define FLASHC_PYTHON_VIEW_H

#include "python/core/module.h"

#include <stdbool.h>

enum { FLASHC_PY_MAX_NDIM = 32 };

/* Element types that an array may have, beside bool: each has those before it. */
typedef enum {
    FLASHC_PY_FLOATS, /* float32, float16, bfloat16 */
    FLASHC_PY_FLOAT8, /* and float8_e4m3fn, float8_e5m2 */
    FLASHC_PY_CACHES, /* and int8, and uint8, which is q8_0: 34 bytes of the last axis are a block, and the shape has
                         the block's 32 columns there */
} flashc_py_types;

typedef struct {
    const char *name; /* the argument's, for messages; NULL: not acquired */
    void *data;       /* element [0, ..., 0] */
    flashc_dtype dtype;
    int ndim;
    int64_t shape[FLASHC_PY_MAX_NDIM];
    int64_t stride[FLASHC_PY_MAX_NDIM]; /* in elements */
    bool read_only;
    flashc_py_types types; /* asked for */

    Py_buffer buffer;  /* what keeps the memory where it is: buffer.obj, */
    PyObject *capsule; /* or the capsule, or (exchange table) the caller's own reference */
} flashc_py_view;

/* Fills *view, to be released in any case but failure. `name` must outlive the view. Returns 0, or -1 with
 * TypeError (no array, or of another type) or ValueError (memory that flashc cannot read in place). */
int flashc_py_view_acquire(flashc_py_view *view, PyObject *object, const char *name, flashc_py_types types);

/* As acquire, of floats, and read-only memory is refused. */
int flashc_py_view_acquire_output(flashc_py_view *view, PyObject *object, const char *name);

/* Gives the memory back; does nothing for a zeroed or released view. */
void flashc_py_view_release(flashc_py_view *view);

/* "[2, 8, 512, 64]" into text; returns text. */
char *flashc_py_shape_text(char *text, size_t size, const int64_t *shape, int ndim);

/* The view as rows x cols: the last axis must be contiguous and the others one axis of constant stride.
 * Returns 0, or -1 with ValueError. */
int flashc_py_view_as_rows(const flashc_py_view *view, int64_t *rows, int64_t *cols, int64_t *row_stride);

/* The number of elements of a C-contiguous view. Returns 0, or -1 with ValueError. */
int flashc_py_view_as_flat(const flashc_py_view *view, int64_t *n);

/* Raises ValueError and returns -1 if the view's memory is read-only. */
int flashc_py_view_expect_writable(const flashc_py_view *view);

/* The type's name in messages: NumPy's, not the C library's. */
const char *flashc_py_dtype_name(flashc_dtype dtype);

/* Raises TypeError and returns -1 if the view has another type. */
int flashc_py_view_expect_dtype(const flashc_py_view *view, flashc_dtype dtype);

/* Raises TypeError and returns -1 if the view holds no numbers (bool). */
int flashc_py_view_expect_float(const flashc_py_view *view);

/* Raises ValueError and returns -1 if the view is not of the other's shape without its last `dropped` axes. */
int flashc_py_view_expect_shape_of(const flashc_py_view *view, const flashc_py_view *other, int dropped);

#endif
