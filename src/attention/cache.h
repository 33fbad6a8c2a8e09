/* Where does a tile of K or V lie? The one place that knows: in place where the kernel's products can read it,
 * else copied into scratch, one tile at a time. */
#ifndef FLASHC_CACHE_H
#define FLASHC_CACHE_H

#include "attention/problem.h"
#include "kernels/kernel.h"

/* Can every tile of this tensor ([batch, head, row, n_cols]) be multiplied where it lies? */
bool flashc_cache_in_place(const flashc_tensor *tensor, const flashc_operand *operand, int64_t n_cols);

/* Floats of scratch for a copy of so many rows. */
int64_t flashc_cache_copy_floats(const flashc_operand *operand, int64_t n_rows, int64_t n_cols);

/* Rows first_row .. first_row + n_rows of a head, as the operand wants them: where they lie, or copied to scratch. */
flashc_kv_tile flashc_cache_load(const flashc_tensor *tensor, const flashc_kernel_row *kernel,
                                 const flashc_operand *operand, int64_t batch, int64_t head, int64_t first_row,
                                 int64_t n_rows, int64_t n_cols, float *scratch);

/* The same rows as plain f32, ld floats apart, with zeros from n_cols on. */
void flashc_cache_load_f32(const flashc_tensor *tensor, const flashc_kernel_row *kernel, int64_t batch, int64_t head,
                           int64_t first_row, int64_t n_rows, int64_t n_cols, float *dst, int64_t ld);

#endif
