/* Tiles of K and V: where they lie, if the kernel's products can read them there, else copied into scratch, one tile at
 * a time. Where a row lies is known to cache/rows.h. */
#ifndef FLASHC_CACHE_H
#define FLASHC_CACHE_H

#include "cache/rows.h"
#include "kernels/kernel.h"

/* Can every tile of these rows be multiplied where it lies? Of rows in pages some can, but not every one. */
bool flashc_cache_in_place(const flashc_cache_rows *rows, const flashc_operand *operand, int64_t n_cols);

/* Floats of scratch for a copy of so many rows. */
int64_t flashc_cache_copy_floats(const flashc_operand *operand, int64_t n_rows, int64_t n_cols);

/* Bytes of scratch in which rows are gathered to be packed. */
int64_t flashc_cache_gathered_bytes(const flashc_cache_rows *rows, const flashc_operand *operand, int64_t n_rows,
                                    int64_t n_cols);

/* Rows first_row .. first_row + n_rows of a sequence's head, as the operand wants them: where they lie, or copied to
 * scratch, perhaps by way of `gathered`. */
flashc_kv_tile flashc_cache_load(const flashc_cache_rows *rows, const flashc_kernel_row *kernel,
                                 const flashc_operand *operand, int64_t sequence, int64_t head, int64_t first_row,
                                 int64_t n_rows, int64_t n_cols, float *scratch, void *gathered);

/* The same rows as plain f32, ld floats apart, with zeros from n_cols on. */
void flashc_cache_load_f32(const flashc_cache_rows *rows, const flashc_kernel_row *kernel, int64_t sequence,
                           int64_t head, int64_t first_row, int64_t n_rows, int64_t n_cols, float *dst, int64_t ld);

#endif
