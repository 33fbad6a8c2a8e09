/* .npy files out: temporary files beside their targets, then renames. */
#include "npy/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "arrays are written as they lie in memory, little-endian");

typedef struct output {
    char *path;   /* as the caller gave it */
    char *target; /* the file to replace, symbolic links resolved; NULL: written directly at commit */
    int fd;       /* of the temporary file, while it is being written */
    int slot;     /* of the temporary file */
    bool staged;
    enum { WAITING, CREATED, REPLACED, EXCHANGED } placed;
    char header[FLASHC_NPY_WRITTEN_HEADER];
    size_t header_size;
    const void *data;
    size_t data_size;
} output;

struct flashc_npy_batch {
    int count;
    output outputs[FLASHC_NPY_MAX_OUTPUTS];
};

static bool is_standard(const output *o)
{
    return strcmp(o->path, "-") == 0;
}

static const char *shown_name(const output *o)
{
    return is_standard(o) ? "standard output" : o->path;
}

static bool fail_write(const output *o, char *message, size_t message_size)
{
    return flashc_npy_fail(message, message_size, "%s: cannot write: %s", shown_name(o), strerror(errno));
}

flashc_npy_batch *flashc_npy_begin(char *message, size_t message_size)
{
    flashc_npy_batch *batch = calloc(1, sizeof *batch);
    if (batch == NULL)
        flashc_npy_fail(message, message_size, "no memory for the list of outputs");
    return batch;
}

/* Creates the temporary file beside o->target; mode is that of the file to replace, or 0. */
static bool open_temporary(output *o, mode_t mode, char *message, size_t message_size)
{
    char directory[PATH_MAX];
    size_t length = (size_t)(strrchr(o->target, '/') - o->target);
    if (length >= sizeof directory) {
        errno = ENAMETOOLONG;
        return fail_write(o, message, message_size);
    }
    memcpy(directory, o->target, length);
    directory[length] = 0;
    /* Never wider than the file it replaces, not even for a moment. */
    o->fd = flashc_npy_temporary_open(directory, mode != 0 ? mode & 0777 : 0666, &o->slot);
    if (o->fd < 0)
        return flashc_npy_fail(message, message_size, "%s: cannot write: no temporary file in '%s': %s", o->path,
                               length > 0 ? directory : "/", strerror(errno));
    if (mode != 0)
        (void)fchmod(o->fd, mode & 0777); /* what the umask took away; some filesystems have no modes */
    return true;
}

/* Appends an output and, if it will be a file, creates its temporary file. */
static output *reserve(flashc_npy_batch *batch, const char *path, char *message, size_t message_size)
{
    if (batch->count == FLASHC_NPY_MAX_OUTPUTS) {
        flashc_npy_fail(message, message_size, "%s: more than %d outputs", path, FLASHC_NPY_MAX_OUTPUTS);
        return NULL;
    }
    output *o = &batch->outputs[batch->count];
    *o = (output){.fd = -1, .slot = -1, .path = strdup(path)};
    if (o->path == NULL) {
        flashc_npy_fail(message, message_size, "%s: no memory for its name", path);
        return NULL;
    }
    batch->count++; /* from here on abort cleans up, also after a failure below */
    mode_t mode;
    if (!flashc_npy_resolve_target(path, &o->target, &mode, message, message_size))
        return NULL;
    for (int i = 0; i < batch->count - 1; i++) {
        const output *other = &batch->outputs[i];
        if (o->target != NULL ? other->target != NULL && strcmp(other->target, o->target) == 0
                              : is_standard(o) && is_standard(other)) {
            flashc_npy_fail(message, message_size, "%s: named as output twice", shown_name(o));
            return NULL;
        }
    }
    return o->target == NULL || open_temporary(o, mode, message, message_size) ? o : NULL;
}

bool flashc_npy_reserve(flashc_npy_batch *batch, const char *path, char *message, size_t message_size)
{
    return reserve(batch, path, message, message_size) != NULL;
}

/* The output that was reserved under this path and has no data yet. */
static output *find_reserved(flashc_npy_batch *batch, const char *path)
{
    for (int i = 0; i < batch->count; i++)
        if (!batch->outputs[i].staged && strcmp(batch->outputs[i].path, path) == 0)
            return &batch->outputs[i];
    return NULL;
}

static bool write_all(int fd, const void *data, size_t size)
{
    const char *at = data;
    while (size > 0) {
        ssize_t written = write(fd, at, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return false;
        at += written;
        size -= (size_t)written;
    }
    return true;
}

static bool write_array(int fd, const output *o)
{
    return write_all(fd, o->header, o->header_size) && write_all(fd, o->data, o->data_size);
}

/* Renames survive a crash only after what they name is on the disk. */
static bool sync_file(int fd)
{
    return fsync(fd) == 0 || errno == EINVAL || errno == ENOSYS;
}

bool flashc_npy_stage(flashc_npy_batch *batch, const char *path, flashc_npy_type type, int rank, const int64_t *shape,
                      const void *data, char *message, size_t message_size)
{
    char reason[FLASHC_NPY_MESSAGE_SIZE];
    output *o = find_reserved(batch, path);
    if (o == NULL)
        o = reserve(batch, path, message, message_size);
    if (o == NULL)
        return false;
    o->header_size = flashc_npy_format_header(o->header, type, rank, shape, reason, sizeof reason);
    if (o->header_size == 0)
        return flashc_npy_fail(message, message_size, "%s: %s", shown_name(o), reason);
    o->data = data;
    o->data_size = flashc_npy_type_size(type);
    for (int axis = 0; axis < rank; axis++)
        o->data_size *= (size_t)shape[axis];
    o->staged = true;
    if (o->target == NULL)
        return true;
    bool written = write_array(o->fd, o) && sync_file(o->fd);
    int error = errno;
    if (close(o->fd) != 0 && written) {
        written = false;
        error = errno;
    }
    o->fd = -1;
    errno = error;
    return written || fail_write(o, message, message_size);
}

/* A device, a pipe or standard output. */
static bool write_directly(const output *o, char *message, size_t message_size)
{
    int fd = is_standard(o) ? STDOUT_FILENO : open(o->path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return fail_write(o, message, message_size);
    bool written = write_array(fd, o);
    int error = errno;
    if (!is_standard(o) && close(fd) != 0 && written) {
        written = false;
        error = errno;
    }
    errno = error;
    return written || fail_write(o, message, message_size);
}

/* Puts the temporary file in the target's place. Where undo may be wanted, an older file is exchanged
 * rather than replaced: it then waits under the temporary name. */
static bool place(output *o, bool undoable, char *message, size_t message_size)
{
    const char *temporary = flashc_npy_temporary_path(o->slot);
    struct stat info;
    bool exists = lstat(o->target, &info) == 0;
    if (exists && S_ISDIR(info.st_mode)) {
        errno = EISDIR;
        return fail_write(o, message, message_size);
    }
#ifdef RENAME_EXCHANGE
    if (exists && undoable && renameat2(AT_FDCWD, temporary, AT_FDCWD, o->target, RENAME_EXCHANGE) == 0) {
        o->placed = EXCHANGED;
        return true;
    }
#else
    (void)undoable;
#endif
    if (rename(temporary, o->target) != 0)
        return fail_write(o, message, message_size);
    o->placed = exists ? REPLACED : CREATED;
    return true;
}

static void undo(output *o)
{
    if (o->placed == EXCHANGED)
        (void)!rename(flashc_npy_temporary_path(o->slot), o->target);
    else if (o->placed == CREATED)
        unlink(o->target);
}

/* Makes the rename itself durable; not an error if the filesystem cannot. */
static void sync_directory(output *o)
{
    *strrchr(o->target, '/') = 0;
    int fd = open(o->target[0] != 0 ? o->target : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
}

bool flashc_npy_flush(flashc_npy_batch *batch, char *message, size_t message_size)
{
    for (int i = 0; i < batch->count; i++) {
        output *o = &batch->outputs[i];
        if (!o->staged || o->target != NULL)
            continue;
        if (!write_directly(o, message, message_size))
            return false;
        o->staged = false; /* done: nothing is left to commit */
    }
    return true;
}

bool flashc_npy_commit(flashc_npy_batch *batch, char *message, size_t message_size)
{
    bool ok = flashc_npy_flush(batch, message, message_size);
    int last = -1; /* needs no way back */
    for (int i = 0; i < batch->count; i++)
        if (batch->outputs[i].staged)
            last = i;
    int placed = 0;
    for (; ok && placed < batch->count; placed++)
        if (batch->outputs[placed].staged && batch->outputs[placed].target != NULL)
            ok = place(&batch->outputs[placed], placed != last, message, message_size);
    for (int i = 0; i < placed; i++) {
        output *o = &batch->outputs[i];
        if (!ok)
            undo(o);
        else if (o->placed != WAITING)
            sync_directory(o);
    }
    flashc_npy_abort(batch);
    return ok;
}

void flashc_npy_abort(flashc_npy_batch *batch)
{
    if (batch == NULL)
        return;
    for (int i = 0; i < batch->count; i++) {
        output *o = &batch->outputs[i];
        if (o->fd >= 0)
            close(o->fd);
        /* After a rename the temporary name is gone; after an exchange it holds the older file. */
        flashc_npy_temporary_close(o->slot, o->placed == CREATED || o->placed == REPLACED);
        free(o->path);
        free(o->target);
    }
    free(batch);
}

bool flashc_npy_write(const char *path, flashc_npy_type type, int rank, const int64_t *shape, const void *data,
                      char *message, size_t message_size)
{
    flashc_npy_batch *batch = flashc_npy_begin(message, message_size);
    if (batch == NULL)
        return false;
    if (flashc_npy_stage(batch, path, type, rank, shape, data, message, message_size))
        return flashc_npy_commit(batch, message, message_size);
    flashc_npy_abort(batch);
    return false;
}
