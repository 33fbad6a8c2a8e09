/* Rows of K or V of one sequence, read from a file a chunk at a time: of a batch element, packed, or in pages. */
#ifndef FLASHC_CLI_STREAM_ROWS_H
#define FLASHC_CLI_STREAM_ROWS_H

#include "cli/array.h"

#include <flashc.h>

typedef struct flashc_cli_stream_rows {
    flashc_npy_pieces pieces;  /* of an array [elements][outer][rows][inner] of file elements */
    int64_t outer, rows, inner;
    flashc_dtype dtype;        /* that the rows are to have */
    int bshd;
    int64_t heads;
    flashc_block_table table;  /* pages NULL: none */
    const int64_t *cu_seqlens, *leftpad; /* NULL: not given */
    flashc_tensor all_scales;
    flashc_cli_array chunk, chunk_scales; /* the rows read last, of all heads */
    flashc_tensor view, scale;            /* of them; scale as params have it */
} flashc_cli_stream_rows;

/* Opens the file of K or V, whose header `whole` has, as params of the one call describe it. table: its own. Returns
 * FLASHC_CLI_OK, or the exit code after a message; to be closed in any case. */
int flashc_cli_stream_rows_open(const char *path, const flashc_cli_array *whole, int bshd,
                                const flashc_attention_params *params, const flashc_block_table *table,
                                const flashc_tensor *scales, flashc_cli_stream_rows *out);

/* Reads rows first .. first + n - 1 of sequence b, which it has. Padding in front is not read. */
int flashc_cli_stream_rows_read(flashc_cli_stream_rows *from, int64_t b, int64_t first, int64_t n);

/* Harmless on a zeroed one. */
void flashc_cli_stream_rows_close(flashc_cli_stream_rows *rows);

#endif
