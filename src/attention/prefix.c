/* A shared prefix through an attention state: the queries of all sequences as one sequence against the prefix, then
 * each sequence's against its own keys. Both walks meet in the same rows of the state. */
#include "attention/explain.h"
#include "attention/scales.h"
#include "common.h"
#include "numerics.h"
#include "params.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* The struct as it was in the first release, whose last field this is: nothing shorter can have been compiled. */
enum { FIRST_PREFIX_SIZE = offsetof(flashc_shared_prefix, v_scale) + sizeof(flashc_tensor) };
_Static_assert(sizeof(void *) != 8 || FIRST_PREFIX_SIZE == 208, "fields are added at the end");

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
    flashc_problem_forget_positions(&all);
    all.seqlen_k = prefix->seqlen;
    if (prefix->seqlen == 0) /* no work, which any kernel can do */
        all.kernel = NULL;
    all.k = prefix->k;
    all.v = prefix->v;
    all.k_scale = prefix->k_scale;
    all.v_scale = prefix->v_scale;
    return all;
}

/* Everything, before any work; scales: those too, which are read. *own: the call on each sequence's own keys; what is
 * wrong with the other one then is the prefix's. */
static flashc_status check(const flashc_attention_params *p, const flashc_shared_prefix *prefix, bool scales,
                           flashc_problem *own)
{
    char message[512];
    flashc_problem shared;
    flashc_status status = check_options(p);
    if (status == FLASHC_OK)
        status = flashc_params_check_size("prefix->seqlen", prefix->seqlen, 0);
    if (status == FLASHC_OK)
        status = flashc_problem_init(own, p);
    if (status == FLASHC_OK && prefix->seqlen > FLASHC_SIZE_LIMIT - p->seqlen_k)
        status = flashc_fail(FLASHC_ERR_ARGUMENT,
                             "prefix->seqlen: expected at most 2^48 keys together with seqlen_k = %" PRId64
                             ", found %" PRId64, p->seqlen_k, prefix->seqlen);
    if (status == FLASHC_OK)
        status = check_rows_of_queries(p);
    if (status == FLASHC_OK && scales)
        status = flashc_scales_check(own);
    if (status != FLASHC_OK)
        return status;
    const flashc_attention_params all = of_prefix(p, prefix);
    status = flashc_problem_init_chunk(&shared, &all, NULL);
    if (status == FLASHC_OK && scales)
        status = flashc_scales_check(&shared);
    if (status == FLASHC_OK)
        return FLASHC_OK;
    snprintf(message, sizeof message, "prefix->%s", flashc_last_error());
    return flashc_fail(status, "%s", message);
}

/* The two chunks of a state that the call is made of. */
typedef struct chunks {
    flashc_attention_params shared, own;
    flashc_attention_state state; /* without arrays */
    int64_t *offsets;             /* what own points to; to be freed */
} chunks;

/* Positions count from the prefix on; a sum beyond 64 bits is beyond all keys. */
static void set_offsets(chunks *c, const flashc_problem *own, int64_t seqlen_prefix)
{
    for (int64_t b = 0; b < c->own.batch; b++)
        if (__builtin_add_overflow(flashc_problem_sequence(own, b).offset, seqlen_prefix, &c->offsets[b]))
            c->offsets[b] = INT64_MAX;
    c->own.alignment = FLASHC_ALIGN_EXPLICIT;
    c->own.offsets = c->offsets;
}

static flashc_status no_memory(const chunks *c)
{
    return flashc_fail(FLASHC_ERR_MEMORY, "shared prefix: no memory for a state of %" PRId64 " rows", c->state.rows);
}

static flashc_status make_chunks(chunks *c, const flashc_attention_params *p, const flashc_shared_prefix *prefix,
                                 const flashc_problem *own)
{
    flashc_attention_params whole = *p; /* as far as a state is about it */
    whole.seqlen_k = prefix->seqlen + p->seqlen_k;
    whole.cu_seqlens_k = whole.seqlens_k = NULL;
    flashc_problem_forget_positions(&whole);
    *c = (chunks){.shared = of_prefix(p, prefix), .own = *p};
    c->shared.workspace = c->own.workspace = NULL; /* of the caller's nobody said how large it must be */
    flashc_status status = flashc_attention_state_init(&c->state, sizeof c->state, &whole);
    if (status != FLASHC_OK)
        return status;
    if (!p->cu_seqlens_q) {
        c->state.row_stride[0] = p->seqlen_q;
        c->state.row_stride[1] = p->batch * p->seqlen_q;
    }
    c->offsets = calloc((size_t)p->batch + 1, sizeof *c->offsets);
    if (!c->offsets)
        return no_memory(c);
    set_offsets(c, own, prefix->seqlen);
    return FLASHC_OK;
}

/* The arrays of a state, one allocation; NULL if there is no memory. */
static float *allocate(flashc_attention_state *s)
{
    int64_t rows, floats;
    if (__builtin_mul_overflow(s->levels, s->rows, &rows) ||
        __builtin_mul_overflow(rows, s->head_dim_v + 2, &floats) || floats > INT64_MAX / 8)
        return NULL;
    float *memory = malloc((size_t)floats * sizeof *memory + 1);
    if (!memory)
        return NULL;
    s->row_max = memory;
    s->row_sum = memory + rows;
    s->acc = memory + 2 * rows;
    return memory;
}

static flashc_status run(chunks *c, int64_t seqlen_prefix)
{
    float *memory = allocate(&c->state);
    if (!memory)
        return no_memory(c);
    flashc_status status = flashc_attention_state_clear(&c->state);
    if (status == FLASHC_OK && seqlen_prefix > 0)
        status = flashc_attention_accumulate(&c->state, &c->shared);
    if (status == FLASHC_OK)
        status = flashc_attention_accumulate(&c->state, &c->own);
    if (status == FLASHC_OK)
        status = flashc_attention_finish(&c->state, &c->own);
    free(memory);
    return status;
}

/* Both chunks as they come to the state. */
static flashc_status explain(chunks *c, int64_t seqlen_prefix, flashc_explanation *shared, flashc_explanation *own)
{
    flashc_problem problem;
    flashc_status status = flashc_problem_init_chunk(&problem, &c->shared, &c->state);
    if (status == FLASHC_OK)
        status = flashc_explain_problem(&problem, shared);
    c->state.next_key = seqlen_prefix;
    if (status == FLASHC_OK)
        status = flashc_problem_init_chunk(&problem, &c->own, &c->state);
    return status == FLASHC_OK ? flashc_explain_problem(&problem, own) : status;
}

void flashc_shared_prefix_init(flashc_shared_prefix *prefix, size_t struct_size)
{
    const flashc_shared_prefix defaults = {.struct_size = struct_size};
    flashc_params_fill(prefix, struct_size, &defaults, sizeof defaults);
}

/* Reads and checks the arguments, and makes chunks of them; c->offsets are to be freed in any case. */
static flashc_status begin(const flashc_attention_params *params, const flashc_shared_prefix *prefix, bool scales,
                           flashc_shared_prefix *shared, chunks *c)
{
    flashc_attention_params p;
    flashc_problem own;
    c->offsets = NULL;
    flashc_shared_prefix_init(shared, sizeof *shared);
    flashc_status status = flashc_problem_read_params(&p, params);
    if (status == FLASHC_OK && !prefix)
        status = flashc_fail(FLASHC_ERR_ARGUMENT, "prefix: expected a pointer, found NULL");
    if (status == FLASHC_OK)
        status = flashc_params_read(shared, sizeof *shared, prefix, FIRST_PREFIX_SIZE, "flashc_shared_prefix_init");
    if (status == FLASHC_OK && shared->seqlen == 0) { /* as after init: no keys, of the types that params have */
        shared->k = (flashc_tensor){.dtype = p.k.dtype};
        shared->v = (flashc_tensor){.dtype = p.v.dtype};
        shared->k_scale = shared->v_scale = (flashc_tensor){.data = NULL};
    }
    if (status == FLASHC_OK)
        status = check(&p, shared, scales, &own);
    return status == FLASHC_OK ? make_chunks(c, &p, shared, &own) : status;
}

flashc_status flashc_attention_shared_prefix(const flashc_attention_params *params, const flashc_shared_prefix *prefix)
{
    flashc_shared_prefix shared;
    chunks c;
    flashc_status status = begin(params, prefix, true, &shared, &c);
    if (status == FLASHC_OK)
        status = run(&c, shared.seqlen);
    free(c.offsets);
    return status;
}

flashc_status flashc_explain_shared_prefix(const flashc_attention_params *params, const flashc_shared_prefix *prefix,
                                           flashc_explanation *prefix_plan, flashc_explanation *own_plan)
{
    flashc_shared_prefix shared;
    chunks c;
    flashc_status status = flashc_explanation_check("prefix_plan", prefix_plan);
    if (status == FLASHC_OK)
        status = flashc_explanation_check("own_plan", own_plan);
    if (status != FLASHC_OK)
        return status;
    status = begin(params, prefix, false, &shared, &c);
    if (status == FLASHC_OK)
        status = explain(&c, shared.seqlen, prefix_plan, own_plan);
    free(c.offsets);
    return status;
}
