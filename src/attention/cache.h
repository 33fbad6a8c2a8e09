/* Where does a tile of K or V lie? The one place that knows: in place where the GEMM can read it,
 * else converted into scratch, one tile at a time. */
#ifndef FLASHC_CACHE_H
#define FLASHC_CACHE_H

#include "attention/problem.h"
#include "kernels/kernel.h"

/* Can every tile of this tensor ([batch, head, row, n_cols]) be read in place by this kernel? */
bool flashc_cache_in_place(const flashc_tensor *tensor, const flashc_kernel_row *kernel, int64_t n_cols);

/* Rows first_row .. first_row + n_rows of a head; scratch [n_rows, n_cols rounded up to the kernel's col_multiple]
 * takes them as f32 if they cannot be read in place. */
flashc_kv_tile flashc_cache_load(const flashc_tensor *tensor, const flashc_kernel_row *kernel, int64_t batch,
                                  int64_t head, int64_t first_row, int64_t n_rows, int64_t n_cols, float *scratch);

#endif
