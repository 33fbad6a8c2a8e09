/* A shared prefix through an attention state: the queries of all sequences as one sequence against the prefix, then
 * each sequence's against its own keys. Both walks meet in the same rows of the state. */
#include "attention/problem.h"
#include "common.h"
#include "numerics.h"
#include "params.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* The struct as it was in the first release: nothing shorter can have been compiled. */
enum { FIRST_PREFIX_SIZE = sizeof(flashc_shared_prefix) };

static flashc_status check_options(const flashc_attention_params *p)
{
    const struct {
        const char *name;
        bool given;
    } refused[] = {
        {"seqlens_q", p->seqlens_q},          {"leftpad_k", p->leftpad_k},
        {"window", p->window_left >= 0 || p->window_right >= 0},
        {"mask", p->mask.data},               {"block_mask", p->block_mask.data},
        {"bias", p->bias.data},               {"alibi_slopes", p->alibi_slopes},
        {"score_mod", p->score_mod},          {"scores", p->scores.data},
        {"key_mass", p->key_mass.data},
    };
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (refused[i].given)
            return flashc_fail(FLASHC_ERR_ARGUMENT, "%s: expected none with a shared prefix, found one",
                               refused[i].name);
    return FLASHC_OK;
}

static flashc_status check_rows_of_queries(const flashc_attention_params *p)
{
    int64_t queries, stride;
    if (p->cu_seqlens_q)
        return FLASHC_OK;
    if (__builtin_mul_overflow(p->batch, p->seqlen_q, &queries) || queries > FLASHC_SIZE_LIMIT)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "batch, seqlen_q: expected at most 2^48 queries with a shared prefix, found %" PRId64
                           " * %" PRId64, p->batch, p->seqlen_q);
    const bool many = p->batch > 1 && p->seqlen_q > 1 && p->num_heads > 0; /* or q is empty, and its strides anything */
    if (many && (__builtin_mul_overflow(p->seqlen_q, p->q.stride[2], &stride) || p->q.stride[0] != stride))
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "q.stride[0]: expected seqlen_q * stride[2] = %" PRId64
                           " with a shared prefix, so that the queries of all sequences are one row after the other, "
                           "found %" PRId64,
                           stride, p->q.stride[0]);
    return FLASHC_OK;
}

/* All queries as those of one sequence. */
static flashc_attention_params of_prefix(const flashc_attention_params *p, const flashc_shared_prefix *prefix)
{
    flashc_attention_params all = *p;
    if (!p->cu_seqlens_q && p->seqlen_q == 1)
        all.q.stride[2] = p->q.stride[0];
    all.seqlen_q = p->cu_seqlens_q ? p->seqlen_q : p->batch * p->seqlen_q;
    all.batch = 1;
    all.cu_seqlens_q = all.cu_seqlens_k = all.seqlens_k = NULL;
    all.block_table = all.block_table_v = (flashc_block_table){.pages = NULL};
    all.causal = 0;
    all.alignment = FLASHC_ALIGN_UNSET;
    all.seqlen_k = prefix->seqlen;
    all.k = prefix->k;
    all.v = prefix->v;
    all.k_scale = prefix->k_scale;
    all.v_scale = prefix->v_scale;
    return all;
}

/* Everything, before any work. *own: the call on each sequence's own keys; what is wrong with the other one then is the
 * prefix's. */
static flashc_status check(const flashc_attention_params *p, const flashc_shared_prefix *prefix, flashc_problem *own)
{
    char message[512];
    flashc_problem shared;
    flashc_status status = check_options(p);
    if (status == FLASHC_OK)
        status = flashc_params_check_size("prefix->seqlen", prefix->seqlen, 0);
    if (status == FLASHC_OK)
        status = flashc_problem_init(own, p);
    if (status == FLASHC_OK)
        status = check_rows_of_queries(p);
    if (status == FLASHC_OK)
        status = flashc_scales_check(own);
    if (status != FLASHC_OK)
        return status;
    const flashc_attention_params all = of_prefix(p, prefix);
    status = flashc_problem_init_chunk(&shared, &all, NULL);
    if (status == FLASHC_OK)
        status = flashc_scales_check(&shared);
    if (status == FLASHC_OK)
        return FLASHC_OK;
    snprintf(message, sizeof message, "prefix->%s", flashc_last_error());
    return flashc_fail(status, "%s", message);
}

/* Positions count from the prefix on; a sum beyond 64 bits is beyond all keys. */
static void set_offsets(flashc_attention_params *p, const flashc_problem *own, int64_t *offsets, int64_t seqlen_prefix)
{
    for (int64_t b = 0; b < p->batch; b++)
        if (__builtin_add_overflow(flashc_problem_sequence(own, b).offset, seqlen_prefix, &offsets[b]))
            offsets[b] = INT64_MAX;
    p->alignment = FLASHC_ALIGN_EXPLICIT;
    p->offsets = offsets;
}

/* The arrays of a state and offsets, one allocation; NULL if there is no memory. */
static void *allocate(flashc_attention_state *s, int64_t batch, int64_t **offsets)
{
    int64_t rows, floats;
    if (__builtin_mul_overflow(s->levels, s->rows, &rows) ||
        __builtin_mul_overflow(rows, s->head_dim_v + 2, &floats) || floats > INT64_MAX / 8 - batch - 1)
        return NULL;
    int64_t *memory = malloc((size_t)(batch + 1) * sizeof *memory + (size_t)floats * sizeof(float));
    if (!memory)
        return NULL;
    *offsets = memory;
    s->row_max = (float *)(void *)(memory + batch + 1);
    s->row_sum = s->row_max + rows;
    s->acc = s->row_sum + rows;
    return memory;
}

static flashc_status run(flashc_attention_params *p, const flashc_shared_prefix *prefix, const flashc_problem *own)
{
    const flashc_attention_params all = of_prefix(p, prefix);
    flashc_attention_params whole = *p; /* as far as a state is about it */
    flashc_attention_state state;
    int64_t *offsets;
    whole.seqlen_k = prefix->seqlen + p->seqlen_k;
    whole.cu_seqlens_k = whole.seqlens_k = NULL;
    whole.causal = 0;
    whole.alignment = FLASHC_ALIGN_UNSET;
    flashc_status status = flashc_attention_state_init(&state, sizeof state, &whole);
    if (status != FLASHC_OK)
        return status;
    if (!p->cu_seqlens_q) {
        state.row_stride[0] = p->seqlen_q;
        state.row_stride[1] = p->batch * p->seqlen_q;
    }
    void *memory = allocate(&state, p->batch, &offsets);
    if (!memory)
        return flashc_fail(FLASHC_ERR_MEMORY, "shared prefix: no memory for a state of %" PRId64 " rows", state.rows);
    status = flashc_attention_state_clear(&state);
    if (status == FLASHC_OK && prefix->seqlen > 0)
        status = flashc_attention_accumulate(&state, &all);
    state.next_key = status == FLASHC_OK ? prefix->seqlen : 0;
    set_offsets(p, own, offsets, prefix->seqlen);
    if (status == FLASHC_OK)
        status = flashc_attention_accumulate(&state, p);
    if (status == FLASHC_OK)
        status = flashc_attention_finish(&state, p);
    free(memory);
    return status;
}

void flashc_shared_prefix_init(flashc_shared_prefix *prefix, size_t struct_size)
{
    const flashc_shared_prefix defaults = {.struct_size = struct_size};
    flashc_params_fill(prefix, struct_size, &defaults, sizeof defaults);
}

flashc_status flashc_attention_shared_prefix(const flashc_attention_params *params, const flashc_shared_prefix *prefix)
{
    flashc_attention_params p;
    flashc_problem own;
    flashc_shared_prefix shared;
    flashc_attention_params_init(&p, sizeof p);
    flashc_shared_prefix_init(&shared, sizeof shared);
    flashc_status status = flashc_params_read(&p, sizeof p, params, sizeof p, "flashc_attention_params_init");
    if (status == FLASHC_OK)
        status = flashc_params_read(&shared, sizeof shared, prefix, FIRST_PREFIX_SIZE, "flashc_shared_prefix_init");
    if (status == FLASHC_OK)
        status = check(&p, &shared, &own);
    return status == FLASHC_OK ? run(&p, &shared, &own) : status;
}
