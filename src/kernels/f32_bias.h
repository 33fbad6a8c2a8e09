/* Bias and mask, from their own rows onto the scores. Part of f32_tile.h. */
#ifndef FLASHC_F32_BIAS_H
#define FLASHC_F32_BIAS_H

#include "kernels/f32_copy.h"
#include "kernels/kernel.h"

V_INLINE void add_vector(float *scores, vec bias)
{
    v_store(scores, v_hide_if_neg_inf(v_add(v_load(scores), bias), bias));
}

/* VL rows with contiguous keys, as many whole blocks as there are; returns the keys done. A block goes through
 * registers only; dtype is a constant after inlining. */
V_INLINE int64_t add_full_blocks(float *scores, int64_t ld, const void *const *row, flashc_dtype dtype, int64_t n_keys)
{
    int64_t key = 0;
    for (; key + VL <= n_keys; key += VL) {
        vec block[VL];
        load_full_block(block, row, dtype, key);
        v_transpose(block);
        for (int64_t i = 0; i < VL; i++)
            add_vector(scores + (key + i) * ld, block[i]);
    }
    return key;
}

/* Whatever is not a full block; out of line to leave the full ones the registers. */
__attribute__((noinline)) static void add_partial_block(float *scores, int64_t ld, flashc_rows bias, int64_t row,
                                                        int64_t rows, int64_t key, int64_t keys)
{
    vec block[VL];
    load_block(block, bias, row, rows, key, keys);
    v_transpose(block);
    for (int64_t i = 0; i < keys; i++)
        add_vector(scores + (key + i) * ld + row, block[i]);
}

/* One row for all queries: one value a key. 0 is the usual one (key padding) and costs nothing. */
static void add_shared_row(float *scores, int64_t ld, flashc_rows bias, int64_t lanes, int64_t n_keys)
{
    for (int64_t first = 0; first < n_keys; first += VL) {
        const int64_t keys = flashc_min(VL, n_keys - first);
        float value[VL];
        v_store(value, load_row(bias, 0, first, keys));
        for (int64_t i = 0; i < keys; i++)
            for (int64_t lane = 0; value[i] != 0.0f && lane < lanes; lane += VL)
                add_vector(scores + (first + i) * ld + lane, v_set1(value[i]));
    }
}

static bool is_shared_row(flashc_rows bias, int64_t n_rows)
{
    for (int64_t row = 1; row < n_rows; row++)
        if (bias.row[row] != bias.row[0])
            return false;
    return true;
}

static void tile_add_rows(float *scores, int64_t ld, flashc_rows bias, int64_t n_rows, int64_t n_keys)
{
    if (is_shared_row(bias, n_rows)) {
        add_shared_row(scores, ld, bias, flashc_round_up(n_rows, VL), n_keys);
        return;
    }
    for (int64_t row = 0; row < n_rows; row += VL) {
        const int64_t rows = flashc_min(VL, n_rows - row);
        const void *const *r = bias.row + row;
        int64_t key = 0;
        if (rows == VL && bias.col_stride == 1) {
            switch (bias.dtype) {
            case FLASHC_F32: key = add_full_blocks(scores + row, ld, r, FLASHC_F32, n_keys); break;
            case FLASHC_F16: key = add_full_blocks(scores + row, ld, r, FLASHC_F16, n_keys); break;
            case FLASHC_BF16: key = add_full_blocks(scores + row, ld, r, FLASHC_BF16, n_keys); break;
            case FLASHC_BOOL: key = add_full_blocks(scores + row, ld, r, FLASHC_BOOL, n_keys); break;
            default: break;
            }
        }
        for (; key < n_keys; key += VL)
            add_partial_block(scores, ld, bias, row, rows, key, flashc_min(VL, n_keys - key));
    }
}

#endif
