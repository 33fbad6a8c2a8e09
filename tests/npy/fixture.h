/* .npy files made by hand, byte by byte, and memory that faults one byte past its end. */
#ifndef FLASHC_TESTS_NPY_FIXTURE_H
#define FLASHC_TESTS_NPY_FIXTURE_H

#include "npy/npy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

/* Preamble of the version, then text as it stands. Returns the size; buffer must hold it. */
static inline size_t fixture_header(unsigned char *buffer, int version, const char *text)
{
    size_t length = strlen(text);
    size_t at = 0;
    memcpy(buffer, "\x93NUMPY", 6);
    buffer[6] = (unsigned char)version;
    buffer[7] = 0;
    for (at = 8; at < (version == 1 ? 10u : 12u); at++)
        buffer[at] = (unsigned char)(length >> 8 * (at - 8));
    memcpy(buffer + at, text, length);
    return at + length;
}

/* A mapping whose last bytes are the given ones; the page after them cannot be touched. */
typedef struct guarded {
    unsigned char *map;
    size_t map_size;
    unsigned char *bytes;
} guarded;

static inline guarded guarded_copy(const void *bytes, size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    guarded g = {.map_size = (size / page + 2) * page};
    g.map = mmap(NULL, g.map_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g.map != MAP_FAILED);
    assert_int_equal(mprotect(g.map + g.map_size - page, page, PROT_NONE), 0);
    g.bytes = g.map + g.map_size - page - size;
    if (size > 0)
        memcpy(g.bytes, bytes, size);
    return g;
}

static inline void guarded_free(guarded *g)
{
    munmap(g->map, g->map_size);
}

static inline void assert_contains(const char *message, const char *wanted)
{
    if (strstr(message, wanted) == NULL)
        fail_msg("message \"%s\" does not contain \"%s\"", message, wanted);
}

#endif
