#include "attention/cache.h"

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

bool flashc_cache_in_place(const flashc_cache_rows *rows, const flashc_operand *operand, int64_t n_cols)
{
    return (!rows->table.pages || operand->by_row) && reads_in_place(&rows->tensor, operand, n_cols);
}

int64_t flashc_cache_copy_floats(const flashc_operand *operand, int64_t n_rows, int64_t n_cols)
{
    return n_rows * flashc_round_up(n_cols, operand->col_multiple);
}

int64_t flashc_cache_gathered_bytes(const flashc_cache_rows *rows, const flashc_operand *operand, int64_t n_rows,
                                    int64_t n_cols)
{
    return rows->table.pages && operand->pack ? n_rows * flashc_row_bytes(rows->tensor.dtype, n_cols) : 0;
}

int64_t flashc_cache_row_pointers(const flashc_operand *operand, int64_t n_rows)
{
    return operand->by_row ? flashc_round_up(n_rows, FLASHC_COLUMN_MULTIPLE) + FLASHC_ROWS_AHEAD : 0;
}

int64_t flashc_cache_scales(const flashc_cache_rows *rows, int64_t n_rows)
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

/* Where each of the tile's first n rows, or of those that follow, is. */
static void point_at(const flashc_cache_rows *rows, const flashc_vector_ops *vector, const flashc_tile_rows *tile,
                     int64_t n, const void **row)
{
    const flashc_block_table *t = &rows->table;
    const int64_t stride = rows->tensor.stride[2] * (int64_t)flashc_element_size(rows->tensor.dtype);
    if (!t->pages) {
        vector->point(row, flashc_cache_row(rows, tile->sequence, tile->head, tile->first), stride, n);
        return;
    }
    int64_t entry = tile->first / t->page_size, begin = tile->first - entry * t->page_size;
    for (int64_t done = 0; done < n; begin = 0) {
        const int64_t here = flashc_min(t->page_size - begin, n - done);
        const int64_t page = flashc_cache_page(t, tile->sequence, entry++);
        vector->point(row + done, flashc_element(&rows->tensor, page, tile->head, begin, 0), stride, here);
        done += here;
    }
}

/* The addresses beyond the `known` ones, for a tile of n rows. */
static const void **point_ahead(const flashc_operand *operand, int64_t n, int64_t known, const void **row)
{
    const int64_t end = flashc_cache_row_pointers(operand, n);
    for (int64_t i = known; i < end; i++)
        row[i] = row[known - 1];
    return row;
}

flashc_kv_tile flashc_cache_copied(const flashc_operand *operand, const float *copy, int64_t n_rows, int64_t ld,
                                   const flashc_tile_scratch *scratch)
{
    if (!operand->by_row)
        return (flashc_kv_tile){.data = copy, .dtype = FLASHC_F32, .row_stride = ld};
    for (int64_t i = 0; i < n_rows; i++)
        scratch->row[i] = copy + i * ld;
    return (flashc_kv_tile){.row = point_ahead(operand, n_rows, n_rows, scratch->row), .dtype = FLASHC_F32};
}

flashc_kv_tile flashc_cache_load(const flashc_cache_rows *rows, const flashc_kernel_row *kernel,
                                 const flashc_operand *operand, const flashc_tile_rows *tile, int64_t n_cols,
                                 const flashc_tile_scratch *scratch)
{
    const bool in_place = reads_in_place(&rows->tensor, operand, n_cols);
    if (in_place && operand->by_row) {
        const int64_t known = tile->n + flashc_min(tile->next, FLASHC_ROWS_AHEAD);
        point_at(rows, kernel->vector, tile, known, scratch->row);
        return (flashc_kv_tile){.row = point_ahead(operand, tile->n, known, scratch->row), .dtype = rows->tensor.dtype};
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
    const int64_t ld = flashc_round_up(n_cols, operand->col_multiple);
    flashc_cache_load_f32(rows, kernel, tile, n_cols, scratch->copy, ld);
    return flashc_cache_copied(operand, scratch->copy, tile->n, ld, scratch);
}

void flashc_cache_load_f32(const flashc_cache_rows *rows, const flashc_kernel_row *kernel,
                           const flashc_tile_rows *tile, int64_t n_cols, float *dst, int64_t ld)
{
    for (int64_t done = 0, n; done < tile->n; done += n) {
        n = flashc_cache_run(rows, &rows->tensor, tile->sequence, tile->first + done, tile->n - done);
        kernel->vector->load(dst + done * ld, ld, tile_at(rows, tile, tile->first + done), n, n_cols);
    }
}

const float *flashc_cache_load_scales(const flashc_cache_rows *rows, const flashc_tile_rows *tile,
                                      const flashc_tile_scratch *scratch)
{
    if (!rows->scale.data)
        return NULL;
    const flashc_block_table *t = &rows->table;
    const int64_t page_size = t->pages ? t->page_size : tile->first + tile->n, stride = rows->scale.stride[2];
    int64_t entry = tile->first / page_size, begin = tile->first - entry * page_size;
    for (int64_t done = 0; done < tile->n; begin = 0) {
        const int64_t here = flashc_min(page_size - begin, tile->n - done);
        const int64_t page = t->pages ? flashc_cache_page(t, tile->sequence, entry++) : tile->sequence;
        const float *from = (const float *)(const void *)flashc_element(&rows->scale, page, tile->head, begin, 0);
        if (stride == 1)
            memcpy(scratch->scale + done, from, (size_t)here * sizeof *from);
        else
            for (int64_t i = 0; i < here; i++)
                scratch->scale[done + i] = from[i * stride];
        done += here;
    }
    for (int64_t i = tile->n; i % FLASHC_COLUMN_MULTIPLE != 0; i++)
        scratch->scale[i] = 0.0f;
    return scratch->scale;
}
