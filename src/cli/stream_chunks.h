/* Keys of two files that go to an attention state chunk by chunk. */
#ifndef FLASHC_CLI_STREAM_CHUNKS_H
#define FLASHC_CLI_STREAM_CHUNKS_H

#include "cli/progress.h"
#include "cli/stream_rows.h"

#include <flashc.h>

typedef struct flashc_cli_chunks {
    int64_t rows; /* of a chunk, at most */
    flashc_cli_progress *progress;
    flashc_cli_stream_rows k, v;
    flashc_attention_state state;
    int64_t first_column; /* of the sequence at hand in mask, bias and scores */
} flashc_cli_chunks;

/* Functions that return int: FLASHC_CLI_OK, or FLASHC_CLI_FAILED after a message. */

/* A state without arrays for a call on so many keys in all. */
int flashc_cli_chunks_plan(const flashc_attention_params *call, int64_t keys, flashc_attention_state *planned);

/* Gives it other pieces, and as many levels as they and so many partial results need. */
void flashc_cli_chunks_set_pieces(flashc_attention_state *planned, int64_t keys, int64_t piece_n, int64_t nodes);

/* The arrays of such a state, of no keys; to be freed after a failure too. */
int flashc_cli_chunks_make_state(const flashc_attention_state *planned, flashc_attention_state *state);
void flashc_cli_chunks_free_state(flashc_attention_state *state);

/* The chunks go to such a state, of no keys, from now on, and no longer to the one before it. */
int flashc_cli_chunks_begin(const flashc_attention_state *planned, flashc_cli_chunks *chunks);

/* They come from these files, whose headers the arrays are, and whose scales and lengths params have. */
int flashc_cli_chunks_open(const char *path_k, const flashc_cli_array *k, const char *path_v, const flashc_cli_array *v,
                           int bshd, const flashc_attention_params *params, flashc_cli_chunks *chunks);

/* All keys of a call, sequence b of the files. */
int flashc_cli_chunks_take(flashc_cli_chunks *chunks, const flashc_attention_params *call, int64_t b);

/* How many chunks of so many rows that is. */
int64_t flashc_cli_chunks_count(int64_t rows, int64_t keys);

void flashc_cli_chunks_close(flashc_cli_chunks *chunks);

#endif
