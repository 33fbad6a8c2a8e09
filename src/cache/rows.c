#include "cache/rows.h"

#include "params.h"

#include <inttypes.h>
#include <stdio.h>

int64_t flashc_cache_run(const flashc_cache_rows *rows, const flashc_tensor *view, int64_t sequence, int64_t row,
                         int64_t n)
{
    const flashc_block_table *t = &rows->table;
    if (!t->pages)
        return n;
    int64_t entry = row / t->page_size, run = (entry + 1) * t->page_size - row;
    int64_t page = flashc_cache_page(t, sequence, entry);
    /* Pages that follow each other in memory are as good as one. */
    for (; run < n; run += t->page_size) {
        const int64_t next = flashc_cache_page(t, sequence, ++entry);
        if ((next - page) * view->stride[0] != t->page_size * view->stride[2])
            break;
        page = next;
    }
    return flashc_min(run, n);
}

flashc_status flashc_cache_check_tables_given(const flashc_block_table *k, const flashc_block_table *v)
{
    if (v->pages && !k->pages)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "block_table.pages: block_table_v needs it too, found NULL");
    const struct {
        const char *name;
        const flashc_block_table *table;
    } tables[] = {{"block_table", k}, {"block_table_v", v}};
    for (int i = 0; i < 2; i++) {
        const flashc_block_table *t = tables[i].table;
        const char *field = t->max_pages != 0   ? "max_pages"
                            : t->num_pages != 0 ? "num_pages"
                            : t->page_size != 0 ? "page_size"
                                                : NULL;
        if (!t->pages && field)
            return flashc_fail(FLASHC_ERR_ARGUMENT, "%s.pages: expected a pointer beside %s, found NULL",
                               tables[i].name, field);
    }
    return FLASHC_OK;
}

flashc_status flashc_cache_check_table(const char *name, const flashc_block_table *t, int64_t batch)
{
    const struct {
        const char *field;
        int64_t value, low;
    } sizes[] = {{"max_pages", t->max_pages, 0}, {"num_pages", t->num_pages, 0}, {"page_size", t->page_size, 1}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char field[64];
        snprintf(field, sizeof field, "%s.%s", name, sizes[i].field);
        flashc_status status = flashc_params_check_size(field, sizes[i].value, sizes[i].low);
        if (status != FLASHC_OK)
            return status;
    }
    if ((uintptr_t)t->pages % sizeof *t->pages != 0)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s.pages: expected an address aligned to %zu bytes, found %p", name,
                           sizeof *t->pages, (const void *)t->pages);
    const int64_t size[2] = {batch, t->max_pages};
    for (int axis = 0; axis < 2 && batch > 0 && t->max_pages > 0; axis++) {
        int64_t extent;
        if (__builtin_mul_overflow(size[axis] - 1, t->stride[axis], &extent) || extent > INT64_MAX / 16 ||
            extent < INT64_MIN / 16)
            return flashc_fail(FLASHC_ERR_ARGUMENT,
                               "%s.stride[%d]: %" PRId64 " entries times size %" PRId64
                               " leaves the 64-bit address range",
                               name, axis, t->stride[axis], size[axis]);
    }
    return FLASHC_OK;
}

int64_t flashc_cache_capacity(const flashc_block_table *t)
{
    int64_t rows;
    if (__builtin_mul_overflow(t->max_pages, t->page_size, &rows))
        return FLASHC_SIZE_LIMIT;
    return flashc_min(rows, FLASHC_SIZE_LIMIT);
}

flashc_status flashc_cache_check_pages(const char *name, const flashc_block_table *t, int64_t sequence, int64_t begin,
                                       int64_t end)
{
    for (int64_t entry = begin / t->page_size; begin < end && entry * t->page_size < end; entry++) {
        const int64_t page = flashc_cache_page(t, sequence, entry);
        if (page < 0 || page >= t->num_pages)
            return flashc_fail(FLASHC_ERR_ARGUMENT,
                               "%s[%" PRId64 "][%" PRId64 "]: expected a page 0 to %" PRId64 ", found %" PRId64, name,
                               sequence, entry, t->num_pages - 1, page);
    }
    return FLASHC_OK;
}

flashc_status flashc_cache_check_scale_given(const char *name, const flashc_tensor *scale,
                                             const flashc_tensor_argument *of)
{
    const flashc_dtype dtype = of->tensor->dtype;
    if (scale->data && (!flashc_dtype_is_quantised(dtype) || dtype == FLASHC_Q8_0))
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s.data: expected NULL with %s of type %s, found %p", name,
                           of->name, flashc_dtype_name(dtype), scale->data);
    if (!scale->data && dtype == FLASHC_I8 && !flashc_tensor_is_empty(of))
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s.data: expected a scale for each row with %s of type i8, found NULL",
                           name, of->name);
    return FLASHC_OK;
}
