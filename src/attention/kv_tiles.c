#include "attention/kv_tiles.h"

#include <limits.h>
#include <string.h>

/* Rows that are evenly spaced, or anywhere if the operand is told where. */
static bool reads_in_place(const flashc_tensor *tensor, const flashc_operand *operand, int64_t n_cols)
{
    const int64_t row_stride = tensor->stride[2];
    const int64_t elements = n_cols / flashc_dtype_columns(tensor->dtype);
    return (operand->in_place & FLASHC_DTYPE_BIT(tensor->dtype)) && (tensor->stride[3] == 1 || elements == 1) &&
           n_cols % operand->col_multiple == 0 &&
           (!operand->blas_rows || (row_stride >= n_cols && row_stride <= INT_MAX));
}

bool flashc_kv_in_place(const flashc_cache_rows *rows, const flashc_operand *operand, int64_t n_cols)
{
    return (flashc_cache_page_rows(rows) == 0 || operand->by_row) && reads_in_place(&rows->tensor, operand, n_cols);
}

/* Floats from a copied row to the next. P V walks a few columns of all rows: where rows are whole multiples of 256
 * bytes apart, these fall into few sets of the L1 cache, and are out of it before the next columns of their lines are
 * taken; with a line more between rows they stay. (Simulated, 32 KiB in 8 ways, AVX2, head_dim 64 and 128: a quarter
 * of the misses of P V.)
 */
static int64_t copy_ld(const flashc_operand *operand, int64_t n_cols)
{
    const int64_t ld = flashc_round_up(n_cols, operand->col_multiple), line = FLASHC_CACHE_LINE / sizeof(float);
    return ld > 0 && ld % (4 * line) == 0 ? ld + line : ld;
}

int64_t flashc_kv_copy_floats(const flashc_operand *operand, int64_t n_rows, int64_t n_cols)
{
    return n_rows * copy_ld(operand, n_cols);
}

int64_t flashc_kv_gathered_bytes(const flashc_cache_rows *rows, const flashc_operand *operand, int64_t n_rows,
                                 int64_t n_cols)
{
    const bool gathers = flashc_cache_page_rows(rows) > 0 && operand->pack;
    return gathers ? n_rows * flashc_row_bytes(rows->tensor.dtype, n_cols) : 0;
}

int64_t flashc_kv_row_pointers(const flashc_operand *operand, int64_t n_rows)
{
    return operand->by_row ? flashc_round_up(n_rows, FLASHC_COLUMN_MULTIPLE) + FLASHC_ROWS_AHEAD : 0;
}

int64_t flashc_kv_scales(const flashc_cache_rows *rows, int64_t n_rows)
{
    return rows->scale.data ? flashc_round_up(n_rows, FLASHC_COLUMN_MULTIPLE) : 0;
}

static flashc_tile tile_at(const flashc_cache_rows *rows, const flashc_tile_rows *tile, int64_t row)
{
    return (flashc_tile){.data = flashc_cache_row(rows, tile->sequence, tile->head, row),
                         .dtype = rows->tensor.dtype,
                         .row_stride = rows->tensor.stride[2],
                         .col_stride = rows->tensor.stride[3]};
}

/* The rows side by side, in their own type. */
static flashc_tile gather(const flashc_cache_rows *rows, const flashc_tile_rows *tile, int64_t n_cols, char *gathered)
{
    const flashc_dtype dtype = rows->tensor.dtype;
    const int64_t col_stride = rows->tensor.stride[3], row_bytes = flashc_row_bytes(dtype, n_cols);
    const int64_t size = (int64_t)flashc_dtype_size(dtype), elements = row_bytes / size;
    const int64_t row_stride = rows->tensor.stride[2] * size;
    char *to = gathered;
    for (int64_t done = 0, n; done < tile->n; done += n) {
        n = flashc_cache_run(rows, &rows->tensor, tile->sequence, tile->first + done, tile->n - done);
        const char *from = flashc_cache_row(rows, tile->sequence, tile->head, tile->first + done);
        for (int64_t row = 0; row < n; row++, from += row_stride, to += row_bytes)
            if (col_stride == 1)
                memcpy(to, from, (size_t)row_bytes);
            else
                for (int64_t i = 0; i < elements; i++)
                    memcpy(to + i * size, from + i * col_stride * size, (size_t)size);
    }
    return (flashc_tile){.data = gathered, .dtype = dtype, .row_stride = elements, .col_stride = 1};
}

/* Where a part's first row is, in K or V or in their scales. */
static const char *part_at(const flashc_tensor *tensor, flashc_cache_part part, int64_t head)
{
    return flashc_element(tensor, part.first.element, head, part.first.row, 0);
}

/* Where each of the tile's first n rows, or of those that follow, is. */
static void point_at(const flashc_cache_rows *rows, const flashc_vector_ops *vector, const flashc_tile_rows *tile,
                     int64_t n, const void **row)
{
    const int64_t stride = rows->tensor.stride[2] * (int64_t)flashc_element_size(rows->tensor.dtype);
    flashc_cache_walk walk = flashc_cache_walk_from(rows, tile->sequence, tile->first);
    for (int64_t done = 0; done < n;) {
        const flashc_cache_part part = flashc_cache_next_part(&walk, n - done);
        vector->point(row + done, part_at(&rows->tensor, part, tile->head), stride, part.n);
        done += part.n;
    }
}

/* Starts: how far ahead of the rows that are multiplied they are prefetched, and how much of each. 8 to 32 KiB and 512
 * to 1,536 bytes were within 3 % of each other. Pages of fewer bytes than two starts take longer with them (single rows
 * 1.5 times as long). */
enum { STARTS_AHEAD = 16384, START_BYTES = 1024, MAX_STARTS = 64 };

/* Rows up to this size gain from the touch of each page of memory in find_starts() (bf16 10 %, int8 13 %); f32 at
 * head_dim 128 loses 5 % by it, and nothing by one for each page of the cache. */
enum { TOUCH_ROW_BYTES = 256 };

int64_t flashc_kv_starts(const flashc_cache_rows *rows, const flashc_operand *operand)
{
    return operand->by_row && flashc_cache_page_rows(rows) > 0 ? MAX_STARTS + 1 : 0;
}

static const char *next_memory_page(const char *at)
{
    return at + (FLASHC_MEMORY_PAGE - (uintptr_t)at % FLASHC_MEMORY_PAGE);
}

/* Where a tile's worth of rows, STARTS_AHEAD bytes on, enters memory anew: at the first row of a page of the cache, and
 * at each page of memory in that. NULL: not in pages, or in short ones. One line of each is prefetched now, all
 * together, since translating an address takes 50 ns and several go on at a time. */
static const flashc_start *find_starts(const flashc_cache_rows *rows, const flashc_tile_rows *tile, int64_t row_bytes,
                                       flashc_start *start)
{
    const flashc_tensor *tensor = &rows->tensor;
    const bool contiguous = tensor->stride[2] * (int64_t)flashc_element_size(tensor->dtype) == row_bytes;
    const int64_t page_rows = flashc_cache_page_rows(rows);
    if (page_rows == 0 || !contiguous || row_bytes == 0 || page_rows < 2 * START_BYTES / row_bytes)
        return NULL;
    const int64_t ahead = flashc_min(STARTS_AHEAD / row_bytes, tile->n);
    const int64_t n_rows = flashc_min(tile->n, tile->n + tile->next - ahead);
    flashc_cache_walk walk = flashc_cache_walk_from(rows, tile->sequence, tile->first + ahead);
    int64_t n = 0;
    for (int64_t done = 0; done < n_rows;) {
        const flashc_cache_part part = flashc_cache_next_part(&walk, n_rows - done);
        const char *first = part_at(tensor, part, tile->head), *end = first + part.n * row_bytes;
        const char *at = part.first.row == 0 ? first : next_memory_page(first - 1);
        for (; at < end && n < MAX_STARTS; at = next_memory_page(at)) {
            if (at == first || row_bytes <= TOUCH_ROW_BYTES)
                __builtin_prefetch(at, 0, 3);
            start[n++] = (flashc_start){done + (at - first) / row_bytes, at, flashc_min(START_BYTES, end - at)};
        }
        done += part.n;
    }
    start[n].row = INT64_MAX;
    return start;
}

/* Fills in the addresses beyond the `known` ones, for a tile of n rows: the last known one again. */
static const void **point_ahead(const flashc_operand *operand, int64_t n, int64_t known, const void **row)
{
    const int64_t end = flashc_kv_row_pointers(operand, n);
    for (int64_t i = known; i < end; i++)
        row[i] = row[known - 1];
    return row;
}

flashc_kv_tile flashc_kv_copied(const flashc_operand *operand, const float *copy, int64_t n_rows, int64_t ld,
                                const flashc_tile_scratch *scratch)
{
    if (!operand->by_row)
        return (flashc_kv_tile){.data = copy, .dtype = FLASHC_F32, .row_stride = ld};
    for (int64_t i = 0; i < n_rows; i++)
        scratch->row[i] = copy + i * ld;
    return (flashc_kv_tile){.row = point_ahead(operand, n_rows, n_rows, scratch->row), .dtype = FLASHC_F32};
}

flashc_kv_tile flashc_kv_load(const flashc_cache_rows *rows, const flashc_kernel_row *kernel,
                              const flashc_operand *operand, const flashc_tile_rows *tile, int64_t n_cols,
                              const flashc_tile_scratch *scratch)
{
    const bool in_place = reads_in_place(&rows->tensor, operand, n_cols);
    if (in_place && operand->by_row) {
        const int64_t known = tile->n + flashc_min(tile->next, FLASHC_ROWS_AHEAD);
        point_at(rows, kernel->vector, tile, known, scratch->row);
        const int64_t row_bytes = flashc_row_bytes(rows->tensor.dtype, n_cols);
        return (flashc_kv_tile){.row = point_ahead(operand, tile->n, known, scratch->row),
                                .start = find_starts(rows, tile, row_bytes, scratch->start),
                                .dtype = rows->tensor.dtype};
    }
    const bool evenly_spaced = flashc_cache_run(rows, &rows->tensor, tile->sequence, tile->first, tile->n) == tile->n;
    if (in_place && evenly_spaced) {
        const flashc_tile here = tile_at(rows, tile, tile->first);
        return (flashc_kv_tile){.data = here.data, .dtype = here.dtype, .row_stride = here.row_stride};
    }
    if (operand->pack)
        return operand->pack(scratch->copy,
                             evenly_spaced ? tile_at(rows, tile, tile->first)
                                           : gather(rows, tile, n_cols, scratch->gathered),
                             tile->n, n_cols);
    const int64_t ld = copy_ld(operand, n_cols);
    flashc_kv_load_f32(rows, kernel, tile, n_cols, scratch->copy, ld);
    return flashc_kv_copied(operand, scratch->copy, tile->n, ld, scratch);
}

void flashc_kv_load_f32(const flashc_cache_rows *rows, const flashc_kernel_row *kernel, const flashc_tile_rows *tile,
                        int64_t n_cols, float *dst, int64_t ld)
{
    for (int64_t done = 0, n; done < tile->n; done += n) {
        n = flashc_cache_run(rows, &rows->tensor, tile->sequence, tile->first + done, tile->n - done);
        kernel->vector->load(dst + done * ld, ld, tile_at(rows, tile, tile->first + done), n, n_cols);
    }
}

const float *flashc_kv_load_scales(const flashc_cache_rows *rows, const flashc_tile_rows *tile,
                                   const flashc_tile_scratch *scratch)
{
    if (!rows->scale.data)
        return NULL;
    const int64_t stride = rows->scale.stride[2];
    flashc_cache_walk walk = flashc_cache_walk_from(rows, tile->sequence, tile->first);
    for (int64_t done = 0; done < tile->n;) {
        const flashc_cache_part part = flashc_cache_next_part(&walk, tile->n - done);
        const float *from = (const void *)part_at(&rows->scale, part, tile->head);
        if (stride == 1)
            memcpy(scratch->scale + done, from, (size_t)part.n * sizeof *from);
        else
            for (int64_t i = 0; i < part.n; i++)
                scratch->scale[done + i] = from[i * stride];
        done += part.n;
    }
    for (int64_t i = tile->n; i % FLASHC_COLUMN_MULTIPLE != 0; i++)
        scratch->scale[i] = 0.0f;
    return scratch->scale;
}
