/* What the files of src/npy share. */
#ifndef FLASHC_NPY_INTERNAL_H
#define FLASHC_NPY_INTERNAL_H

#include "npy/npy.h"

#include <sys/types.h>

/* Magic, version and the length of the header: 10 bytes in version 1.0, 12 in 2.0 and 3.0. */
#define FLASHC_NPY_MIN_PREAMBLE 10
#define FLASHC_NPY_MAX_PREAMBLE 12

/* Writes the message and returns false, so that a check can end with it. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
bool flashc_npy_fail(char *message, size_t message_size, const char *format, ...);

/* How many bytes from the file's beginning are needed to go on, as far as the given ones tell: the
 * preamble, then the end of the header. Fails if the bytes cannot be the beginning of a .npy file. */
bool flashc_npy_bytes_needed(const void *bytes, size_t n_bytes, size_t *needed, char *message, size_t message_size);

/* Finds a dtype such as <f4; what cannot be read is refused by name. */
bool flashc_npy_parse_descr(const char *text, size_t length, flashc_npy_header *out, char *message,
                            size_t message_size);

/* How the type is written, without the byte order: "f4". It must be one of the enum. */
const char *flashc_npy_type_descr(flashc_npy_type type);

/* A copy of length bytes of a hostile file that is fit for a message: printable ASCII, cut to size - 1. */
const char *flashc_npy_printable(const char *text, size_t length, char *buffer, size_t size);

/* The product of all axes times item_size, zero-sized axes left out: 0 if it exceeds int64_t. Left out
 * because strides are products of the others. */
int64_t flashc_npy_extent(int rank, const int64_t *shape, size_t item_size);

/* Where bytes come from: a file descriptor, or memory if that is not NULL. */
typedef struct flashc_npy_source {
    int fd;
    const unsigned char *memory;
    size_t memory_left;
    uint64_t size; /* or FLASHC_NPY_SIZE_UNKNOWN */
} flashc_npy_source;

/* bytes: FLASHC_NPY_MAX_PREAMBLE + FLASHC_NPY_MAX_HEADER to work in. */
bool flashc_npy_read_header(flashc_npy_source *source, const char *name, char *bytes, flashc_npy_header *header,
                            char *message, size_t message_size);
void flashc_npy_swap_bytes(void *data, int64_t count, size_t item_size);

bool flashc_npy_read_source(flashc_npy_source *source, const char *name, flashc_npy *out, char *message,
                            size_t message_size);

/* Longest header that the writer makes: 32 axes of 19 digits. */
#define FLASHC_NPY_WRITTEN_HEADER 1024
/* Fills buffer with preamble and header; returns their size, a multiple of 64, or 0 with a message. */
size_t flashc_npy_format_header(char buffer[FLASHC_NPY_WRITTEN_HEADER], flashc_npy_type type, int rank,
                                const int64_t *shape, char *message, size_t message_size);

/* Finds the file that writing to path replaces: an absolute path without symbolic links, to be freed, and
 * its st_mode (0: it does not exist yet). *target is NULL for what is written directly: "-",
 * devices, pipes. */
bool flashc_npy_resolve_target(const char *path, char **target, mode_t *mode, char *message, size_t message_size);

/* Temporary files: a slot in a fixed table that a signal handler can walk. */

/* Creates an empty file in directory; returns its descriptor and slot, or -1 with errno set. */
int flashc_npy_temporary_open(const char *directory, mode_t mode, int *slot);
const char *flashc_npy_temporary_path(int slot);
/* Gives the slot back; the file stays if keep_file. Slot -1 is ignored. */
void flashc_npy_temporary_close(int slot, bool keep_file);

#endif
