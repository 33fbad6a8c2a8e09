/* A softmax state in memory of its own. */
#ifndef FLASHC_TESTS_SOFTMAX_STATE_ARRAYS_H
#define FLASHC_TESTS_SOFTMAX_STATE_ARRAYS_H

#include "flashc.h"

#include "support/cmocka.h"
#include "support/expect.h"

#include <string.h>

#define MAX_ROWS 5
#define MAX_DIM 19

typedef struct arrays {
    float row_max[MAX_ROWS], row_sum[MAX_ROWS], acc[MAX_ROWS * (MAX_DIM + 3)];
    flashc_softmax_state state;
} arrays;

/* layout 0: rows contiguous and padded; 1: one lane per row, as attention's kernels; 2: backwards */
static inline void make_state(arrays *a, int64_t rows, int64_t dim, int layout)
{
    flashc_softmax_state state = {.rows = rows, .head_dim_v = dim, .row_max = a->row_max, .row_sum = a->row_sum};
    memset(a->acc, 0x7f, sizeof a->acc);
    state.acc = a->acc;
    state.acc_row_stride = layout == 1 ? 1 : dim + 3;
    state.acc_col_stride = layout == 1 ? rows : 1;
    if (layout == 2) {
        state.acc = a->acc + (rows - 1) * (dim + 3) + dim - 1;
        state.acc_row_stride = -(dim + 3);
        state.acc_col_stride = -1;
    }
    a->state = state;
    expect_ok(flashc_softmax_state_init(&a->state));
}

#endif
