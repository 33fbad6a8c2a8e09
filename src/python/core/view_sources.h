/* The protocols a view is filled by, each in a file of its own. view->name is set; on failure (-1) there is an
 * exception and the caller releases the view. */
#ifndef FLASHC_PYTHON_VIEW_SOURCES_H
#define FLASHC_PYTHON_VIEW_SOURCES_H

#include "python/core/view.h"

/* The C exchange table of the object's type. Returns 1 if the view is filled, 0 if the type has no table, -1. */
int flashc_py_view_from_exchange_table(flashc_py_view *view, PyObject *object);

/* object.__dlpack__(). Returns 0 or -1. */
int flashc_py_view_from_dlpack(flashc_py_view *view, PyObject *object);

/* The buffer protocol. Returns 0 or -1. */
int flashc_py_view_from_buffer(flashc_py_view *view, PyObject *object);

/* Raises TypeError: the object is no array, or has elements of another type; found says the type in the
 * protocol's words, or is NULL. Returns -1. */
int flashc_py_view_wrong_type(const flashc_py_view *view, PyObject *object, const char *found);

#endif
