/* The header of a .npy file that is written: version 1.0, C order, little-endian. */
#include "npy/internal.h"

#include <stdio.h>
#include <string.h>

size_t flashc_npy_format_header(char buffer[FLASHC_NPY_WRITTEN_HEADER], flashc_npy_type type, int rank,
                                const int64_t *shape, char *message, size_t message_size)
{
    size_t item_size = flashc_npy_type_size(type);
    if (item_size == 0 || rank < 0 || rank > FLASHC_NPY_MAX_RANK) {
        flashc_npy_fail(message, message_size, "cannot write type %d with %d axes: at most %d axes", (int)type, rank,
                        FLASHC_NPY_MAX_RANK);
        return 0;
    }
    for (int axis = 0; axis < rank; axis++) {
        if (shape[axis] < 0) {
            flashc_npy_fail(message, message_size, "cannot write a shape whose axis %d is %lld", axis,
                            (long long)shape[axis]);
            return 0;
        }
    }
    if (flashc_npy_extent(rank, shape, item_size) == 0) {
        flashc_npy_fail(message, message_size, "cannot write a shape of 2^63 bytes or more");
        return 0;
    }

    char *text = buffer + FLASHC_NPY_MIN_PREAMBLE;
    size_t room = FLASHC_NPY_WRITTEN_HEADER - FLASHC_NPY_MIN_PREAMBLE;
    size_t used = (size_t)snprintf(text, room, "{'descr': '%s%s', 'fortran_order': False, 'shape': (",
                                   item_size == 1 ? "|" : "<", flashc_npy_type_descr(type));
    for (int axis = 0; axis < rank; axis++)
        used += (size_t)snprintf(text + used, room - used, axis == 0 ? "%lld" : ", %lld", (long long)shape[axis]);
    used += (size_t)snprintf(text + used, room - used, rank == 1 ? ",), }" : "), }");

    /* Spaces and a newline up to a multiple of 64, so that a mapped file is aligned for any vector unit. */
    size_t total = (FLASHC_NPY_MIN_PREAMBLE + used + 1 + 63) / 64 * 64;
    memset(buffer + FLASHC_NPY_MIN_PREAMBLE + used, ' ', total - FLASHC_NPY_MIN_PREAMBLE - used);
    buffer[total - 1] = '\n';
    size_t header_length = total - FLASHC_NPY_MIN_PREAMBLE;
    memcpy(buffer, "\x93NUMPY\x01\x00", 8);
    buffer[8] = (char)(header_length & 0xff);
    buffer[9] = (char)(header_length >> 8);
    return total;
}
