/*
 * DLPack's binary interface, as far as flashc reads it: https://dmlc.github.io/dlpack/latest/c_api.html
 * (version 1.x; the C exchange table since 1.2). Declared here and not taken from dlpack.h, which no Python
 * package installs in a place that builds can rely on.
 */
#ifndef FLASHC_PYTHON_DLPACK_H
#define FLASHC_PYTHON_DLPACK_H

#include <stdint.h>

enum { DL_CPU = 1, DL_CUDA_HOST = 3, DL_ROCM_HOST = 11 }; /* device types whose memory the CPU reads */
enum { DL_INT = 0, DL_UINT = 1, DL_FLOAT = 2, DL_BFLOAT = 4, DL_BOOL = 6, DL_FLOAT8_E4M3FN = 10,
       DL_FLOAT8_E5M2 = 12 }; /* type codes */
enum { DL_MAJOR_VERSION = 1 };
#define DL_FLAG_READ_ONLY UINT64_C(1)

typedef struct {
    uint32_t major, minor;
} dl_version;

typedef struct {
    void *data;
    struct {
        int32_t type, id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape;
    int64_t *strides; /* in elements; NULL: packed, last axis fastest */
    uint64_t byte_offset;
} dl_tensor;

/* What the capsules "dltensor" and "dltensor_versioned" of __dlpack__() hold. */
typedef struct dl_managed {
    dl_tensor tensor;
    void *context;
    void (*deleter)(struct dl_managed *self);
} dl_managed;

typedef struct dl_managed_versioned {
    dl_version version;
    void *context;
    void (*deleter)(struct dl_managed_versioned *self);
    uint64_t flags;
    dl_tensor tensor;
} dl_managed_versioned;

/* The table behind the capsule "dlpack_exchange_api" on a type. Functions flashc does not call are void *. */
typedef struct dl_exchange_api {
    dl_version version;
    struct dl_exchange_api *previous;
    void *allocate, *from_object, *to_object;
    int (*borrow)(void *object, dl_tensor *out); /* may be NULL; no copy, no ownership */
    void *current_work_stream;
} dl_exchange_api;

#endif
