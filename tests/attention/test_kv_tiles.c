/* Tiles of K and V as products are told of them: where each row lies and what is to be prefetched, or a copy; and no
 * byte of scratch beyond what the sizes say. On every kernel, in one array and in pages. */
#include "attention/kv_tiles.h"
#include "kernels/tiles.h"
#include "support/memory.h"

#include <string.h>

enum { HEADS = 2, SCRATCH = 5 };

typedef struct rows_case {
    flashc_cache_rows rows;
    guarded_buffer data, scale, pages;
} rows_case;

/* So many rows of two heads, the pages in order from the last to the first, or one array. */
static rows_case make_rows(flashc_dtype dtype, int64_t n, int64_t columns, int64_t page_size, bool by_head)
{
    const int64_t pages = page_size > 0 ? flashc_ceil_div(n, page_size) : 1, in_page = page_size > 0 ? page_size : n;
    const int64_t elements = pages * in_page * HEADS * columns;
    rows_case c = {.data = guarded_alloc((size_t)elements * flashc_dtype_size(dtype), false),
                   .scale = guarded_alloc((size_t)(pages * in_page * HEADS) * sizeof(float), false),
                   .pages = guarded_alloc((size_t)pages * sizeof(int32_t), false)};
    c.rows.tensor = by_head ? flashc_tensor_bhsd(c.data.bytes, dtype, HEADS, in_page, columns)
                            : flashc_tensor_bshd(c.data.bytes, dtype, HEADS, in_page, columns);
    c.rows.scale = flashc_tensor_bhsd(c.scale.bytes, FLASHC_F32, HEADS, in_page, 1);
    for (int64_t i = 0; i < elements; i++)
        if (dtype == FLASHC_I8)
            c.data.bytes[i] = (uint8_t)(i % 101);
        else
            flashc_store_f32(c.data.bytes, dtype, i, (float)(i % 101));
    for (int64_t i = 0; i < pages * in_page * HEADS; i++)
        flashc_store_f32(c.scale.bytes, FLASHC_F32, i, (float)(i % 97));
    int32_t *table = (int32_t *)(void *)c.pages.bytes;
    for (int64_t i = 0; i < pages; i++)
        table[i] = (int32_t)(pages - 1 - i);
    if (page_size > 0)
        c.rows.table = (flashc_block_table){table, {0, 1}, pages, pages, page_size};
    return c;
}

/* In order of rows, each in the rows from the tile's first on; the last one is for no row. */
static void check_starts(const flashc_start *start, const rows_case *c)
{
    for (; start->row != INT64_MAX; start++) {
        assert_true(start[1].row >= start->row && start->n > 0);
        assert_true((const unsigned char *)start->first >= c->data.bytes &&
                    (const unsigned char *)start->first + start->n <= c->data.bytes + c->data.size);
    }
}

static void check_tile(const rows_case *c, const flashc_tile_rows *tile, int64_t columns)
{
    const flashc_cache_rows *rows = &c->rows;
    const flashc_operand *operand = &kernel->gemm->k;
    const int64_t n = tile->n;
    const size_t sizes[SCRATCH] = {(size_t)flashc_kv_copy_floats(operand, n, columns) * sizeof(float),
                                   (size_t)flashc_kv_gathered_bytes(rows, operand, n, columns),
                                   (size_t)flashc_kv_row_pointers(operand, n) * sizeof(void *),
                                   (size_t)flashc_kv_starts(rows, operand) * sizeof(flashc_start),
                                   (size_t)flashc_kv_scales(rows, n) * sizeof(float)};
    guarded_buffer b[SCRATCH];
    for (int i = 0; i < SCRATCH; i++)
        b[i] = guarded_alloc(sizes[i], false);
    const flashc_tile_scratch scratch = {.copy = (float *)(void *)b[0].bytes, .gathered = b[1].bytes,
                                         .row = (const void **)(void *)b[2].bytes,
                                         .start = (flashc_start *)(void *)b[3].bytes,
                                         .scale = (float *)(void *)b[4].bytes};
    const flashc_kv_tile k = flashc_kv_load(rows, kernel, operand, tile, columns, &scratch);
    const float *scale = flashc_kv_load_scales(rows, tile, &scratch);
    for (int64_t i = 0; i < n; i++) {
        const char *want = flashc_cache_row(rows, tile->sequence, tile->head, tile->first + i);
        assert_true(scale[i] == *flashc_cache_scale(rows, tile->sequence, tile->head, tile->first + i));
        if (operand->pack)
            continue;
        const size_t size = flashc_dtype_size(k.dtype);
        const char *at = k.row ? k.row[i] : (const char *)k.data + (size_t)(i * k.row_stride) * size;
        for (int64_t d = 0; d < columns; d++)
            assert_true(flashc_load_f32(at, k.dtype, d) == flashc_load_f32(want, rows->tensor.dtype, d));
    }
    const int64_t ahead = flashc_min(tile->next, FLASHC_ROWS_AHEAD);
    const bool in_place = k.row && n > 0 && k.row[0] == flashc_cache_row(rows, 0, tile->head, tile->first);
    for (int64_t i = n; k.row && i < flashc_round_up(n, FLASHC_COLUMN_MULTIPLE) + FLASHC_ROWS_AHEAD; i++)
        assert_ptr_equal(k.row[i], in_place && i < n + ahead ? flashc_cache_row(rows, 0, tile->head, tile->first + i)
                                   : in_place ? k.row[n + ahead - 1] : k.row[n - 1]);
    if (k.start)
        check_starts(k.start, c);
    for (int i = 0; i < SCRATCH; i++)
        guarded_free(&b[i]);
}

static void test_tiles(void **state)
{
    (void)state;
    static const int64_t columns[] = {8, 40, 4096}, page_sizes[] = {0, 1, 16, 64};
    for (int n = 0; n < 48; n++) {
        const int64_t cols = columns[n % 3], page_size = page_sizes[n / 3 % 4];
        const flashc_dtype dtype = n / 12 % 2 ? FLASHC_I8 : FLASHC_F32;
        const int64_t block_n = kernel->block_shape(cols, cols).block_n, all = 2 * block_n + 5;
        rows_case c = make_rows(dtype, all, cols, page_size, n / 24 != 0);
        const flashc_tile_rows tiles[] = {{0, 1, 0, block_n, block_n},
                                          {0, 0, block_n, block_n, 5},
                                          {0, 1, 2 * block_n, 5, 0},
                                          {0, 0, 3, 1, 1}};
        for (int t = 0; t < 4; t++)
            check_tile(&c, &tiles[t], cols);
        guarded_free(&c.data);
        guarded_free(&c.scale);
        guarded_free(&c.pages);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tiles)};
    return RUN_ON_EACH_KERNEL(tests) != 0;
}
