/* Each kernel's two matrix products against sums in float64. */
#include "kernels/tiles.h"
#include "support/memory.h"
#include "support/values.h"

#include <math.h>
#include <string.h>

/* K or V [n, depth] ending at a guard page, in a type and with rows as far apart as a product may take them. */
static guarded_buffer make_tile(flashc_tile *tile, flashc_dtype dtype, int64_t n, int64_t depth, test_rng *rng)
{
    const int64_t multiple = flashc_max(kernel->gemm->k.col_multiple, flashc_dtype_columns(dtype));
    const int64_t columns = flashc_round_up(depth, multiple), elements = columns / flashc_dtype_columns(dtype);
    const size_t size = flashc_dtype_size(dtype);
    guarded_buffer buffer = guarded_alloc((size_t)(n * elements) * size, false);
    for (int64_t i = 0; i < n * columns; i++) {
        const double x = i % columns < depth ? test_rng_normal(rng) : 0.0;
        const uint32_t code = test_encode(FLASHC_I8, 40.0 * x);
        if (dtype == FLASHC_I8)
            buffer.bytes[i] = (uint8_t)code;
        else if (dtype == FLASHC_Q8_0) {
            const int64_t block = i / FLASHC_Q8_0_COLUMNS * FLASHC_Q8_0_BYTES;
            buffer.bytes[block] = (uint8_t)block, buffer.bytes[block + 1] = 0x28; /* some f16 about 0.03 */
            buffer.bytes[block + 2 + i % FLASHC_Q8_0_COLUMNS] = (uint8_t)code;
        } else
            flashc_store_f32(buffer.bytes, dtype, i, (float)x);
    }
    *tile = (flashc_tile){.data = buffer.bytes, .dtype = dtype, .row_stride = elements, .col_stride = 1};
    return buffer;
}

/* Element (row, col) of such a tile. */
static float element(const flashc_tile *tile, int64_t row, int64_t col)
{
    const char *start = (const char *)tile->data + row * tile->row_stride * (int64_t)flashc_dtype_size(tile->dtype);
    return flashc_load_f32(start, tile->dtype, col);
}

/* As the product takes it: where it lies, row by row (the addresses in scratch), or packed into scratch. */
static flashc_kv_tile operand(const flashc_operand *op, flashc_tile tile, float *scratch, int64_t n, int64_t depth)
{
    if (op->by_row) {
        const void **row = (const void **)(void *)scratch;
        for (int64_t i = 0; i < flashc_round_up(n, FLASHC_COLUMN_MULTIPLE) + FLASHC_ROWS_AHEAD; i++)
            row[i] = (const char *)tile.data +
                     (i < n ? i : n - 1) * tile.row_stride * (int64_t)flashc_dtype_size(tile.dtype);
        return (flashc_kv_tile){.row = row, .dtype = tile.dtype};
    }
    if (op->in_place & FLASHC_DTYPE_BIT(tile.dtype))
        return (flashc_kv_tile){.data = tile.data, .dtype = tile.dtype, .row_stride = tile.row_stride};
    return op->pack(scratch, tile, n, depth);
}

static bool takes(flashc_dtype dtype)
{
    return kernel->gemm->k.in_place & FLASHC_DTYPE_BIT(dtype);
}

/* Queries or weights as a product takes them: rows 0 .. TILE_ROWS - 1 along so many columns. */
typedef struct rows_tile {
    float *data;
    int64_t ld;
    bool bf16;
} rows_tile;

/* Random in the first columns, 0 in the others. */
static void fill_rows(const rows_tile *rows, int64_t random_cols, int64_t cols, test_rng *rng)
{
    for (int64_t col = 0; col < cols; col++)
        for (int64_t lane = 0; lane < TILE_ROWS; lane++)
            set_element_of(rows->bf16, rows->data, rows->ld, lane, col,
                           col < random_cols ? (float)test_rng_normal(rng) : 0.0f);
}

/* c against the sums of products of rows with K, whose rows are summed along, or with V, along whose columns, and to
 * which half of the 1 that was there comes. Bound: terms u sum |a b|. */
static void check_sums(const float *c, const rows_tile *rows, int64_t lanes, const flashc_tile *tile, bool is_v,
                       int64_t n, int64_t depth, float factor)
{
    const int64_t n_cols = is_v ? depth : n, terms = is_v ? n : depth;
    const double start = is_v ? 0.5 : 0.0;
    for (int64_t col = 0; col < n_cols; col++)
        for (int64_t lane = 0; lane < lanes; lane++) {
            double want = start, sum = start;
            for (int64_t k = 0; k < terms; k++) {
                const double x = (double)rounded(is_v ? element(tile, k, col) : element(tile, col, k));
                const double y = (double)(factor * rounded(element_of(rows->bf16, rows->data, rows->ld, lane, k)));
                want += x * y;
                sum += fabs(x * y);
            }
            assert_true(fabs((double)c[at(rows->ld, lane, col)] - want) <= U * (double)(terms + is_v) * sum * 2);
        }
}

/* Both products at every edge of the register block. */
static void check_gemm(flashc_dtype dtype, int64_t depth, int64_t n, int64_t lanes, test_rng *rng)
{
    const int64_t large = depth > n ? depth : n, ld = leading(large);
    flashc_tile tile;
    guarded_buffer buffer = make_tile(&tile, dtype, n, depth, rng);
    float *b = floats(tile_size(large)), *c = floats(tile_size(large)), *copy = floats(tile_size(large) + TILE_ROWS);
    const rows_tile queries = {b, ld, kernel->bf16}, weights = {b, ld, kernel->vector->groups_weights};
    float correction[TILE_ROWS];
    for (int i = 0; i < TILE_ROWS; i++)
        correction[i] = 0.5f;
    for (int64_t i = 0; i < (int64_t)tile_size(large); i++)
        c[i] = 1.0f;
    memset(b, 0, tile_size(large) * sizeof *b);
    fill_rows(&queries, large, large, rng);
    const float factor = kernel->gemm->scales_scores ? 0.5f : 1.0f;
    kernel->gemm->qk(c, operand(&kernel->gemm->k, tile, copy, n, depth), b, ld, n, lanes, depth, factor);
    check_sums(c, &queries, lanes, &tile, false, n, depth, factor);

    for (int64_t i = 0; i < (int64_t)tile_size(large); i++)
        c[i] = 1.0f;
    const int64_t whole = flashc_round_up(n, FLASHC_COLUMN_MULTIPLE); /* weights beyond the keys are 0 in a group */
    fill_rows(&weights, n, flashc_max(whole, large), rng);
    kernel->gemm->pv(c, operand(&kernel->gemm->v, tile, copy, n, depth), b, ld, n, lanes, depth, correction);
    check_sums(c, &weights, lanes, &tile, true, n, depth, 1.0f);
    guarded_free(&buffer);
    free(b);
    free(c);
    free(copy);
}

static void test_gemm(void **state)
{
    (void)state;
    const int64_t depths[] = {1, 2, 7, 64, 129, 300};
    test_rng rng = {11};
    const int64_t step = kernel->vector->row_multiple, most = kernel->most_rows > 0 ? kernel->most_rows : TILE_ROWS;
    for (flashc_dtype dtype = FLASHC_F32; dtype <= FLASHC_Q8_0; dtype++)
        for (size_t d = 0; d < sizeof depths / sizeof depths[0]; d++)
            for (int64_t n = 1; n <= 19; n++)
                for (int64_t lanes = step; lanes <= most && takes(dtype); lanes += step)
                    check_gemm(dtype, depths[d], n, lanes, &rng);
    if (kernel->vector->rows_along) /* several pieces of head_dim, whatever the vector length */
        check_gemm(FLASHC_F32, 2 * FLASHC_QK_DEPTH * FLASHC_COLUMN_MULTIPLE + 3, 5, 3, &rng);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm),
    };
    return RUN_ON_EACH_KERNEL(tests) != 0;
}
