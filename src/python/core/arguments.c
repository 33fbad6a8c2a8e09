#include "python/core/arguments.h"

int flashc_py_acquire_all(flashc_py_view *views, PyObject *const *args, const flashc_py_argument *arguments, int n)
{
    for (int i = 0; i < n; i++) {
        views[i].name = NULL;
        if (args[i] == Py_None && arguments[i].optional)
            continue;
        if ((arguments[i].output ? flashc_py_view_acquire_output : flashc_py_view_acquire)(&views[i], args[i],
                                                                                        arguments[i].name) == 0)
            continue;
        while (i-- > 0)
            flashc_py_view_release(&views[i]);
        return -1;
    }
    return 0;
}

PyObject *flashc_py_finish(flashc_py_view *views, int n, int checked, flashc_status status)
{
    if (checked == 0 && status != FLASHC_OK)
        flashc_py_raise(status); /* before the release, which may run code that calls flashc */
    for (int i = 0; i < n; i++)
        flashc_py_view_release(&views[i]);
    return checked != 0 || status != FLASHC_OK ? NULL : Py_NewRef(Py_None);
}
