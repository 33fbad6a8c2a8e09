#include "attention/upcoming.h"

flashc_upcoming flashc_upcoming_keys(const flashc_cache_rows *rows, const flashc_span *span, int64_t first_key,
                                     int64_t n_keys, int64_t n_cols, int64_t part, int64_t parts)
{
    const flashc_tensor *t = &rows->tensor;
    const int64_t sequence = span->sequence.k_element, start = span->sequence.first_key + first_key;
    if (n_keys <= 0 || t->stride[3] != 1)
        return (flashc_upcoming){.row = NULL};
    const int64_t n = flashc_cache_run(rows, t, sequence, start, n_keys);
    const int64_t first = n * part / parts, last = n * (part + 1) / parts;
    const int64_t row_stride = t->stride[2] * (int64_t)flashc_dtype_size(t->dtype);
    return (flashc_upcoming){
        .row = (const char *)flashc_cache_row(rows, sequence, span->head_k, start) + first * row_stride,
        .n_rows = last - first,
        .row_stride = row_stride,
        .row_bytes = flashc_row_bytes(t->dtype, n_cols),
    };
}

flashc_upcoming flashc_upcoming_rows(const flashc_problem *p, const flashc_tensor *tensor, int64_t n_cols,
                                     const flashc_sequence *sequence, int64_t head, int64_t first_row, int64_t n_rows)
{
    const int64_t end = flashc_min(first_row + n_rows, sequence->n_queries);
    if (p->group != 1 || tensor->stride[3] != 1 || first_row < 0 || first_row >= end)
        return (flashc_upcoming){.row = NULL};
    const int64_t element_size = (int64_t)flashc_dtype_size(tensor->dtype);
    return (flashc_upcoming){
        .row = flashc_element(tensor, sequence->q_element, head, sequence->first_query + first_row, 0),
        .n_rows = end - first_row,
        .row_stride = tensor->stride[2] * element_size,
        .row_bytes = n_cols * element_size,
    };
}

flashc_upcoming flashc_upcoming_bias(const flashc_problem *p, const flashc_row_block *block, int64_t first_key,
                                     int64_t n_keys)
{
    const flashc_tensor *t = p->bias.data ? &p->bias : &p->mask;
    if (!t->data || t->stride[2] == 0)
        return (flashc_upcoming){.row = NULL};
    flashc_upcoming rows =
        flashc_upcoming_rows(p, t, n_keys, &block->sequence, block->head_k, block->first_row, block->n_rows);
    if (rows.n_rows > 0)
        rows.row += (block->sequence.first_key + first_key) * (int64_t)flashc_dtype_size(t->dtype);
    return rows;
}
