/*
 * Where does row j of sequence b of a K or V cache lie? The one place that knows, for attention, which reads rows,
 * and for append, which writes them: in one array, or in pages that a block table names.
 */
#ifndef FLASHC_CACHE_ROWS_H
#define FLASHC_CACHE_ROWS_H

#include "tensor.h"

typedef struct flashc_cache_rows {
    flashc_tensor tensor;     /* [sequence, head, row, column], or [page, head, row of the page, column] */
    flashc_block_table table; /* pages NULL: the former */
    flashc_tensor scale;      /* f32, of each row, its elements being code * scale; data NULL: they are what they are */
} flashc_cache_rows;

/* The page that entry number `entry` of a sequence names. */
static inline int64_t flashc_cache_page(const flashc_block_table *t, int64_t sequence, int64_t entry)
{
    return t->pages[sequence * t->stride[0] + entry * t->stride[1]];
}

/* How many of the n rows from `row` on, or of their scales, lie evenly spaced, by stride[2] of that view: at least
 * 1. */
int64_t flashc_cache_run(const flashc_cache_rows *rows, const flashc_tensor *view, int64_t sequence, int64_t row,
                         int64_t n);

/* Indices of the first and third axis of tensor and scale. */
typedef struct flashc_cache_place {
    int64_t element, row;
} flashc_cache_place;

/* Rows of a page; 0 if there are no pages. */
static inline int64_t flashc_cache_page_rows(const flashc_cache_rows *rows)
{
    return rows->table.pages ? rows->table.page_size : 0;
}

/* Goes along the rows of a sequence, page by page: without a division for each. */
typedef struct flashc_cache_walk {
    const flashc_block_table *table;
    int64_t sequence, entry, row; /* entry of the table; row of that page */
} flashc_cache_walk;

static inline flashc_cache_walk flashc_cache_walk_from(const flashc_cache_rows *rows, int64_t sequence, int64_t row)
{
    const flashc_block_table *t = &rows->table;
    const int64_t entry = t->pages ? row / t->page_size : 0;
    return (flashc_cache_walk){t, sequence, entry, t->pages ? row - entry * t->page_size : row};
}

/* Rows that lie in one page, or in the one array: the first, and how many. */
typedef struct flashc_cache_part {
    flashc_cache_place first;
    int64_t n;
} flashc_cache_part;

/* The next rows, of n that are wanted: as many as lie in one page. */
static inline flashc_cache_part flashc_cache_next_part(flashc_cache_walk *walk, int64_t n)
{
    const flashc_block_table *t = walk->table;
    const int64_t row = walk->row;
    if (!t->pages) {
        walk->row += n;
        return (flashc_cache_part){{walk->sequence, row}, n};
    }
    walk->row = 0;
    return (flashc_cache_part){{flashc_cache_page(t, walk->sequence, walk->entry++), row},
                               flashc_min(t->page_size - row, n)};
}

/* Where one row lies. */
static inline flashc_cache_place flashc_cache_find(const flashc_cache_rows *rows, int64_t sequence, int64_t row)
{
    flashc_cache_walk walk = flashc_cache_walk_from(rows, sequence, row);
    return flashc_cache_next_part(&walk, 1).first;
}

/* Column 0 of a row. */
static inline char *flashc_cache_row(const flashc_cache_rows *rows, int64_t sequence, int64_t head, int64_t row)
{
    const flashc_cache_place place = flashc_cache_find(rows, sequence, row);
    return flashc_element(&rows->tensor, place.element, head, place.row, 0);
}

/* Where the scale of a row lies; there are scales. */
static inline float *flashc_cache_scale(const flashc_cache_rows *rows, int64_t sequence, int64_t head, int64_t row)
{
    const flashc_cache_place place = flashc_cache_find(rows, sequence, row);
    return (float *)(void *)flashc_element(&rows->scale, place.element, head, place.row, 0);
}

/* The table of v's pages: its own, or that of k's. */
static inline const flashc_block_table *flashc_cache_table_v(const flashc_block_table *k, const flashc_block_table *v)
{
    return v->pages ? v : k;
}

/* block_table_v is there only beside block_table. */
flashc_status flashc_cache_check_tables_given(const flashc_block_table *k, const flashc_block_table *v);

/* The scale, called name, of k, v or their caches: is it given where the type wants one, and only there? */
flashc_status flashc_cache_check_scale_given(const char *name, const flashc_tensor *scale,
                                             const flashc_tensor_argument *of);

/* Sizes, strides and pointer of a table; its entries are not read. */
flashc_status flashc_cache_check_table(const char *name, const flashc_block_table *t, int64_t batch);

/* Rows of a sequence that the table has entries for, at most FLASHC_SIZE_LIMIT. */
int64_t flashc_cache_capacity(const flashc_block_table *t);

/* Are the entries for rows begin .. end - 1 of a sequence pages of the tensor? */
flashc_status flashc_cache_check_pages(const char *name, const flashc_block_table *t, int64_t sequence, int64_t begin,
                                       int64_t end);

#endif
