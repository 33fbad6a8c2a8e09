/* Do arrays share memory? Outputs must not with what else a call reads or writes. */
#ifndef FLASHC_PYTHON_APART_H
#define FLASHC_PYTHON_APART_H

#include "python/core/view.h"

/* The bytes that an array has elements in. */
typedef struct {
    const char *name;           /* of the argument; NULL: none */
    const flashc_py_view *view; /* NULL: all bytes from low to high */
    uintptr_t low, high;        /* first byte, and the one behind the last; equal: none */
} flashc_py_extent;

/* Of a view that may not be acquired. */
flashc_py_extent flashc_py_extent_of(const flashc_py_view *view);

/* Have they a byte in common? Arrays that interleave (a packed QKV buffer's) have none. Strides for which that takes
 * long to tell count as having none. */
bool flashc_py_extents_meet(const flashc_py_extent *a, const flashc_py_extent *b);

/* Raises ValueError and returns -1 if one of the first `outputs` extents meets another of all. */
int flashc_py_expect_extents_apart(const flashc_py_extent *extents, int outputs, int all);

#endif
