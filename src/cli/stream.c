#include "cli/stream.h"

#include "cli/arithmetic.h"
#include "cli/cli.h"
#include "cli/stream_rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

int flashc_cli_stream_check(const flashc_cli_attention_args *args)
{
    if (args->key_mass)
        return flashc_cli_usage_error("--stream-kv and --key-mass do not go together: the mass needs the log-sum-exp "
                                      "of all keys");
    if (args->scores && args->scores_stage == FLASHC_SCORES_WEIGHTS)
        return flashc_cli_usage_error("--stream-kv and --scores-stage weights do not go together: weights need the "
                                      "log-sum-exp of all keys");
    if (strcmp(args->k, "-") == 0 || strcmp(args->v, "-") == 0)
        return flashc_cli_usage_error("--stream-kv expects files for K and V, found standard input");
    return FLASHC_CLI_OK;
}

/* Calls on one batch element or sequence alone count it as element 0; a score_mod is to see the number it has. */
typedef struct score_mod_of_batch {
    flashc_score_mod_fn score_mod;
    void *user_data;
    int64_t batch;
} score_mod_of_batch;

static void call_score_mod(void *user_data, const flashc_score_block *block)
{
    const score_mod_of_batch *mod = user_data;
    flashc_score_block numbered = *block;
    numbered.batch = mod->batch;
    mod->score_mod(mod->user_data, &numbered);
}

/* One sequence at a time, a batch element, packed or in pages, is streamed as a call of its own, whose bits are the
 * same: so a chunk holds rows of one, and its columns of masks lie side by side. */
typedef struct stream {
    flashc_cli_stream_rows k, v;
    flashc_attention_state state;
    int64_t first_column; /* of the sequence, in mask, bias and scores */
    score_mod_of_batch mod;
} stream;

static flashc_tensor skip(flashc_tensor whole, int axis, int64_t n)
{
    if (whole.data)
        whole.data = (char *)whole.data + n * whole.stride[axis] * (int64_t)flashc_dtype_size(whole.dtype);
    return whole;
}

static int64_t rows_of(const flashc_attention_params *whole, int64_t b)
{
    return whole->cu_seqlens_k ? whole->cu_seqlens_k[b + 1] - whole->cu_seqlens_k[b]
           : whole->seqlens_k  ? whole->seqlens_k[b]
                               : whole->seqlen_k;
}

/* The call on sequence b alone, all but its K and V. */
static flashc_attention_params sequence_call(const flashc_attention_params *whole, int64_t b)
{
    flashc_attention_params p = *whole;
    flashc_tensor *const of_queries[] = {&p.q, &p.o, &p.lse, &p.row_max, &p.mask, &p.bias, &p.scores};
    for (size_t i = 0; i < sizeof of_queries / sizeof of_queries[0]; i++)
        *of_queries[i] = whole->cu_seqlens_q ? skip(*of_queries[i], 2, whole->cu_seqlens_q[b])
                                             : skip(*of_queries[i], 0, b);
    p.block_mask = skip(p.block_mask, 0, b);
    p.batch = 1;
    if (whole->cu_seqlens_q)
        p.seqlen_q = whole->cu_seqlens_q[b + 1] - whole->cu_seqlens_q[b];
    p.seqlen_k = rows_of(whole, b);
    p.cu_seqlens_q = p.cu_seqlens_k = p.seqlens_k = NULL;
    p.block_table = p.block_table_v = (flashc_block_table){.pages = NULL};
    const int64_t **const of_batch[] = {&p.seqlens_q, &p.leftpad_k, &p.offsets};
    for (size_t i = 0; i < sizeof of_batch / sizeof of_batch[0]; i++)
        *of_batch[i] = *of_batch[i] ? *of_batch[i] + b : NULL;
    if (p.alibi_slopes)
        p.alibi_slopes += b * p.alibi_batch_stride;
    return p;
}

static int run_chunk(stream *s, const flashc_attention_params *call, int64_t b, int64_t first, int64_t n)
{
    flashc_attention_params p = *call;
    if (flashc_cli_stream_rows_read(&s->k, b, first, n) || flashc_cli_stream_rows_read(&s->v, b, first, n))
        return FLASHC_CLI_FAILED;
    p.seqlen_k = n;
    p.k = s->k.view;
    p.v = s->v.view;
    p.k_scale = s->k.scale;
    p.v_scale = s->v.scale;
    p.mask = skip(p.mask, 3, s->first_column + first);
    p.bias = skip(p.bias, 3, s->first_column + first);
    p.scores = skip(p.scores, 3, s->first_column + first);
    const flashc_status status = flashc_attention_accumulate(&s->state, &p);
    return status == FLASHC_OK ? FLASHC_CLI_OK : flashc_cli_library_error();
}

static void free_state(flashc_attention_state *state)
{
    free(state->row_max);
    free(state->row_sum);
    free(state->acc);
    *state = (flashc_attention_state){.row_max = NULL};
}

static int make_state(const flashc_attention_params *call, flashc_attention_state *state)
{
    free_state(state);
    flashc_status status = flashc_attention_state_init(state, sizeof *state, call);
    if (status != FLASHC_OK)
        return flashc_cli_library_error();
    const size_t rows = (size_t)(state->levels * state->rows) + 1;
    state->row_max = calloc(rows, sizeof(float));
    state->row_sum = calloc(rows, sizeof(float));
    state->acc = calloc(rows, (size_t)state->head_dim_v * sizeof(float) + 1);
    if (!state->row_max || !state->row_sum || !state->acc)
        return flashc_cli_error("no memory for a state of %lld x %lld rows of %lld columns", (long long)state->levels,
                                (long long)state->rows, (long long)state->head_dim_v);
    status = flashc_attention_state_clear(state);
    return status == FLASHC_OK ? FLASHC_CLI_OK : flashc_cli_library_error();
}

/* Columns of scores behind the sequence's last row, where it has no chunks: what a hidden key has at each stage that a
 * state fills. Packed sequences have none. scores are f32. */
static void fill_columns(const flashc_attention_params *call, int64_t begin, int64_t end)
{
    for (int64_t h = 0; call->scores.data && h < call->num_heads; h++)
        for (int64_t i = 0; i < call->seqlen_q; i++)
            for (int64_t j = begin; j < end; j++)
                ((float *)call->scores.data)[h * call->scores.stride[1] + i * call->scores.stride[2] +
                                             j * call->scores.stride[3]] = -INFINITY;
}

static int64_t chunks_of(const flashc_attention_params *whole, int64_t b, int64_t chunk_rows)
{
    const int64_t rows = rows_of(whole, b);
    return rows / chunk_rows + (rows % chunk_rows != 0);
}

static int run_sequence(stream *s, const flashc_attention_params *whole, int64_t b, int64_t chunk_rows,
                        flashc_cli_progress *progress)
{
    flashc_attention_params call = sequence_call(whole, b);
    s->mod = (score_mod_of_batch){whole->score_mod, whole->score_mod_user_data, b};
    call.score_mod = whole->score_mod ? call_score_mod : NULL;
    call.score_mod_user_data = &s->mod;
    s->first_column = whole->cu_seqlens_k ? whole->cu_seqlens_k[b] : 0;
    if (make_state(&call, &s->state))
        return FLASHC_CLI_FAILED;
    for (int64_t first = 0; first < call.seqlen_k; first += chunk_rows) {
        if (run_chunk(s, &call, b, first, flashc_cli_min(chunk_rows, call.seqlen_k - first)))
            return FLASHC_CLI_FAILED;
        progress->part++;
    }
    if (!whole->cu_seqlens_k)
        fill_columns(&call, call.seqlen_k, whole->seqlen_k);
    const flashc_status status = flashc_attention_finish(&s->state, &call);
    return status == FLASHC_OK ? FLASHC_CLI_OK : flashc_cli_library_error();
}

static int run(stream *s, const flashc_cli_attention_args *args, const flashc_cli_job *job, const char *kernel,
               flashc_cli_progress *progress)
{
    flashc_attention_params whole = job->params;
    const flashc_block_table *table_v = whole.block_table_v.pages ? &whole.block_table_v : &whole.block_table;
    whole.kernel = kernel; /* that of the one call, whose choice goes by the longest sequence */
    if (flashc_cli_stream_rows_open(args->k, &job->k, args->bshd, &whole, &whole.block_table, &whole.k_scale, &s->k) ||
        flashc_cli_stream_rows_open(args->v, &job->v, args->bshd, &whole, table_v, &whole.v_scale, &s->v))
        return FLASHC_CLI_FAILED;
    progress->parts = 0;
    for (int64_t b = 0; b < whole.batch; b++)
        progress->parts += chunks_of(&whole, b, args->stream_kv);
    for (int64_t b = 0; b < whole.batch; b++)
        if (run_sequence(s, &whole, b, args->stream_kv, progress))
            return FLASHC_CLI_FAILED;
    return FLASHC_CLI_OK;
}

int flashc_cli_stream_run(const flashc_cli_attention_args *args, const flashc_cli_job *job, const char *kernel,
                          flashc_cli_progress *progress)
{
    stream s = {.state = {.row_max = NULL}};
#ifdef __GLIBC__
    /* Chunks straight from the system, and back: on the heap each next one would not fit into the hole that aligned
     * memory of the same size left (265 MB for chunks of 34 MB). */
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
    const int exit_code = run(&s, args, job, kernel, progress);
    flashc_cli_stream_rows_close(&s.k);
    flashc_cli_stream_rows_close(&s.v);
    free_state(&s.state);
    return exit_code;
}
