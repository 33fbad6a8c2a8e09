#include "cpu.h"
#include "numerics.h"
#include "softmax/check.h"
#include "softmax/state.h"
#include "tensor.h"

#include <inttypes.h>

/* Elements that are converted at a time: 4 KiB of stack. Within a block the max is known before the
 * first exp, so a row's sum is rescaled at most once per block. */
#define BLOCK 1024

static void load_block(float *block, const void *x, flashc_dtype dtype, int64_t first, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        block[i] = flashc_load_f32(x, dtype, first + i);
}

/* One row at element offset x_first of x, in two passes: the state of an attention row without V,
 * then its weights. Each block is read before it is written, so y may be x. */
static void softmax_row(int64_t cols, const void *x, int64_t x_first, void *y, int64_t y_first, flashc_dtype dtype,
                        float *lse)
{
    float block[BLOCK];
    float row_max, row_sum;
    flashc_softmax_state state = {.rows = 1, .row_max = &row_max, .row_sum = &row_sum};
    flashc_state_init(&state);
    for (int64_t begin = 0; begin < cols; begin += BLOCK) {
        int64_t n = flashc_min(BLOCK, cols - begin);
        load_block(block, x, dtype, x_first + begin, n);
        flashc_state_update(&state, n, block, n, NULL, 0);
    }
    bool empty = flashc_softmax_row_is_empty(row_max, row_sum);
    for (int64_t begin = 0; begin < cols; begin += BLOCK) {
        int64_t n = flashc_min(BLOCK, cols - begin);
        load_block(block, x, dtype, x_first + begin, n);
        for (int64_t i = 0; i < n; i++) {
            float p = empty ? 0.0f : flashc_exp(block[i] - row_max) / row_sum;
            flashc_store_f32(y, dtype, y_first + begin + i, p);
        }
    }
    if (lse)
        *lse = flashc_softmax_row_lse(row_max, row_sum);
}

/* Sizes, type and input of both functions. */
static flashc_status check_rows(int64_t rows, int64_t cols, flashc_dtype dtype, const char *name, const void *data,
                                int64_t row_stride)
{
    flashc_status status = flashc_check_size("rows", rows);
    if (status == FLASHC_OK)
        status = flashc_check_size("cols", cols);
    if (status == FLASHC_OK)
        status = flashc_check_float_dtype("dtype", dtype);
    return status == FLASHC_OK
               ? flashc_check_input(name, data, rows, cols, row_stride, flashc_dtype_size(dtype))
               : status;
}

static flashc_status check_outputs_apart(int64_t rows, int64_t cols, const void *x, int64_t x_row_stride, void *y,
                                         int64_t y_row_stride, flashc_dtype dtype, float *lse)
{
    const flashc_tensor tensors[] = {{(void *)(uintptr_t)x, dtype, {0, 0, x_row_stride, 1}},
                                     {y, dtype, {0, 0, y_row_stride, 1}},
                                     {lse, FLASHC_F32, {0, 0, 1, 0}}};
    const flashc_tensor_argument arguments[] = {{.name = "x", .tensor = &tensors[0], .size = {1, 1, rows, cols}},
                                                {.name = "y", .tensor = &tensors[1], .size = {1, 1, rows, cols}},
                                                {.name = "lse", .tensor = &tensors[2], .size = {1, 1, rows, 1}}};
    for (int out = 1; out < (lse ? 3 : 2); out++)
        for (int other = 0; other < out; other++)
            if ((out != 1 || x != y) && flashc_tensors_overlap(&arguments[out], &arguments[other]))
                return flashc_fail(FLASHC_ERR_ARGUMENT,
                                   "%s: expected memory of its own%s, found %p, which overlaps %s (%p)",
                                   arguments[out].name, out == 1 ? " or x itself" : "", tensors[out].data,
                                   arguments[other].name, tensors[other].data);
    return FLASHC_OK;
}

flashc_status flashc_softmax(int64_t rows, int64_t cols, const void *x, int64_t x_row_stride, void *y,
                             int64_t y_row_stride, flashc_dtype dtype, float *lse)
{
    flashc_status status = check_rows(rows, cols, dtype, "x", x, x_row_stride);
    if (status == FLASHC_OK)
        status = flashc_check_output("y", y, rows, cols, y_row_stride, flashc_dtype_size(dtype));
    if (status == FLASHC_OK && lse)
        status = flashc_check_output("lse", lse, 1, rows, rows, sizeof(float));
    if (status != FLASHC_OK)
        return status;
    if (rows > 1 && cols > 0 && x == y && x_row_stride != y_row_stride)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "y: expected x's row stride %" PRId64 " where it is x itself, found %" PRId64, x_row_stride,
                           y_row_stride);
    status = check_outputs_apart(rows, cols, x, x_row_stride, y, y_row_stride, dtype, lse);
    if (status != FLASHC_OK)
        return status;
    FLASHC_IN_DEFAULT_FLOAT_MODE;
    const int64_t written = cols > 0 || lse ? rows : 0; /* any number of empty rows is no work */
    for (int64_t row = 0; row < written; row++)
        softmax_row(cols, x, row * x_row_stride, y, row * y_row_stride, dtype, lse ? lse + row : NULL);
    return FLASHC_OK;
}

/* What rounding each element to the type adds to a row that sums to 1: the unit roundoff (2^-11 in f16,
 * 2^-8 in bf16) times the sum, and in f16, whose exponents end earlier, 2^-25 for each element that is
 * subnormal. In f32 the sum's own rounding errors count: cols times half an ulp of values below 1. */
static double default_tolerance(int64_t cols, flashc_dtype dtype)
{
    const double slack = 1e-6;
    switch (dtype) {
    case FLASHC_BF16: return slack + 0x1p-8;
    case FLASHC_F16: return slack + 0x1p-11 + (double)cols * 0x1p-25;
    default: return slack + (double)cols * 0x1p-25;
    }
}

static bool row_is_softmax(int64_t cols, const void *y, int64_t first, flashc_dtype dtype, double tolerance)
{
    double sum = 0.0;
    for (int64_t col = 0; col < cols; col++) {
        double p = (double)flashc_load_f32(y, dtype, first + col);
        if (p < 0.0)
            return false;
        sum += p;
    }
    return cols > 0 && fabs(sum - 1.0) <= tolerance; /* false for a sum that is NaN */
}

flashc_status flashc_is_softmax(int64_t rows, int64_t cols, const void *y, int64_t y_row_stride, flashc_dtype dtype,
                                double tolerance, int *valid, int64_t *bad_row)
{
    flashc_status status = check_rows(rows, cols, dtype, "y", y, y_row_stride);
    if (status == FLASHC_OK)
        status = flashc_check_pointer("valid", valid);
    if (status != FLASHC_OK)
        return status;
    if (tolerance != tolerance)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "tolerance: expected a number, found NaN");
    FLASHC_IN_DEFAULT_FLOAT_MODE;
    if (tolerance < 0.0)
        tolerance = default_tolerance(cols, dtype);
    int64_t row = 0;
    while (row < rows && row_is_softmax(cols, y, row * y_row_stride, dtype, tolerance))
        row++;
    *valid = row == rows;
    if (bad_row)
        *bad_row = row == rows ? -1 : row;
    return FLASHC_OK;
}
