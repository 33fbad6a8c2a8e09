/* One-line messages of what is wrong with a file. */
#include "npy/internal.h"

#include <stdarg.h>
#include <stdio.h>

bool flashc_npy_fail(char *message, size_t message_size, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (message_size > 0)
        vsnprintf(message, message_size, format, args);
    va_end(args);
    return false;
}

const char *flashc_npy_printable(const char *text, size_t length, char *buffer, size_t size)
{
    size_t kept = length < size - 1 ? length : size - 1;
    for (size_t i = 0; i < kept; i++)
        buffer[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    buffer[kept] = 0;
    return buffer;
}
