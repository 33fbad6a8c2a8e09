#include "support/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

guarded_buffer guarded_alloc(size_t size, bool guard_start)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t inner = (size + page - 1) / page * page;
    guarded_buffer buffer = {.size = size, .map_size = inner + 2 * page};
    unsigned char *map =
        mmap(NULL, buffer.map_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED || (inner > 0 && mprotect(map + page, inner, PROT_READ | PROT_WRITE) != 0)) {
        perror("guarded_alloc");
        exit(1);
    }
    buffer.map = map;
    buffer.bytes = map + page + (guard_start ? 0 : inner - size);
    return buffer;
}

void guarded_free(guarded_buffer *buffer)
{
    if (buffer->map != NULL)
        munmap(buffer->map, buffer->map_size);
    *buffer = (guarded_buffer){0};
}
