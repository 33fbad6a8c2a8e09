#include "cli/stream.h"

#include "cli/arithmetic.h"
#include "cli/cli.h"
#include "cli/lengths.h"
#include "cli/library_error.h"
#include "cli/stream_calls.h"
#include "cli/stream_chunks.h"

#include <math.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

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
    const flashc_cli_attention_args *args;
    const flashc_cli_job *job;
    flashc_cli_stream_states *states;
    flashc_attention_params whole;
    flashc_cli_chunks chunks;
    /* Of the sequence at hand: */
    int64_t offset; /* position of its query 0 */
    score_mod_of_batch mod;
} stream;

static int has_before(const stream *s)
{
    return s->states->before.rows.data != NULL;
}

/* Whose state of those before is sequence b's: a prefix is of one sequence, which has the queries of all. */
static int64_t sequence_before(const stream *s, int64_t b)
{
    return s->job->prefix.k.data ? 0 : b;
}

/* Where the keys of sequence b begin among all that it will have. */
static int64_t first_key(const stream *s, int64_t b)
{
    return flashc_cli_stream_first_key(s->args, s->states, sequence_before(s, b));
}

/* How many these are. */
static int64_t keys_in_all(const stream *s, int64_t b)
{
    return flashc_cli_max(s->args->total_keys, first_key(s, b) + flashc_cli_keys_of(&s->whole, b));
}

/* Of the state before that of sequence b goes on from: a number of its keys. */
static int64_t number_before(const stream *s, int64_t b, int column)
{
    return flashc_cli_states_number(&s->states->before, sequence_before(s, b), column);
}

/* The pieces of the states before, unless longer ones are planned: whoever began those was told of fewer keys, and of
 * so many more there may be no more than the library has levels for. */
static int plan_sequence(const stream *s, const flashc_attention_params *call, int64_t b,
                         flashc_attention_state *planned)
{
    const int64_t keys = keys_in_all(s, b);
    if (flashc_cli_chunks_plan(call, keys, planned))
        return FLASHC_CLI_FAILED;
    if (!has_before(s))
        return FLASHC_CLI_OK;
    const int64_t piece_n = number_before(s, b, FLASHC_STATE_PIECE);
    const int longer = piece_n > 0 && (planned->piece_n > 0 ? planned->piece_n > piece_n : keys > piece_n);
    if (s->job->prefix.k.data || !longer)
        flashc_cli_chunks_set_pieces(planned, keys, piece_n, number_before(s, b, FLASHC_STATE_NODES));
    return FLASHC_CLI_OK;
}

/* Where the queries of sequence b stand in the states that are written; before: in those of the keys before. */
static flashc_cli_states_part part_of(const stream *s, int64_t b, int before)
{
    const flashc_attention_params *p = &s->whole;
    const int64_t n = p->cu_seqlens_q ? flashc_cli_queries_of(p, b) : p->seqlen_q;
    if (p->cu_seqlens_q)
        return (flashc_cli_states_part){0, p->cu_seqlens_q[b], n, before ? sequence_before(s, b) : b};
    if (before && s->job->prefix.k.data)
        return (flashc_cli_states_part){0, b * n, n, 0};
    return (flashc_cli_states_part){b, 0, n, b};
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

/* Fills the state of sequence b with what the keys before left; as one partial result where its pieces are others. */
static int load_before(stream *s, int64_t b)
{
    flashc_attention_state *state = &s->chunks.state, planned = *state, before;
    const flashc_cli_states_part part = part_of(s, b, 1);
    const int64_t piece_n = number_before(s, b, FLASHC_STATE_PIECE);
    if (state->piece_n == piece_n) {
        flashc_cli_states_load(&s->states->before, &part, state);
        return FLASHC_CLI_OK;
    }
    flashc_cli_chunks_set_pieces(&planned, first_key(s, b), piece_n, number_before(s, b, FLASHC_STATE_NODES));
    int code = flashc_cli_chunks_make_state(&planned, &before);
    if (code == FLASHC_CLI_OK) {
        flashc_cli_states_load(&s->states->before, &part, &before);
        code = flashc_attention_state_merge(state, &before) == FLASHC_OK ? FLASHC_CLI_OK : flashc_cli_library_error();
    }
    flashc_cli_chunks_free_state(&before);
    return code;
}

static int begin_sequence(stream *s, flashc_attention_params *call, int64_t b)
{
    flashc_attention_state planned;
    const flashc_attention_params *whole = &s->whole;
    s->chunks.first_column = whole->cu_seqlens_k ? whole->cu_seqlens_k[b] : 0;
    s->mod = (score_mod_of_batch){whole->score_mod, whole->score_mod_user_data, b};
    call->score_mod = whole->score_mod ? call_score_mod : NULL;
    call->score_mod_user_data = &s->mod;
    if (call->alignment != FLASHC_ALIGN_UNSET) {
        s->offset = flashc_cli_stream_add(flashc_cli_offset_of(whole, b, call->seqlen_k), first_key(s, b));
        call->alignment = FLASHC_ALIGN_EXPLICIT;
        call->offsets = &s->offset;
    }
    if (plan_sequence(s, call, b, &planned) || flashc_cli_chunks_begin(&planned, &s->chunks))
        return FLASHC_CLI_FAILED;
    s->chunks.state.next_key = first_key(s, b);
    return has_before(s) ? load_before(s, b) : FLASHC_CLI_OK;
}

static int run_sequence(stream *s, int64_t b)
{
    flashc_attention_params call = flashc_cli_stream_sequence(&s->whole, b);
    if (begin_sequence(s, &call, b) || flashc_cli_chunks_take(&s->chunks, &call, b))
        return FLASHC_CLI_FAILED;
    if (!s->whole.cu_seqlens_k)
        fill_columns(&call, call.seqlen_k, s->whole.seqlen_k);
    if (s->states->after.rows.data) {
        const flashc_cli_states_part part = part_of(s, b, 0);
        flashc_cli_states_store(&s->states->after, &part, &s->chunks.state);
    }
    const flashc_status status = flashc_attention_finish(&s->chunks.state, &call);
    return status == FLASHC_OK ? FLASHC_CLI_OK : flashc_cli_library_error();
}

/* Room for the states of all sequences. */
static int make_after(const stream *s)
{
    const flashc_cli_states_shape shape = flashc_cli_states_shape_of(&s->whole, s->job->q.rank);
    int64_t levels = 1;
    for (int64_t b = 0; b < s->whole.batch; b++) {
        const flashc_attention_params call = flashc_cli_stream_sequence(&s->whole, b);
        flashc_attention_state planned;
        if (plan_sequence(s, &call, b, &planned))
            return FLASHC_CLI_FAILED;
        levels = flashc_cli_max(levels, planned.levels);
    }
    return flashc_cli_states_make(&shape, levels, &s->states->after);
}

/* The keys that all sequences share, for all queries as those of one: what they leave is before each one's own keys.
 * The state is that of flashc_attention_shared_prefix(), so that its bits are. */
static int run_prefix(stream *s, const char *kernel)
{
    const flashc_shared_prefix *prefix = &s->job->prefix.shared;
    flashc_attention_params whole = s->job->params, call = flashc_cli_stream_prefix(&s->whole, prefix);
    flashc_cli_states_shape shape = {2, {call.num_heads, call.seqlen_q}, call.head_dim_v, 1};
    const flashc_cli_states_part all = {.n = call.seqlen_q};
    flashc_attention_state planned;
    whole.cu_seqlens_k = whole.seqlens_k = NULL;
    whole.causal = 0;
    whole.alignment = FLASHC_ALIGN_UNSET;
    whole.offsets = NULL;
    if (flashc_cli_chunks_plan(&whole, prefix->seqlen + whole.seqlen_k, &planned))
        return FLASHC_CLI_FAILED;
    planned.row_stride[0] = planned.rows; /* of its one element */
    planned.row_stride[1] = call.seqlen_q;
    call.kernel = kernel;
    if (flashc_cli_chunks_begin(&planned, &s->chunks) ||
        flashc_cli_chunks_open(s->args->prefix_k, &s->job->prefix.k, s->args->prefix_v, &s->job->prefix.v,
                               s->args->bshd, &call, &s->chunks) ||
        flashc_cli_chunks_take(&s->chunks, &call, 0) ||
        flashc_cli_states_make(&shape, planned.levels, &s->states->before))
        return FLASHC_CLI_FAILED;
    flashc_cli_states_store(&s->states->before, &all, &s->chunks.state);
    return FLASHC_CLI_OK;
}

static int64_t count_chunks(const stream *s)
{
    const int64_t rows = s->args->stream_kv;
    int64_t count = s->job->prefix.k.data ? flashc_cli_chunks_count(rows, s->job->prefix.shared.seqlen) : 0;
    for (int64_t b = 0; b < s->whole.batch; b++)
        count += flashc_cli_chunks_count(rows, flashc_cli_keys_of(&s->whole, b));
    return count;
}

static int run(stream *s, const flashc_cli_plan *plan)
{
    const flashc_cli_job *job = s->job;
    s->whole.kernel = plan->own.kernel; /* that of the one call, whose choice goes by the longest sequence */
    s->chunks.progress->parts = count_chunks(s);
    if (plan->has_prefix && run_prefix(s, plan->prefix.kernel))
        return FLASHC_CLI_FAILED;
    if (flashc_cli_chunks_open(s->args->k, &job->k, s->args->v, &job->v, s->args->bshd, &s->whole, &s->chunks) ||
        (s->states->after.rows_path && make_after(s)))
        return FLASHC_CLI_FAILED;
    for (int64_t b = 0; b < s->whole.batch; b++)
        if (run_sequence(s, b))
            return FLASHC_CLI_FAILED;
    if (s->states->after.rows_path)
        flashc_cli_states_trim(&s->states->after);
    return FLASHC_CLI_OK;
}

int flashc_cli_stream_run(const flashc_cli_attention_args *args, const flashc_cli_job *job, const flashc_cli_plan *plan,
                          flashc_cli_stream_states *states, flashc_cli_progress *progress)
{
    stream s = {.args = args, .job = job, .states = states, .whole = job->params,
                .chunks = {.rows = args->stream_kv, .progress = progress}};
#ifdef __GLIBC__
    /* Chunks straight from the system, and back: on the heap each next one would not fit into the hole that aligned
     * memory of the same size left (265 MB for chunks of 34 MB). */
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
    const int exit_code = run(&s, plan);
    flashc_cli_chunks_close(&s.chunks);
    return exit_code;
}
