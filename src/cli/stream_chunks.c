#include "cli/stream_chunks.h"

#include "cli/arithmetic.h"
#include "cli/cli.h"
#include "cli/library_error.h"
#include "cli/stream_calls.h"

#include <stdlib.h>

int flashc_cli_chunks_plan(const flashc_attention_params *call, int64_t keys, flashc_attention_state *planned)
{
    flashc_attention_params p = *call;
    p.seqlen_k = keys;
    return flashc_attention_state_init(planned, sizeof *planned, &p) == FLASHC_OK ? FLASHC_CLI_OK
                                                                                  : flashc_cli_library_error();
}

void flashc_cli_chunks_set_pieces(flashc_attention_state *planned, int64_t keys, int64_t piece_n, int64_t nodes)
{
    planned->piece_n = piece_n;
    const int64_t pieces = piece_n ? keys / piece_n + (keys % piece_n != 0) : 1;
    for (planned->levels = 1; (INT64_C(1) << planned->levels) - 1 < pieces;) /* a binary counter over the pieces */
        planned->levels++;
    planned->levels = flashc_cli_max(planned->levels, nodes);
}

void flashc_cli_chunks_free_state(flashc_attention_state *state)
{
    free(state->row_max);
    free(state->row_sum);
    free(state->acc);
    *state = (flashc_attention_state){.row_max = NULL};
}

int flashc_cli_chunks_make_state(const flashc_attention_state *planned, flashc_attention_state *state)
{
    *state = *planned;
    const size_t rows = (size_t)(state->levels * state->rows) + 1;
    state->row_max = calloc(rows, sizeof(float));
    state->row_sum = calloc(rows, sizeof(float));
    state->acc = calloc(rows, (size_t)state->head_dim_v * sizeof(float) + 1);
    if (!state->row_max || !state->row_sum || !state->acc)
        return flashc_cli_error("no memory for a state of %lld x %lld rows of %lld columns", (long long)state->levels,
                                (long long)state->rows, (long long)state->head_dim_v);
    return flashc_attention_state_clear(state) == FLASHC_OK ? FLASHC_CLI_OK : flashc_cli_library_error();
}

int flashc_cli_chunks_begin(const flashc_attention_state *planned, flashc_cli_chunks *chunks)
{
    flashc_cli_chunks_free_state(&chunks->state);
    return flashc_cli_chunks_make_state(planned, &chunks->state);
}

static void close_rows(flashc_cli_chunks *chunks)
{
    flashc_cli_stream_rows_close(&chunks->k);
    flashc_cli_stream_rows_close(&chunks->v);
}

int flashc_cli_chunks_open(const char *path_k, const flashc_cli_array *k, const char *path_v, const flashc_cli_array *v,
                           int bshd, const flashc_attention_params *params, flashc_cli_chunks *chunks)
{
    const flashc_block_table *table_v =
        params->block_table_v.pages ? &params->block_table_v : &params->block_table;
    close_rows(chunks);
    return flashc_cli_stream_rows_open(path_k, k, bshd, params, &params->block_table, &params->k_scale, &chunks->k) ||
                   flashc_cli_stream_rows_open(path_v, v, bshd, params, table_v, &params->v_scale, &chunks->v)
               ? FLASHC_CLI_FAILED
               : FLASHC_CLI_OK;
}

static int take_chunk(flashc_cli_chunks *chunks, const flashc_attention_params *call, int64_t b, int64_t first,
                      int64_t n)
{
    flashc_attention_params p = *call;
    flashc_tensor *const of_columns[] = {&p.mask, &p.bias, &p.scores};
    if (flashc_cli_stream_rows_read(&chunks->k, b, first, n) || flashc_cli_stream_rows_read(&chunks->v, b, first, n))
        return FLASHC_CLI_FAILED;
    p.seqlen_k = n;
    p.k = chunks->k.view;
    p.v = chunks->v.view;
    p.k_scale = chunks->k.scale;
    p.v_scale = chunks->v.scale;
    for (size_t i = 0; i < sizeof of_columns / sizeof of_columns[0]; i++)
        *of_columns[i] = flashc_cli_stream_skip(*of_columns[i], 3, chunks->first_column + first);
    const flashc_status status = flashc_attention_accumulate(&chunks->state, &p);
    chunks->progress->part++;
    return status == FLASHC_OK ? FLASHC_CLI_OK : flashc_cli_library_error();
}

int flashc_cli_chunks_take(flashc_cli_chunks *chunks, const flashc_attention_params *call, int64_t b)
{
    const int64_t keys = call->seqlen_k;
    for (int64_t first = 0; first < keys; first += chunks->rows)
        if (take_chunk(chunks, call, b, first, flashc_cli_min(chunks->rows, keys - first)))
            return FLASHC_CLI_FAILED;
    return FLASHC_CLI_OK;
}

int64_t flashc_cli_chunks_count(int64_t rows, int64_t keys)
{
    return keys / rows + (keys % rows != 0);
}

void flashc_cli_chunks_close(flashc_cli_chunks *chunks)
{
    close_rows(chunks);
    flashc_cli_chunks_free_state(&chunks->state);
}
