#include "cli/stream_rows.h"

#include "cli/arithmetic.h"
#include "cli/caches.h"
#include "cli/cli.h"
#include "cli/layout.h"

#include <string.h>

int flashc_cli_stream_rows_open(const char *path, const flashc_cli_array *whole, int bshd,
                                const flashc_attention_params *params, const flashc_block_table *table,
                                const flashc_tensor *scales, flashc_cli_stream_rows *out)
{
    char message[FLASHC_NPY_MESSAGE_SIZE];
    int axes[4];
    if (!flashc_npy_pieces_open(path, &out->pieces, message, sizeof message))
        return flashc_cli_error("%s", message);
    const flashc_npy_header *header = &out->pieces.header;
    if (header->fortran_order && header->rank > 1)
        return flashc_cli_error("%s: --stream-kv expects C order, found Fortran order", path);
    flashc_cli_layout_axes(header->rank, bshd, axes);
    out->heads = axes[1] < 0 ? 1 : header->shape[axes[1]];
    out->outer = bshd ? 1 : out->heads;
    out->rows = header->shape[axes[2]];
    out->inner = header->shape[axes[3]] * (bshd ? out->heads : 1);
    out->dtype = whole->dtype;
    out->bshd = bshd;
    out->table = *table;
    out->cu_seqlens = params->cu_seqlens_k;
    out->leftpad = params->leftpad_k;
    out->all_scales = *scales;
    return FLASHC_CLI_OK;
}

/* Rows of the file that lie one after the other: n of them from `row` on, of an element of its first axis. */
typedef struct run {
    int64_t element, row, n;
} run;

/* Where row j of sequence b and up to n - 1 more lie. */
static run find(const flashc_cli_stream_rows *from, int64_t b, int64_t j, int64_t n)
{
    const flashc_block_table *t = &from->table;
    if (t->pages)
        return (run){t->pages[b * t->stride[0] + j / t->page_size * t->stride[1]], j % t->page_size,
                     flashc_cli_min(n, t->page_size - j % t->page_size)};
    return from->cu_seqlens ? (run){0, from->cu_seqlens[b] + j, n} : (run){b, j, n};
}

/* They become the chunk's rows from `at` on. */
static int read_run(flashc_cli_stream_rows *from, const run *r, int64_t at, int64_t chunk_rows)
{
    char message[FLASHC_NPY_MESSAGE_SIZE];
    const size_t item_size = from->pieces.header.item_size;
    for (int64_t i = 0; i < from->outer; i++) {
        const int64_t source = ((r->element * from->outer + i) * from->rows + r->row) * from->inner;
        const int64_t target = (i * chunk_rows + at) * from->inner;
        if (!flashc_npy_pieces_read(&from->pieces, source, r->n * from->inner,
                                    (char *)from->chunk.data + (size_t)target * item_size, message, sizeof message))
            return flashc_cli_error("%s", message);
    }
    return FLASHC_CLI_OK;
}

/* Scales are in memory: [heads, rows] of the chunk. */
static void copy_scales(flashc_cli_stream_rows *from, const run *r, int64_t at, int64_t chunk_rows)
{
    const flashc_tensor *all = &from->all_scales;
    float *target = from->chunk_scales.data;
    for (int64_t h = 0; h < from->heads; h++)
        for (int64_t i = 0; i < r->n; i++)
            target[h * chunk_rows + at + i] =
                ((const float *)all->data)[r->element * all->stride[0] + h * all->stride[1] +
                                           (r->row + i) * all->stride[2]];
}

static int make_chunk(flashc_cli_stream_rows *from, int64_t n)
{
    const flashc_npy_header *file = &from->pieces.header;
    const int64_t columns = file->shape[file->rank - 1];
    const int64_t shape[3] = {from->bshd ? n : from->heads, from->bshd ? from->heads : n, columns};
    flashc_cli_array_free(&from->chunk);
    flashc_cli_array_free(&from->chunk_scales);
    if (flashc_cli_array_make_raw(from->pieces.path, file->type, 3, shape, &from->chunk))
        return FLASHC_CLI_FAILED;
    const int64_t scales[2] = {from->heads, n};
    if (!from->all_scales.data)
        return FLASHC_CLI_OK;
    if (flashc_cli_array_make("scales", FLASHC_F32, 2, scales, 0, &from->chunk_scales))
        return FLASHC_CLI_FAILED;
    from->scale = (flashc_tensor){from->chunk_scales.data, FLASHC_F32, {0, n, 1, 0}};
    return FLASHC_CLI_OK;
}

int flashc_cli_stream_rows_read(flashc_cli_stream_rows *from, int64_t b, int64_t first, int64_t n)
{
    int64_t sizes[4];
    const int64_t padding = from->leftpad ? flashc_cli_min(n, from->leftpad[b] - first) : 0;
    if (make_chunk(from, n))
        return FLASHC_CLI_FAILED;
    if (padding > 0) /* its pages may be none */
        memset(from->chunk.data, 0, (size_t)from->chunk.count * from->pieces.header.item_size);
    for (int64_t at = padding > 0 ? padding : 0; at < n;) {
        const run r = find(from, b, first + at, n - at);
        if (read_run(from, &r, at, n))
            return FLASHC_CLI_FAILED;
        if (from->all_scales.data)
            copy_scales(from, &r, at, n);
        at += r.n;
    }
    if (flashc_cli_array_to_cache(&from->chunk, (int)from->dtype))
        return FLASHC_CLI_FAILED;
    from->view = flashc_cli_layout_tensor(&from->chunk, from->bshd, sizes);
    return FLASHC_CLI_OK;
}

void flashc_cli_stream_rows_close(flashc_cli_stream_rows *rows)
{
    flashc_cli_array_free(&rows->chunk);
    flashc_cli_array_free(&rows->chunk_scales);
    flashc_npy_pieces_close(&rows->pieces);
    *rows = (flashc_cli_stream_rows){.bshd = 0};
}
