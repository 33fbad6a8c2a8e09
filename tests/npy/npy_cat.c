/* npy_cat IN OUT: reads a .npy file and writes it again in C order, little-endian. For test_npy_numpy.py. */
#include "npy/npy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    char message[FLASHC_NPY_MESSAGE_SIZE];
    flashc_npy npy;
    if (argc != 3)
        return 2;
    if (!flashc_npy_read(argv[1], &npy, message, sizeof message)) {
        fprintf(stderr, "%s\n", message);
        return 1;
    }
    const flashc_npy_header *h = &npy.header;
    char *packed = malloc((size_t)h->count * h->item_size + 1);
    if (packed == NULL)
        return 1;
    for (int64_t n = 0; n < h->count; n++) {
        int64_t rest = n;
        int64_t place = 0;
        for (int axis = h->rank - 1; axis >= 0; axis--) {
            place += rest % h->shape[axis] * npy.strides[axis];
            rest /= h->shape[axis];
        }
        memcpy(packed + (size_t)n * h->item_size, (char *)npy.data + (size_t)place * h->item_size, h->item_size);
    }
    bool ok = flashc_npy_write(argv[2], h->type, h->rank, h->shape, packed, message, sizeof message);
    if (!ok)
        fprintf(stderr, "%s\n", message);
    free(packed);
    flashc_npy_free(&npy);
    return ok ? 0 : 1;
}
