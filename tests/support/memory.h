/* Buffers that end, or start, at a page that may not be touched: reading or writing one byte past
 * the end (before the start) is a crash, not a silent success. */
#ifndef FLASHC_TESTS_MEMORY_H
#define FLASHC_TESTS_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

typedef struct guarded_buffer {
    unsigned char *bytes; /* exactly size bytes may be touched at the guarded side */
    size_t size;
    void *map; /* the whole mapping, guard pages included */
    size_t map_size;
} guarded_buffer;

/* guard_start false: the byte after the last faults. true: the byte before the first faults. In
 * both cases a fault also waits within a page on the other side. Exits with a message if there is no memory. */
guarded_buffer guarded_alloc(size_t size, bool guard_start);
void guarded_free(guarded_buffer *buffer);

#endif
