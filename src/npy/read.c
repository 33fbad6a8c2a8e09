/* .npy files into memory. */
#include "npy/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A stream may promise any size: memory grows from here, twofold, with the bytes that really came. */
#define FIRST_STEP ((size_t)1 << 20)
#define DATA_ALIGNMENT ((size_t)64)

/* Reads until size bytes have come, or the end, or an error (errno is then set, otherwise 0). */
static size_t source_read(flashc_npy_source *source, void *buffer, size_t size)
{
    errno = 0;
    if (source->memory != NULL) {
        size_t taken = size < source->memory_left ? size : source->memory_left;
        memcpy(buffer, source->memory, taken);
        source->memory += taken;
        source->memory_left -= taken;
        return taken;
    }
    size_t done = 0;
    while (done < size) {
        ssize_t got = read(source->fd, (char *)buffer + done, size - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            if (got == 0)
                errno = 0;
            break;
        }
        done += (size_t)got;
    }
    return done;
}

static void *allocate(size_t size)
{
    void *memory = NULL;
    return posix_memalign(&memory, DATA_ALIGNMENT, size > 0 ? size : 1) == 0 ? memory : NULL;
}

/* The data, or NULL with a message. */
static void *read_data(flashc_npy_source *source, size_t size, const char *name, char *message, size_t message_size)
{
    bool streamed = source->size == FLASHC_NPY_SIZE_UNKNOWN;
    size_t capacity = streamed && size > FIRST_STEP ? FIRST_STEP : size;
    size_t filled = 0;
    char *data = allocate(capacity);
    while (data != NULL) {
        filled += source_read(source, data + filled, capacity - filled);
        if (filled == size)
            return data;
        if (filled < capacity) {
            if (errno != 0)
                flashc_npy_fail(message, message_size, "%s: cannot read: %s", name, strerror(errno));
            else
                flashc_npy_fail(message, message_size,
                                "%s: truncated: header promises %zu bytes of data, the file holds %zu", name, size,
                                filled);
            free(data);
            return NULL;
        }
        capacity = capacity < size - capacity ? 2 * capacity : size;
        char *larger = allocate(capacity);
        if (larger != NULL)
            memcpy(larger, data, filled);
        free(data);
        data = larger;
    }
    flashc_npy_fail(message, message_size, "%s: no memory for %zu bytes of data", name, size);
    return NULL;
}

void flashc_npy_swap_bytes(void *data, int64_t count, size_t item_size)
{
    if (item_size == 2) {
        uint16_t *x = data;
        for (int64_t i = 0; i < count; i++)
            x[i] = __builtin_bswap16(x[i]);
    } else if (item_size == 4) {
        uint32_t *x = data;
        for (int64_t i = 0; i < count; i++)
            x[i] = __builtin_bswap32(x[i]);
    } else if (item_size == 8) {
        uint64_t *x = data;
        for (int64_t i = 0; i < count; i++)
            x[i] = __builtin_bswap64(x[i]);
    }
}

/* An axis of size 0 counts as 1, so that strides stay products of what is there. */
static void set_strides(flashc_npy *npy)
{
    const flashc_npy_header *h = &npy->header;
    int64_t stride = 1;
    for (int i = 0; i < h->rank; i++) {
        int axis = h->fortran_order ? i : h->rank - 1 - i;
        npy->strides[axis] = stride;
        stride *= h->shape[axis] > 0 ? h->shape[axis] : 1;
    }
}

bool flashc_npy_read_header(flashc_npy_source *source, const char *name, char *bytes, flashc_npy_header *header,
                            char *message, size_t message_size)
{
    char reason[FLASHC_NPY_MESSAGE_SIZE];
    size_t have = 0;
    size_t needed = FLASHC_NPY_MIN_PREAMBLE;
    while (have < needed) {
        size_t got = source_read(source, bytes + have, needed - have);
        if (errno != 0)
            return flashc_npy_fail(message, message_size, "%s: cannot read: %s", name, strerror(errno));
        have += got;
        if (have == 0)
            return flashc_npy_fail(message, message_size, "%s: empty: expected a .npy file", name);
        if (!flashc_npy_bytes_needed(bytes, have, &needed, reason, sizeof reason))
            return flashc_npy_fail(message, message_size, "%s: %s", name, reason);
        if (got == 0)
            break;
    }
    if (!flashc_npy_parse_header(bytes, have, source->size, header, reason, sizeof reason))
        return flashc_npy_fail(message, message_size, "%s: %s", name, reason);
    return true;
}

bool flashc_npy_read_source(flashc_npy_source *source, const char *name, flashc_npy *out, char *message,
                            size_t message_size)
{
    *out = (flashc_npy){0};
    flashc_npy npy = {0};
    const flashc_npy_header *header = &npy.header;
    char *bytes = malloc(FLASHC_NPY_MAX_PREAMBLE + FLASHC_NPY_MAX_HEADER);
    if (bytes == NULL)
        return flashc_npy_fail(message, message_size, "%s: no memory for its header", name);
    bool ok = flashc_npy_read_header(source, name, bytes, &npy.header, message, message_size);
    free(bytes);
    if (!ok)
        return false;
    if ((uint64_t)header->count * header->item_size > SIZE_MAX)
        return flashc_npy_fail(message, message_size, "%s: more data than this machine can address", name);
    npy.data = read_data(source, (size_t)header->count * header->item_size, name, message, message_size);
    if (npy.data == NULL)
        return false;
    if (header->big_endian != (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__))
        flashc_npy_swap_bytes(npy.data, header->count, header->item_size);
    set_strides(&npy);
    *out = npy;
    return true;
}

bool flashc_npy_read_memory(const void *bytes, size_t n_bytes, const char *name, flashc_npy *out, char *message,
                            size_t message_size)
{
    flashc_npy_source source = {.fd = -1, .memory_left = n_bytes, .size = n_bytes};
    source.memory = n_bytes > 0 ? bytes : (const void *)"";
    return flashc_npy_read_source(&source, name, out, message, message_size);
}

bool flashc_npy_read(const char *path, flashc_npy *out, char *message, size_t message_size)
{
    bool standard = strcmp(path, "-") == 0;
    const char *name = standard ? "standard input" : path[0] != 0 ? path : "''";
    *out = (flashc_npy){0};
    flashc_npy_source source = {.fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC),
                                .size = FLASHC_NPY_SIZE_UNKNOWN};
    if (source.fd < 0)
        return flashc_npy_fail(message, message_size, "%s: cannot open: %s", name, strerror(errno));

    struct stat info;
    bool ok = false;
    if (fstat(source.fd, &info) != 0) {
        flashc_npy_fail(message, message_size, "%s: cannot read: %s", name, strerror(errno));
    } else if (S_ISDIR(info.st_mode)) {
        flashc_npy_fail(message, message_size, "%s: is a directory, expected a .npy file", name);
    } else {
        if (S_ISREG(info.st_mode)) {
            /* Standard input may have been read up to some place already. */
            off_t position = lseek(source.fd, 0, SEEK_CUR);
            source.size = position < info.st_size ? (uint64_t)(info.st_size - position) : 0;
        }
        ok = flashc_npy_read_source(&source, name, out, message, message_size);
    }
    if (!standard)
        close(source.fd);
    return ok;
}

void flashc_npy_free(flashc_npy *npy)
{
    free(npy->data);
    *npy = (flashc_npy){0};
}
