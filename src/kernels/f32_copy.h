/* Tiles in and out of memory: conversion, transposition, edges. Part of f32_tile.h. */
#ifndef FLASHC_F32_COPY_H
#define FLASHC_F32_COPY_H

#include "kernels/kernel.h"
#include "numerics.h"

/* VL columns of Q8_0: of one block, since VL divides its 32. */
V_INLINE vec load_q8_0(const void *row, int64_t col)
{
    const char *block = (const char *)row + col / FLASHC_Q8_0_COLUMNS * FLASHC_Q8_0_BYTES;
    return v_mul(v_load_i8((const int8_t *)block + 2 + col % FLASHC_Q8_0_COLUMNS), v_set1_f16(block));
}

/* VL contiguous elements; of Q8_0 columns, index being 0 or more and a multiple of VL. */
V_INLINE vec load_vector(const void *src, flashc_dtype dtype, int64_t index)
{
    switch (dtype) {
    case FLASHC_F32: return v_load((const float *)src + index);
    case FLASHC_F16: return v_load_f16((const uint16_t *)src + index);
    case FLASHC_BF16: return v_load_bf16((const uint16_t *)src + index);
    case FLASHC_BOOL: return v_load_bool((const uint8_t *)src + index);
    case FLASHC_I8: return v_load_i8((const int8_t *)src + index);
    case FLASHC_F8_E4M3: return v_load_e4m3((const uint8_t *)src + index);
    case FLASHC_F8_E5M2: return v_load_e5m2((const uint8_t *)src + index);
    case FLASHC_Q8_0: return load_q8_0(src, index);
    }
    return v_set1(0.0f);
}

/* count <= VL elements from src, spaced by stride; the rest of the vector is 0. */
V_INLINE vec load_elements(const void *src, flashc_dtype dtype, int64_t index, int64_t stride, int64_t count)
{
    float element[VL] = {0};
    for (int64_t i = 0; i < count; i++)
        element[i] = dtype == FLASHC_BOOL
                         ? (((const uint8_t *)src)[index + i * stride] ? 0.0f : -(float)INFINITY)
                         : flashc_load_f32(src, dtype, index + i * stride);
    return v_load(element);
}

/* count <= VL elements of one row; the rest of the vector is 0. */
V_INLINE vec load_row(flashc_rows src, int64_t row, int64_t col, int64_t count)
{
    return count == VL && src.col_stride == 1
               ? load_vector(src.row[row], src.dtype, col)
               : load_elements(src.row[row], src.dtype, col * src.col_stride, src.col_stride, count);
}

V_INLINE const char *row_of_tile(flashc_tile src, int64_t row)
{
    return (const char *)src.data + row * src.row_stride * (int64_t)flashc_dtype_size(src.dtype);
}

/* VL columns of one row from col on; those beyond n_cols are 0. */
V_INLINE vec load_columns(flashc_tile src, int64_t row, int64_t col, int64_t n_cols)
{
    const char *start = row_of_tile(src, row);
    const int64_t count = flashc_min(VL, n_cols - col);
    return count == VL && src.col_stride == 1
               ? load_vector(start, src.dtype, col)
               : load_elements(start, src.dtype, col * src.col_stride, src.col_stride, count);
}

V_INLINE void load_typed(flashc_dtype dtype, float *dst, int64_t ld, flashc_tile src, int64_t n_rows, int64_t n_cols)
{
    for (int64_t row = 0; row < n_rows; row++) {
        const char *in = row_of_tile(src, row);
        float *out = dst + row * ld;
        int64_t col = 0;
        if (src.col_stride == 1)
            for (; col + VL <= n_cols; col += VL)
                v_store(out + col, load_vector(in, dtype, col));
        for (; col < n_cols; col++)
            out[col] = flashc_load_f32(in, dtype, col * src.col_stride);
        for (; col < ld; col++)
            out[col] = 0.0f;
    }
}

static void tile_load(float *dst, int64_t ld, flashc_tile src, int64_t n_rows, int64_t n_cols)
{
    FLASHC_OF_CACHE_TYPE(src.dtype, load_typed, dst, ld, src, n_rows, n_cols);
}

/* A full block of VL rows, contiguous columns col .. col + VL; dtype is a constant after inlining. */
V_INLINE void load_full_block(vec block[VL], const void *const *row, flashc_dtype dtype, int64_t col)
{
    for (int64_t i = 0; i < VL; i++)
        block[i] = load_vector(row[i], dtype, col);
}

V_INLINE void load_block(vec block[VL], flashc_rows src, int64_t row, int64_t rows, int64_t col, int64_t cols)
{
    const void *const *first = src.row + row;
    if (rows == VL && cols == VL && src.col_stride == 1) {
        switch (src.dtype) {
        case FLASHC_F32: load_full_block(block, first, FLASHC_F32, col); return;
        case FLASHC_F16: load_full_block(block, first, FLASHC_F16, col); return;
        case FLASHC_BF16: load_full_block(block, first, FLASHC_BF16, col); return;
        case FLASHC_BOOL: load_full_block(block, first, FLASHC_BOOL, col); return;
        default: break;
        }
    }
    for (int64_t i = 0; i < VL; i++)
        block[i] = i < rows ? load_elements(first[i], src.dtype, col * src.col_stride, src.col_stride, cols)
                            : v_set1(0.0f);
}

static inline void tile_load_rows(void *dst, int64_t ld, flashc_rows src, int64_t n_rows, int64_t n_cols, float factor)
{
    const vec scale = v_set1(factor);
    for (int64_t row = 0; row < n_rows; row += VL)
        for (int64_t col = 0; col < n_cols; col += VL) {
            const int64_t cols = flashc_min(VL, n_cols - col);
            vec block[VL];
            load_block(block, src, row, flashc_min(VL, n_rows - row), col, cols);
            v_transpose(block);
            float *out = (float *)dst + col * ld + row;
            if (cols == VL)
                for (int64_t i = 0; i < VL; i++)
                    v_store(out + i * ld, v_mul(block[i], scale));
            else
                for (int64_t i = 0; i < cols; i++)
                    v_store(out + i * ld, v_mul(block[i], scale));
        }
}

V_INLINE void store_vector(void *dst, flashc_dtype dtype, int64_t index, vec x)
{
    if (dtype == FLASHC_F32)
        v_store((float *)dst + index, x);
    else if (dtype == FLASHC_F16)
        v_store_f16((uint16_t *)dst + index, x);
    else
        v_store_bf16((uint16_t *)dst + index, x);
}

V_INLINE void store_elements(void *dst, flashc_dtype dtype, int64_t index, int64_t stride, int64_t count, vec x)
{
    float element[VL];
    v_store(element, x);
    for (int64_t i = 0; i < count; i++)
        flashc_store_f32(dst, dtype, index + i * stride, element[i]);
}

/* + 0: -0 becomes +0 */
V_INLINE vec scaled(const float *acc, vec scale)
{
    return v_add(v_mul(v_load(acc), scale), v_set1(0.0f));
}

static void tile_store_rows(void *const *dst, flashc_dtype dtype, int64_t col_stride, const float *acc,
                                  int64_t ld, int64_t n_rows, int64_t n_cols, const float *factor)
{
    for (int64_t row = 0; row < n_rows; row += VL) {
        const int64_t rows = flashc_min(VL, n_rows - row);
        const vec scale = v_load(factor + row);
        for (int64_t col = 0; col < n_cols; col += VL) {
            const int64_t cols = flashc_min(VL, n_cols - col);
            const float *in = acc + col * ld + row;
            vec block[VL];
            if (cols == VL)
                for (int64_t i = 0; i < VL; i++)
                    block[i] = scaled(in + i * ld, scale);
            else
                for (int64_t i = 0; i < VL; i++)
                    block[i] = i < cols ? scaled(in + i * ld, scale) : v_set1(0.0f);
            v_transpose(block);
            if (rows == VL && cols == VL && col_stride == 1)
                for (int64_t i = 0; i < VL; i++)
                    store_vector(dst[row + i], dtype, col, block[i]);
            else
                for (int64_t i = 0; i < rows; i++)
                    store_elements(dst[row + i], dtype, col * col_stride, col_stride, cols, block[i]);
        }
    }
}

#endif
