/* .npy files in and out. Used by flashc-run and the tests; not part of the library.
 *
 * Reading is strict and bounded: the parser never looks past the bytes it was given, refuses a header
 * longer than NumPy's own limit, and compares what the header promises with what the file holds before
 * any memory is allocated. Versions 1.0, 2.0 and 3.0, both byte orders, C and Fortran order.
 * Writing is atomic: a file appears whole or not at all (of several, see flashc_npy_batch).
 *
 * Functions that can fail return false (or NULL) and write one line without a newline into message,
 * cut to message_size; it names the file, what was expected and what was found. */
#ifndef FLASHC_NPY_NPY_H
#define FLASHC_NPY_NPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* NumPy 1 allows 32 axes; so do we. */
#define FLASHC_NPY_MAX_RANK 32
/* NumPy's max_header_size: longer headers come from hostile files or from structured types. */
#define FLASHC_NPY_MAX_HEADER 10000
/* Outputs in one batch, and temporary files alive at any time in the process. */
#define FLASHC_NPY_MAX_OUTPUTS 16
/* Enough for any message with a file name of ordinary length. */
#define FLASHC_NPY_MESSAGE_SIZE 1024
/* file_size of a stream, whose end is not known. */
#define FLASHC_NPY_SIZE_UNKNOWN UINT64_MAX

typedef enum flashc_npy_type {
    FLASHC_NPY_F16,
    FLASHC_NPY_F32,
    FLASHC_NPY_F64,
    FLASHC_NPY_BOOL, /* one byte; other values than 0 and 1 are handed on as they are */
    FLASHC_NPY_I8,
    FLASHC_NPY_U8,
    FLASHC_NPY_I16,
    FLASHC_NPY_U16,
    FLASHC_NPY_I32,
    FLASHC_NPY_U32,
    FLASHC_NPY_I64,
    FLASHC_NPY_U64,
    FLASHC_NPY_V2 /* two raw bytes: how bf16 lies in files, since .npy has no name for it */
} flashc_npy_type;

typedef struct flashc_npy_header {
    flashc_npy_type type;
    bool big_endian;    /* in the file */
    bool fortran_order; /* the first axis is the contiguous one */
    int rank;
    int64_t shape[FLASHC_NPY_MAX_RANK];
    size_t data_offset; /* of the first element, in bytes from the file's beginning */
    int64_t count;      /* elements; 1 for rank 0. count * item_size fits in int64_t */
    size_t item_size;
} flashc_npy_header;

typedef struct flashc_npy {
    flashc_npy_header header;
    void *data; /* aligned to 64 bytes, in the machine's byte order, in the file's element order; never NULL */
    int64_t strides[FLASHC_NPY_MAX_RANK]; /* in elements: element [i0][i1].. is data[i0*strides[0] + ...] */
} flashc_npy;

/* "f32", "bool", "raw16", ...; "?" for an unknown value. */
const char *flashc_npy_type_name(flashc_npy_type type);
/* Bytes per element; 0 for an unknown value. */
size_t flashc_npy_type_size(flashc_npy_type type);

/* Parses the header at bytes[0 .. n_bytes). file_size is the whole file's size, or
 * FLASHC_NPY_SIZE_UNKNOWN: header and data must fit in it. The message has no file name in front. */
bool flashc_npy_parse_header(const void *bytes, size_t n_bytes, uint64_t file_size, flashc_npy_header *out,
                             char *message, size_t message_size);

/* Reads a file, a pipe, or standard input ("-"). From a stream it takes exactly header and data, in steps
 * that grow with what has arrived. Bytes after the data are ignored. On failure *out is zeroed. */
bool flashc_npy_read(const char *path, flashc_npy *out, char *message, size_t message_size);
/* The same from memory; name stands for the file in messages. */
bool flashc_npy_read_memory(const void *bytes, size_t n_bytes, const char *name, flashc_npy *out, char *message,
                            size_t message_size);
/* Frees the data and zeroes *npy; harmless on a zeroed one. */
void flashc_npy_free(flashc_npy *npy);

/* A regular file whose elements are read a few at a time. */
typedef struct flashc_npy_pieces {
    int fd;
    const char *path; /* the caller's; NULL: not open */
    flashc_npy_header header;
} flashc_npy_pieces;

/* Reads the header. *out is closed after a failure. */
bool flashc_npy_pieces_open(const char *path, flashc_npy_pieces *out, char *message, size_t message_size);
/* Elements first .. first + count - 1, in the file's order, in the machine's byte order. They must be there. */
bool flashc_npy_pieces_read(const flashc_npy_pieces *pieces, int64_t first, int64_t count, void *data, char *message,
                            size_t message_size);
/* Harmless on a closed one. */
void flashc_npy_pieces_close(flashc_npy_pieces *pieces);

/* Writes one array: C order, little-endian, version 1.0, data at a multiple of 64. The same as a batch of one. */
bool flashc_npy_write(const char *path, flashc_npy_type type, int rank, const int64_t *shape, const void *data,
                      char *message, size_t message_size);

/* Several files that appear together or not at all, but for a failure between the renames of commit:
 *
 *     batch = flashc_npy_begin(...);
 *     flashc_npy_reserve(batch, "o.npy", ...)       before a long computation: fails early where the file
 *                                                   could not be written (optional)
 *     flashc_npy_stage(batch, "o.npy", ..., data)   writes and syncs a temporary file beside the target
 *     flashc_npy_flush(batch, ...)                  writes what is no file (optional: commit does it, too)
 *     flashc_npy_commit(batch, ...) or flashc_npy_abort(batch)
 *
 * - Commit renames each temporary file onto its target. If one rename fails the ones before it are undone: new
 *   files are removed, and older files are back in place where the filesystem can exchange two names
 *   (RENAME_EXCHANGE; Linux's own can, NFS and FAT cannot: there they stay replaced). A process that is killed
 *   between two renames leaves a mixture.
 * - Devices, pipes and standard output ("-") cannot be replaced by a rename: stage keeps the data pointer
 *   (so the array must live until commit), and commit writes them first, before any rename. That may take as
 *   long as their readers like; after flush commit only renames. Ignore SIGPIPE to get a message instead of
 *   a signal from a reader that left.
 * - A symbolic link is followed: its target is replaced, the link stays. A dangling one is refused.
 * - A new file has the permissions the umask leaves; a replaced one keeps its own. Hard links to a replaced
 *   file keep the old contents. A file that is not writable is refused, although a rename could replace it.
 * - The same target twice in one batch is refused (devices excepted).
 *
 * A batch is for one thread. After reserve, stage or flush fails, call abort. Commit frees the batch, also when it
 * fails. A reserved path that is not staged is dropped by commit. */
typedef struct flashc_npy_batch flashc_npy_batch;
flashc_npy_batch *flashc_npy_begin(char *message, size_t message_size);
bool flashc_npy_reserve(flashc_npy_batch *batch, const char *path, char *message, size_t message_size);
bool flashc_npy_stage(flashc_npy_batch *batch, const char *path, flashc_npy_type type, int rank, const int64_t *shape,
                      const void *data, char *message, size_t message_size);
bool flashc_npy_flush(flashc_npy_batch *batch, char *message, size_t message_size);
bool flashc_npy_commit(flashc_npy_batch *batch, char *message, size_t message_size);
/* Removes the temporary files and frees the batch; NULL is ignored. */
void flashc_npy_abort(flashc_npy_batch *batch);

/* Removes every temporary file of this process. Async-signal-safe: a handler calls it and then ends the
 * process (a batch alive at that moment can no longer be committed). */
void flashc_npy_remove_temporaries(void);

#endif
