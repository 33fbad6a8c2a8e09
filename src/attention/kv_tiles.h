/* Tiles of K and V: where they lie, if the kernel's products can read them there, else copied into scratch, one tile at
 * a time. Where a row lies is known to cache/rows.h. */
#ifndef FLASHC_KV_TILES_H
#define FLASHC_KV_TILES_H

#include "cache/rows.h"
#include "kernels/kernel.h"

/* Can every tile of these rows be multiplied where it lies? (Otherwise some may: those within a page.) */
bool flashc_kv_in_place(const flashc_cache_rows *rows, const flashc_operand *operand, int64_t n_cols);

/* Scratch for a tile. */
typedef struct flashc_tile_scratch {
    float *copy;      /* flashc_kv_copy_floats() */
    void *gathered;   /* flashc_kv_gathered_bytes(): rows that are packed then */
    const void **row; /* flashc_kv_row_pointers(): where the rows are, see FLASHC_ROWS_AHEAD */
    flashc_start *start; /* flashc_kv_starts(): what flashc_kv_tile.start has */
    float *scale;     /* flashc_kv_scales() */
} flashc_tile_scratch;

int64_t flashc_kv_copy_floats(const flashc_operand *operand, int64_t n_rows, int64_t n_cols);
int64_t flashc_kv_gathered_bytes(const flashc_cache_rows *rows, const flashc_operand *operand, int64_t n_rows,
                                 int64_t n_cols);
int64_t flashc_kv_row_pointers(const flashc_operand *operand, int64_t n_rows);
int64_t flashc_kv_starts(const flashc_cache_rows *rows, const flashc_operand *operand);
int64_t flashc_kv_scales(const flashc_cache_rows *rows, int64_t n_rows); /* whole vectors */

/* The rows of a tile. */
typedef struct flashc_tile_rows {
    int64_t sequence, head, first, n;
    int64_t next; /* rows that follow and will be asked for, at most n */
} flashc_tile_rows;

/* These rows as the operand wants them: where they lie, or copied to scratch. */
flashc_kv_tile flashc_kv_load(const flashc_cache_rows *rows, const flashc_kernel_row *kernel,
                              const flashc_operand *operand, const flashc_tile_rows *tile, int64_t n_cols,
                              const flashc_tile_scratch *scratch);

/* n_rows rows of f32, ld floats apart, as the operand wants them. */
flashc_kv_tile flashc_kv_copied(const flashc_operand *operand, const float *copy, int64_t n_rows, int64_t ld,
                                const flashc_tile_scratch *scratch);

/* The same rows (of 8-bit types their codes) as plain f32, ld floats apart, with zeros from n_cols on. */
void flashc_kv_load_f32(const flashc_cache_rows *rows, const flashc_kernel_row *kernel, const flashc_tile_rows *tile,
                        int64_t n_cols, float *dst, int64_t ld);

/* The scales of the same rows, in scratch->scale; NULL if they have none. They are not in the tile, so that a tile of
 * codes is exact in any type that holds them: what multiplies it by P or Q^T leaves them to
 * flashc_vector_ops.scale_keys(), one multiplication a score where each element would take one. */
const float *flashc_kv_load_scales(const flashc_cache_rows *rows, const flashc_tile_rows *tile,
                                   const flashc_tile_scratch *scratch);

#endif
