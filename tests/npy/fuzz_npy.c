/* libFuzzer target: arbitrary bytes as a .npy file. A crash, a leak or a broken promise is a finding. */
#include "npy/internal.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void require(int ok)
{
    if (!ok)
        abort();
}

/* What every accepted header promises to its user. */
static void check_header(const flashc_npy_header *h, size_t size)
{
    require(h->rank >= 0 && h->rank <= FLASHC_NPY_MAX_RANK);
    require(h->item_size > 0 && h->item_size == flashc_npy_type_size(h->type));
    int64_t count = 1;
    for (int i = 0; i < h->rank; i++) {
        require(h->shape[i] >= 0);
        count *= h->shape[i];
    }
    require(h->count == count);
    require(h->data_offset <= size && h->data_offset <= FLASHC_NPY_MAX_PREAMBLE + FLASHC_NPY_MAX_HEADER);
}

static void check_array(const flashc_npy *npy)
{
    const flashc_npy_header *h = &npy->header;
    int64_t last = 0; /* the largest place that the strides reach */
    for (int i = 0; i < h->rank; i++)
        last += (h->shape[i] > 0 ? h->shape[i] - 1 : 0) * npy->strides[i];
    require(npy->data != NULL);
    require(h->count == 0 || last == h->count - 1);
    unsigned char sum = 0; /* the whole block is readable */
    for (size_t i = 0; i < (size_t)h->count * h->item_size; i++)
        sum = (unsigned char)(sum + ((const unsigned char *)npy->data)[i]);
    volatile unsigned char sink = sum;
    (void)sink;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char message[FLASHC_NPY_MESSAGE_SIZE];
    char short_message[8];
    flashc_npy_header known, unknown;
    bool fits = flashc_npy_parse_header(bytes, size, size, &known, message, sizeof message);
    bool parses = flashc_npy_parse_header(bytes, size, FLASHC_NPY_SIZE_UNKNOWN, &unknown, short_message,
                                          sizeof short_message);
    require(parses || !fits);
    if (parses)
        check_header(&unknown, size);
    if (fits) {
        check_header(&known, size);
        require((uint64_t)known.count * known.item_size <= size - known.data_offset);
    } else {
        require(strlen(message) > 0 && strchr(message, '\n') == NULL);
    }

    flashc_npy npy;
    require(flashc_npy_read_memory(bytes, size, "input", &npy, message, sizeof message) == fits);
    if (fits)
        check_array(&npy);
    flashc_npy_free(&npy);

    /* The same as a stream, whose size nobody knows. */
    flashc_npy_source source = {
        .fd = -1, .memory = size > 0 ? bytes : (const void *)"", .memory_left = size, .size = FLASHC_NPY_SIZE_UNKNOWN};
    require(flashc_npy_read_source(&source, "stream", &npy, message, sizeof message) == fits);
    if (fits) {
        check_array(&npy);
        require(source.memory_left == size - known.data_offset - (size_t)known.count * known.item_size);

        /* What was read can be written, and its header reads the same but for the orders. */
        char header[FLASHC_NPY_WRITTEN_HEADER];
        flashc_npy_header again;
        size_t written = flashc_npy_format_header(header, known.type, known.rank, known.shape, message, sizeof message);
        require(written > 0 && written % 64 == 0 && written <= sizeof header);
        require(flashc_npy_parse_header(header, written, FLASHC_NPY_SIZE_UNKNOWN, &again, message, sizeof message));
        require(again.type == known.type && again.rank == known.rank && again.count == known.count);
        require(memcmp(again.shape, known.shape, sizeof known.shape) == 0);
    }
    flashc_npy_free(&npy);
    return 0;
}
