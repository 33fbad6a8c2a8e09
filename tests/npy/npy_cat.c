/* npy_cat IN OUT [IN OUT ...]: reads .npy files and writes them again in C order, little-endian. What cannot be
 * read or written gives one line on stderr. For test_numpy.py. */
#include "npy/npy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The elements in C order, found through the strides; NULL without memory. */
static char *pack(const flashc_npy *npy)
{
    const flashc_npy_header *h = &npy->header;
    char *packed = malloc((size_t)h->count * h->item_size + 1);
    for (int64_t n = 0; packed != NULL && n < h->count; n++) {
        int64_t rest = n;
        int64_t place = 0;
        for (int axis = h->rank - 1; axis >= 0; axis--) {
            place += rest % h->shape[axis] * npy->strides[axis];
            rest /= h->shape[axis];
        }
        memcpy(packed + (size_t)n * h->item_size, (char *)npy->data + (size_t)place * h->item_size, h->item_size);
    }
    return packed;
}

static bool copy(const char *from, const char *to)
{
    char message[FLASHC_NPY_MESSAGE_SIZE] = "no memory";
    flashc_npy npy;
    bool ok = flashc_npy_read(from, &npy, message, sizeof message);
    char *packed = ok ? pack(&npy) : NULL;
    ok = packed != NULL && flashc_npy_write(to, npy.header.type, npy.header.rank, npy.header.shape, packed, message,
                                            sizeof message);
    if (!ok)
        fprintf(stderr, "%s\n", message);
    free(packed);
    flashc_npy_free(&npy);
    return ok;
}

int main(int argc, char **argv)
{
    int status = 0;
    for (int i = 1; i + 1 < argc; i += 2)
        if (!copy(argv[i], argv[i + 1]))
            status = 1;
    return status;
}
