/* .npy files that are read piece by piece, where they lie on disk. */
#include "npy/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool open_file(const char *path, flashc_npy_pieces *out, char *message, size_t message_size)
{
    struct stat info;
    if (fstat(out->fd, &info) != 0)
        return flashc_npy_fail(message, message_size, "%s: cannot read: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return flashc_npy_fail(message, message_size, "%s: expected a regular file, to be read in pieces", path);
    char *bytes = malloc(FLASHC_NPY_MAX_PREAMBLE + FLASHC_NPY_MAX_HEADER);
    if (bytes == NULL)
        return flashc_npy_fail(message, message_size, "%s: no memory for its header", path);
    flashc_npy_source source = {.fd = out->fd, .size = (uint64_t)info.st_size};
    bool ok = flashc_npy_read_header(&source, path, bytes, &out->header, message, message_size);
    free(bytes);
    return ok;
}

bool flashc_npy_pieces_open(const char *path, flashc_npy_pieces *out, char *message, size_t message_size)
{
    *out = (flashc_npy_pieces){.fd = open(path, O_RDONLY | O_CLOEXEC), .path = path};
    if (out->fd < 0)
        return flashc_npy_fail(message, message_size, "%s: cannot open: %s", path[0] != 0 ? path : "''",
                               strerror(errno));
    if (open_file(path, out, message, message_size))
        return true;
    flashc_npy_pieces_close(out);
    return false;
}

bool flashc_npy_pieces_read(const flashc_npy_pieces *pieces, int64_t first, int64_t count, void *data, char *message,
                            size_t message_size)
{
    const flashc_npy_header *header = &pieces->header;
    const size_t size = (size_t)count * header->item_size;
    const int64_t offset = (int64_t)header->data_offset + first * (int64_t)header->item_size;
    for (size_t done = 0; done < size;) {
        const ssize_t got = pread(pieces->fd, (char *)data + done, size - done, offset + (int64_t)done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return flashc_npy_fail(message, message_size, "%s: cannot read: %s", pieces->path, strerror(errno));
        if (got == 0)
            return flashc_npy_fail(message, message_size, "%s: became shorter while it was read", pieces->path);
        done += (size_t)got;
    }
    if (header->big_endian != (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__))
        flashc_npy_swap_bytes(data, count, header->item_size);
    return true;
}

void flashc_npy_pieces_close(flashc_npy_pieces *pieces)
{
    if (pieces->path != NULL && pieces->fd >= 0)
        close(pieces->fd);
    *pieces = (flashc_npy_pieces){0};
}
