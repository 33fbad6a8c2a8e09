/* What decode_gemm.h multiplies, in f32: K, V and the weights converted as they are loaded. */
#ifndef FLASHC_DECODE_F32_H
#define FLASHC_DECODE_F32_H

#include "kernels/decode_rows.h"

static void row_load_rows(void *dst, int64_t ld, flashc_rows src, int64_t n_rows, int64_t n_cols, float factor)
{
    const vec scale = v_set1(factor);
    for (int64_t row = 0; row < n_rows; row++)
        for (int64_t col = 0; col < n_cols; col += VL) {
            const vec x = load_row(src, row, col, flashc_min(VL, n_cols - col));
            v_store((float *)dst + row * ld + col, v_mul(x, scale));
        }
}

V_INLINE vec load_products(flashc_dtype dtype, const void *row, int64_t column)
{
    return load_vector(row, dtype, column);
}

/* The weights of `rows` rows and PV_KEYS keys as pv_keys() takes them, *ld apart; room may hold them. */
V_INLINE const gemm_element *decode_weights(int rows, const float *p, int64_t *ld, gemm_element room[4][PV_KEYS])
{
    (void)rows, (void)ld, (void)room;
    return p;
}

/* sum[r*vecs + j] += the products of GEMM_PER_LANE keys, fewer if the others are not `there`. */
V_INLINE void pv_keys(int rows, int vecs, flashc_dtype dtype, const void *const *v, int64_t there, int64_t column,
                      const gemm_element *p, int64_t ld, vec *sum)
{
    (void)there;
    const int64_t in_block = column_in_block(vecs, dtype, column);
    const char *row = opaque(at_column(dtype, v[0], column));
    vec weight[4];
    for (int r = 0; r < rows; r++)
        weight[r] = v_set1(p[r * ld]);
    for (int j = 0; j < vecs; j++) {
        const vec x = load_vector(row, dtype, in_block + j * VL);
        for (int r = 0; r < rows; r++)
            sum[r * vecs + j] = v_fma(weight[r], x, sum[r * vecs + j]);
    }
}

#endif
