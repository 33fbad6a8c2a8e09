/* Tiles of a kernel's layout, for tests of its functions one by one. */
#ifndef FLASHC_TESTS_KERNELS_TILES_H
#define FLASHC_TESTS_KERNELS_TILES_H

#include "kernels/kernel.h"
#include "numerics.h"
#include "support/cmocka.h"

#include <stdlib.h>

/* Half an ulp of 1 in f32. */
#define U 0x1p-24

/* Rows of the tiles here: several vectors of any kernel. */
enum { TILE_ROWS = 48 };

static const flashc_kernel_row *kernel; /* the row under test */

static inline float *floats(size_t count)
{
    float *p = aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
    assert_non_null(p);
    return p;
}

/* A row stride that both layouts take, for up to TILE_ROWS rows of so many columns. */
static inline int64_t leading(int64_t n_cols)
{
    const int64_t columns = flashc_round_up(n_cols, FLASHC_COLUMN_MULTIPLE);
    return kernel->vector->rows_along ? columns : TILE_ROWS;
}

/* Where element (row, col) of a tile lies in the kernel's layout. */
static inline int64_t at(int64_t ld, int64_t row, int64_t col)
{
    return row * flashc_row_step(kernel->vector, ld) + col * flashc_col_step(kernel->vector, ld);
}

/* Where element (row, col) of queries or weights lies that are bf16, counted in these: rows along; or in groups of two
 * cols, in 32 bits of their row; or of four cols, rows 4i and 4i + 1 in one line and the two after them in the next. */
static inline int64_t at_bf16(int64_t ld, int64_t row, int64_t col)
{
    if (kernel->vector->rows_along)
        return row * 2 * ld + col;
    if (kernel->vector->col_multiple == 2)
        return (col / 2 * ld + row) * 2 + col % 2;
    return ((col / 4 * 2 + row % 4 / 2) * ld + row / 4 * 4 + row % 2 * 2) * 2 + col % 4;
}

static inline float element_of(bool bf16, const float *tile, int64_t ld, int64_t row, int64_t col)
{
    return bf16 ? flashc_f32_from_bf16(((const uint16_t *)(const void *)tile)[at_bf16(ld, row, col)])
                : tile[at(ld, row, col)];
}

static inline void set_element_of(bool bf16, float *tile, int64_t ld, int64_t row, int64_t col, float x)
{
    if (bf16)
        ((uint16_t *)(void *)tile)[at_bf16(ld, row, col)] = flashc_bf16_from_f32(x);
    else
        tile[at(ld, row, col)] = x;
}

/* Element (row, col) of queries as the kernel's products take them. */
static inline float query(const float *tile, int64_t ld, int64_t row, int64_t col)
{
    return element_of(kernel->bf16, tile, ld, row, col);
}

/* The same of weights. */
static inline float weight(const float *tile, int64_t ld, int64_t row, int64_t col)
{
    return element_of(kernel->vector->groups_weights, tile, ld, row, col);
}

/* x as the kernel multiplies it. */
static inline float rounded(float x)
{
    return kernel->bf16 ? flashc_f32_from_bf16(flashc_bf16_from_f32(x)) : x;
}

/* Floats of such a tile of TILE_ROWS rows. */
static inline size_t tile_size(int64_t n_cols)
{
    return (size_t)(TILE_ROWS * flashc_round_up(n_cols, FLASHC_COLUMN_MULTIPLE));
}

/* Runs an array of cmocka tests on each kernel that this machine can run; the number of kernels with failures. */
#define RUN_ON_EACH_KERNEL(tests) run_on_each_kernel(tests, sizeof(tests) / sizeof((tests)[0]))

static inline int run_on_each_kernel(const struct CMUnitTest *tests, size_t n_tests)
{
    int failed = 0;
    for (int i = 0; i < flashc_kernel_rows(); i++) {
        kernel = flashc_kernel_row_at(i);
        const char *reason = flashc_kernel_unavailable(kernel);
        if (reason) {
            print_message("not run: %s: %s\n", kernel->name, reason);
            continue;
        }
        print_message("kernel %s\n", kernel->name);
        failed += _cmocka_run_group_tests(kernel->name, tests, n_tests, NULL, NULL) != 0;
    }
    return failed;
}

#endif
