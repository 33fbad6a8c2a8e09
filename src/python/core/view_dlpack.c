/* Arrays through DLPack: the C exchange table of their type, or their __dlpack__(). */
#include "python/core/dlpack.h"
#include "python/core/view_sources.h"

/* Replaces the exception of an array's own library, which does not name the argument: ValueError with the first
 * line of it. */
static int cannot_read(const char *name)
{
    if (flashc_py_raised_otherwise())
        return -1;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *text = value ? PyObject_Str(value) : NULL;
    PyObject *lines = text ? PyUnicode_Splitlines(text, 0) : NULL;
    PyObject *line = lines && PyList_Size(lines) > 0 ? PyList_GetItem(lines, 0) : NULL;
    PyErr_Clear(); /* of an exception that cannot tell its text */
    PyErr_Format(PyExc_ValueError,
                 "%s: expected a dense array in the CPU's memory, found one whose library says: %S", name,
                 line ? line : Py_None);
    Py_XDECREF(lines);
    Py_XDECREF(text);
    Py_XDECREF(traceback);
    Py_XDECREF(value);
    Py_XDECREF(type);
    return -1;
}

/* Sets view->dtype, if it is one that the view may have. */
static bool find_type(flashc_py_view *view, const dl_tensor *tensor)
{
    static const struct {
        int code, bits;
        flashc_dtype dtype;
        flashc_py_types types; /* the least that have it */
    } types[] = {
        {DL_FLOAT, 32, FLASHC_F32, FLASHC_PY_FLOATS},
        {DL_FLOAT, 16, FLASHC_F16, FLASHC_PY_FLOATS},
        {DL_BFLOAT, 16, FLASHC_BF16, FLASHC_PY_FLOATS},
        {DL_BOOL, 8, FLASHC_BOOL, FLASHC_PY_FLOATS},
        {DL_FLOAT8_E4M3FN, 8, FLASHC_F8_E4M3, FLASHC_PY_FLOAT8},
        {DL_FLOAT8_E5M2, 8, FLASHC_F8_E5M2, FLASHC_PY_FLOAT8},
        {DL_INT, 8, FLASHC_I8, FLASHC_PY_CACHES},
        {DL_UINT, 8, FLASHC_Q8_0, FLASHC_PY_CACHES},
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (tensor->dtype.lanes == 1 && tensor->dtype.code == types[i].code && tensor->dtype.bits == types[i].bits &&
            types[i].types <= view->types) {
            view->dtype = types[i].dtype;
            return true;
        }
    return false;
}

static int from_dl_tensor(flashc_py_view *view, const dl_tensor *tensor, PyObject *object)
{
    if (tensor->device.type != DL_CPU && tensor->device.type != DL_CUDA_HOST && tensor->device.type != DL_ROCM_HOST) {
        PyErr_Format(PyExc_ValueError,
                     "%s: expected an array in the CPU's memory, found one on device type %d (DLPack)", view->name,
                     (int)tensor->device.type);
        return -1;
    }
    if (!find_type(view, tensor)) {
        char found[64];
        PyOS_snprintf(found, sizeof found, "DLPack type code %d of %d bits, %d lanes", tensor->dtype.code,
                      tensor->dtype.bits, tensor->dtype.lanes);
        return flashc_py_view_wrong_type(view, object, found);
    }
    if (tensor->ndim < 0 || tensor->ndim > FLASHC_PY_MAX_NDIM) {
        PyErr_Format(PyExc_ValueError, "%s: expected 0 to %d axes, found %d", view->name, FLASHC_PY_MAX_NDIM,
                     (int)tensor->ndim);
        return -1;
    }
    view->ndim = tensor->ndim;
    view->data = tensor->data ? (char *)tensor->data + tensor->byte_offset : NULL;
    int64_t packed = 1;
    for (int i = view->ndim - 1; i >= 0; i--) {
        view->shape[i] = tensor->shape[i];
        view->stride[i] = tensor->strides ? tensor->strides[i] : packed;
        if (tensor->shape[i] < 0 || __builtin_mul_overflow(packed, tensor->shape[i], &packed)) {
            PyErr_Format(PyExc_ValueError,
                         "%s: expected sizes from 0 with fewer than 2^63 elements in all, found %lld on axis %d",
                         view->name, (long long)tensor->shape[i], i);
            return -1;
        }
    }
    return 0;
}

int flashc_py_view_from_exchange_table(flashc_py_view *view, PyObject *object)
{
    static PyObject *attribute;
    if (!attribute && !(attribute = PyUnicode_InternFromString("__dlpack_c_exchange_api__")))
        return -1;
    PyObject *capsule = PyObject_GetAttr((PyObject *)Py_TYPE(object), attribute);
    if (!capsule) {
        PyErr_Clear();
        return 0;
    }
    const dl_exchange_api *api = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    Py_DECREF(capsule); /* the table lives as long as the process */
    if (!api)
        PyErr_Clear();
    while (api && api->version.major != DL_MAJOR_VERSION)
        api = api->previous;
    if (!api || !api->borrow)
        return 0;
    dl_tensor tensor;
    if (api->borrow(object, &tensor) != 0)
        return cannot_read(view->name);
    return from_dl_tensor(view, &tensor, object) == 0 ? 1 : -1;
}

/* The capsule of object.__dlpack__(): versioned where the producer knows it, since only that tells read-only memory. */
static PyObject *dlpack_capsule(PyObject *object)
{
    PyObject *method = PyObject_GetAttrString(object, "__dlpack__");
    if (!method)
        return NULL;
    PyObject *no_arguments = PyTuple_New(0);
    PyObject *keywords = Py_BuildValue("{s(ii)}", "max_version", DL_MAJOR_VERSION, 0);
    PyObject *capsule = no_arguments && keywords ? PyObject_Call(method, no_arguments, keywords) : NULL;
    const bool too_old = !capsule && no_arguments && (PyErr_ExceptionMatches(PyExc_TypeError) ||
                                                      PyErr_ExceptionMatches(PyExc_NotImplementedError));
    if (too_old) { /* for max_version */
        PyErr_Clear();
        capsule = PyObject_CallObject(method, NULL);
    }
    Py_XDECREF(keywords);
    Py_XDECREF(no_arguments);
    Py_DECREF(method);
    return capsule;
}

int flashc_py_view_from_dlpack(flashc_py_view *view, PyObject *object)
{
    PyObject *capsule = dlpack_capsule(object);
    if (!capsule && PyErr_ExceptionMatches(PyExc_AttributeError))
        return flashc_py_view_wrong_type(view, object, NULL);
    if (!capsule)
        return cannot_read(view->name);
    /* A capsule that nobody renames frees its tensor itself when it goes: holding it is holding the memory. */
    int result = -1;
    if (PyCapsule_IsValid(capsule, "dltensor_versioned")) {
        const dl_managed_versioned *managed = PyCapsule_GetPointer(capsule, "dltensor_versioned");
        view->read_only = (managed->flags & DL_FLAG_READ_ONLY) != 0;
        if (managed->version.major == DL_MAJOR_VERSION)
            result = from_dl_tensor(view, &managed->tensor, object);
        else
            PyErr_Format(PyExc_ValueError, "%s: expected DLPack version %d, found %u", view->name, DL_MAJOR_VERSION,
                         (unsigned)managed->version.major);
    } else if (PyCapsule_IsValid(capsule, "dltensor")) {
        const dl_managed *managed = PyCapsule_GetPointer(capsule, "dltensor");
        result = from_dl_tensor(view, &managed->tensor, object);
    } else {
        PyErr_Format(PyExc_TypeError, "%s: its __dlpack__() returned no DLPack capsule", view->name);
    }
    if (result == 0)
        view->capsule = capsule;
    else
        Py_DECREF(capsule);
    return result;
}
