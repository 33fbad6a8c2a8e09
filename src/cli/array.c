#include "cli/array.h"

#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

const char *flashc_cli_shape_text(int rank, const int64_t *shape, char text[FLASHC_CLI_SHAPE_TEXT])
{
    size_t used = 1;
    strcpy(text, "[");
    for (int i = 0; i < rank && used < FLASHC_CLI_SHAPE_TEXT - 32; i++)
        used += (size_t)snprintf(text + used, FLASHC_CLI_SHAPE_TEXT - used, "%s%lld", i ? ", " : "",
                                 (long long)shape[i]);
    strcpy(text + used, "]");
    return text;
}

const char *flashc_cli_size_text(const char *what, int64_t size, char text[FLASHC_CLI_SIZE_TEXT])
{
    const int length = (int)strlen(what), plural = what[length - 1] == 's';
    if (plural)
        snprintf(text, FLASHC_CLI_SIZE_TEXT, "%lld %.*s", (long long)size, length - (size == 1), what);
    else
        snprintf(text, FLASHC_CLI_SIZE_TEXT, "%s %lld", what, (long long)size);
    return text;
}

flashc_npy_type flashc_cli_npy_type(flashc_dtype dtype)
{
    switch (dtype) {
    case FLASHC_F16: return FLASHC_NPY_F16;
    case FLASHC_BF16: return FLASHC_NPY_V2;
    case FLASHC_BOOL: return FLASHC_NPY_BOOL;
    case FLASHC_I8: return FLASHC_NPY_I8;
    case FLASHC_F8_E4M3:
    case FLASHC_F8_E5M2:
    case FLASHC_Q8_0: return FLASHC_NPY_U8;
    default: return FLASHC_NPY_F32;
    }
}

static int no_memory(const char *name, int64_t count, size_t size)
{
    return flashc_cli_error("%s: no memory for %lld elements of %zu bytes", name, (long long)count, size);
}

void *flashc_cli_array_allocate(const flashc_cli_array *array, size_t size)
{
    const uint64_t limit = PTRDIFF_MAX - 64;
    void *data = NULL;
    if (array->count >= 0 && (uint64_t)array->count <= limit / size)
        data = aligned_alloc(64, ((size_t)array->count * size + 64) / 64 * 64);
    if (!data)
        no_memory(array->name, array->count, size);
    return data;
}

/* An address without memory: touching it is a segmentation fault. */
static int reserve(flashc_cli_array *array, size_t item_size)
{
    if ((uint64_t)array->count > (PTRDIFF_MAX - 64) / item_size)
        return no_memory(array->name, array->count, item_size);
    const size_t bytes = 64; /* of its own; the rest is never looked at either */
    void *data = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED)
        return no_memory(array->name, array->count, item_size);
    array->data = data;
    array->reserved = bytes;
    return FLASHC_CLI_OK;
}

static void set_shape(flashc_cli_array *array, int rank, const int64_t *shape, int fortran_order)
{
    int64_t stride = 1;
    array->rank = rank;
    array->count = 1;
    for (int step = 0; step < rank; step++) {
        const int axis = fortran_order ? step : rank - 1 - step;
        array->shape[axis] = shape[axis];
        array->strides[axis] = stride;
        /* Only an array without elements can overflow here; its strides do not matter. */
        if (__builtin_mul_overflow(stride, shape[axis] ? shape[axis] : 1, &stride))
            stride = 0;
        array->count *= shape[axis];
    }
}

/* Up to size bytes from the beginning of a regular file; -1: not a regular file, or unreadable. */
static int64_t read_beginning(const char *path, void *bytes, size_t size, uint64_t *file_size)
{
    struct stat status;
    if (stat(path, &status) != 0 || !S_ISREG(status.st_mode))
        return -1;
    FILE *file = fopen(path, "rb");
    if (!file)
        return -1;
    const size_t n = fread(bytes, 1, size, file);
    fclose(file);
    *file_size = (uint64_t)status.st_size;
    return (int64_t)n;
}

/* Shape and type from the header of a regular file, if it is one: *done. Otherwise the reader shall say
 * what is wrong with it. */
static int plan_from_header(const char *path, flashc_cli_array *array, int *done)
{
    const size_t size = FLASHC_NPY_MAX_HEADER + 16;
    char message[FLASHC_NPY_MESSAGE_SIZE];
    flashc_npy_header header;
    uint64_t file_size = 0;
    void *bytes = malloc(size);
    if (!bytes)
        return no_memory(array->name, (int64_t)size, 1);
    const int64_t n = read_beginning(path, bytes, size, &file_size);
    const int valid = n >= 0 && flashc_npy_parse_header(bytes, (size_t)n, file_size, &header, message, sizeof message);
    free(bytes);
    *done = n >= 0;
    if (n < 0)
        return FLASHC_CLI_OK;
    if (!valid)
        return flashc_cli_error("%s: %s", path, message);
    array->file_type = header.type;
    set_shape(array, header.rank, header.shape, header.fortran_order);
    return reserve(array, sizeof(double)); /* whatever type it is converted to */
}

int flashc_cli_array_read(const char *path, int plan_only, flashc_cli_array *array)
{
    char message[FLASHC_NPY_MESSAGE_SIZE];
    int done = 0;
    *array = (flashc_cli_array){.name = strcmp(path, "-") == 0 ? "standard input" : path};
    if (plan_only && strcmp(path, "-") != 0 && plan_from_header(path, array, &done))
        return FLASHC_CLI_FAILED;
    if (done)
        return FLASHC_CLI_OK;
    array->file = calloc(1, sizeof *array->file);
    if (!array->file)
        return no_memory(array->name, 1, sizeof *array->file);
    if (!flashc_npy_read(path, array->file, message, sizeof message))
        return flashc_cli_error("%s", message);
    const flashc_npy_header *header = &array->file->header;
    array->file_type = header->type;
    set_shape(array, header->rank, header->shape, header->fortran_order);
    array->data = array->file->data;
    return FLASHC_CLI_OK;
}

int flashc_cli_array_make(const char *name, flashc_dtype dtype, int rank, const int64_t *shape, int plan_only,
                          flashc_cli_array *array)
{
    const size_t size = flashc_dtype_size(dtype);
    *array = (flashc_cli_array){.name = name, .dtype = dtype, .file_type = flashc_cli_npy_type(dtype)};
    int64_t count = 1;
    for (int i = 0; i < rank; i++)
        if (__builtin_mul_overflow(count, shape[i] ? shape[i] : 1, &count)) {
            char text[FLASHC_CLI_SHAPE_TEXT];
            return flashc_cli_error("%s: the shape %s has more elements than a 64-bit number can count", name,
                                    flashc_cli_shape_text(rank, shape, text));
        }
    set_shape(array, rank, shape, 0);
    if (plan_only)
        return reserve(array, size);
    array->owned = array->data = flashc_cli_array_allocate(array, size);
    if (!array->data)
        return FLASHC_CLI_FAILED;
    memset(array->data, 0, (size_t)array->count * size);
    return FLASHC_CLI_OK;
}

int flashc_cli_array_make_raw(const char *name, flashc_npy_type type, int rank, const int64_t *shape,
                              flashc_cli_array *array)
{
    *array = (flashc_cli_array){.name = name, .file_type = type};
    set_shape(array, rank, shape, 0);
    array->owned = array->data = flashc_cli_array_allocate(array, flashc_npy_type_size(type));
    return array->data ? FLASHC_CLI_OK : FLASHC_CLI_FAILED;
}

static void free_file(flashc_cli_array *array)
{
    if (array->file)
        flashc_npy_free(array->file);
    free(array->file);
    array->file = NULL;
}

void flashc_cli_array_replace(flashc_cli_array *array, void *data)
{
    free_file(array);
    free(array->owned);
    array->owned = array->data = data;
}

int flashc_cli_array_pack(flashc_cli_array *array)
{
    flashc_cli_array packed = *array;
    set_shape(&packed, array->rank, array->shape, 0);
    if (memcmp(packed.strides, array->strides, sizeof packed.strides) == 0 || array->count == 0)
        return FLASHC_CLI_OK;
    const size_t size = flashc_dtype_size(array->dtype);
    char *to = flashc_cli_array_allocate(array, size);
    if (!to)
        return FLASHC_CLI_FAILED;
    int64_t index[FLASHC_NPY_MAX_RANK] = {0};
    int64_t from = 0;
    for (int64_t i = 0; i < array->count; i++) {
        memcpy(to + (size_t)i * size, (const char *)array->data + from * (int64_t)size, size);
        /* The next index: count up the last axis, carry into the ones before it. */
        for (int axis = array->rank - 1; axis >= 0; axis--) {
            from += array->strides[axis];
            if (++index[axis] < array->shape[axis])
                break;
            from -= array->shape[axis] * array->strides[axis];
            index[axis] = 0;
        }
    }
    memcpy(array->strides, packed.strides, sizeof packed.strides);
    flashc_cli_array_replace(array, to);
    return FLASHC_CLI_OK;
}

void flashc_cli_array_swap_axes(flashc_cli_array *array, int a, int b)
{
    const int64_t size = array->shape[a], stride = array->strides[a];
    array->shape[a] = array->shape[b];
    array->strides[a] = array->strides[b];
    array->shape[b] = size;
    array->strides[b] = stride;
}

void flashc_cli_array_free(flashc_cli_array *array)
{
    free_file(array);
    free(array->owned);
    if (array->reserved)
        munmap(array->data, array->reserved);
    *array = (flashc_cli_array){0};
}
