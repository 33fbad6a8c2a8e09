#include "attention/problem.h"

#include "attention/check.h"
#include "attention/lengths.h"
#include "cpu.h"
#include "params.h"

#include <math.h>
#include <string.h>

/* The struct as it was in the first release, whose last field this is: nothing shorter can have been compiled. */
enum { FIRST_STRUCT_SIZE = offsetof(flashc_attention_params, progress_user_data) + sizeof(void *) };
_Static_assert(sizeof(void *) != 8 || FIRST_STRUCT_SIZE == 992, "fields are added at the end");

void flashc_attention_params_init(flashc_attention_params *params, size_t struct_size)
{
    flashc_attention_params defaults;
    memset(&defaults, 0, sizeof defaults);
    defaults.struct_size = struct_size;
    defaults.batch = defaults.num_heads = defaults.num_heads_k = 1;
    defaults.softmax_scale = FLASHC_SCALE_DEFAULT;
    defaults.window_left = defaults.window_right = -1;
    flashc_params_fill(params, struct_size, &defaults, sizeof defaults);
}

/* Of an axis of one element any stride is valid. That of rows is also used for where the next one would be, and so must
 * not be one that leads out of all memory. */
static void tame_single_row(flashc_tensor *t, int64_t rows)
{
    if (rows <= 1 && flashc_magnitude(t->stride[2]) > FLASHC_SIZE_LIMIT)
        t->stride[2] = 0;
}

static void tame_single_rows(flashc_problem *problem, const flashc_attention_params *p)
{
    flashc_tensor *const of_queries[] = {&problem->q, &problem->o, &problem->mask, &problem->bias};
    for (size_t i = 0; i < sizeof of_queries / sizeof of_queries[0]; i++)
        tame_single_row(of_queries[i], p->seqlen_q);
    flashc_cache_rows *const caches[] = {&problem->k, &problem->v};
    for (size_t i = 0; i < sizeof caches / sizeof caches[0]; i++) {
        const int64_t rows = caches[i]->table.pages ? caches[i]->table.page_size : p->seqlen_k;
        tame_single_row(&caches[i]->tensor, rows);
        tame_single_row(&caches[i]->scale, rows);
    }
}

/* Fills the problem from checked params; state and outputs as in init(). */
static void resolve(flashc_problem *problem, const flashc_attention_params *p, const flashc_attention_state *state,
                    bool outputs)
{
    *problem = (flashc_problem){
        .batch = p->batch,
        .num_heads = p->num_heads,
        .num_heads_k = p->num_heads_k,
        .seqlen_q = flashc_lengths_longest(p->cu_seqlens_q, p->batch, p->seqlen_q),
        .seqlen_k = flashc_lengths_longest(p->cu_seqlens_k, p->batch, p->seqlen_k),
        .head_dim = p->head_dim,
        .head_dim_v = p->head_dim_v,
        .group = p->num_heads_k ? p->num_heads / p->num_heads_k : 0,
        .q = p->q,
        .k = {.tensor = p->k, .table = p->block_table, .scale = p->k_scale},
        .v = {.tensor = p->v,
              .table = *flashc_cache_table_v(&p->block_table, &p->block_table_v),
              .scale = p->v_scale},
        .o = outputs ? p->o : (flashc_tensor){.dtype = FLASHC_F32},
        .lse = outputs ? p->lse : (flashc_tensor){.dtype = FLASHC_F32},
        .row_max = p->row_max,
        .scores = p->scores,
        .scores_stage = p->scores_stage,
        .key_mass = p->key_mass,
        .mask = p->mask,
        .block_mask = p->block_mask,
        .block_mask_m = p->block_mask.data ? p->block_mask_m : 0,
        .block_mask_n = p->block_mask.data ? p->block_mask_n : 0,
        .bias = p->bias,
        .softcap = p->softcap,
        .alibi_slopes = p->alibi_slopes,
        .alibi_batch_stride = p->alibi_batch_stride,
        .score_mod = p->score_mod,
        .score_mod_user_data = p->score_mod_user_data,
        .sinks = p->sinks,
        .softmax_scale =
            p->softmax_scale == FLASHC_SCALE_DEFAULT ? (float)(1.0 / sqrt((double)p->head_dim)) : p->softmax_scale,
        .causal = p->causal != 0,
        .alignment = p->alignment,
        .offsets = p->offsets,
        .window_left = p->window_left,
        .window_right = p->window_right,
        .seqlens_q = p->seqlens_q,
        .seqlens_k = p->seqlens_k,
        .leftpad_k = p->leftpad_k,
        .cu_seqlens_q = p->cu_seqlens_q,
        .cu_seqlens_k = p->cu_seqlens_k,
        .num_threads = p->num_threads,
        .kernel = p->kernel,
        .compute = p->compute,
        .workspace = p->workspace,
        .workspace_size = p->workspace_size,
        .progress = p->progress,
        .progress_user_data = p->progress_user_data,
        .state = state,
    };
    tame_single_rows(problem, p);
    if (p->k.dtype == FLASHC_Q8_0) /* where a row is one block it may be anything */
        problem->k.tensor.stride[3] = 1;
    if (p->v.dtype == FLASHC_Q8_0)
        problem->v.tensor.stride[3] = 1;
    if (p->head_dim_v == 0) {
        /* They have no elements, and their strides were not checked; but addresses of rows are computed. */
        static const double nothing;
        problem->v = (flashc_cache_rows){.tensor = {.data = (void *)(uintptr_t)&nothing, .dtype = p->v.dtype}};
        problem->o = (flashc_tensor){.data = (void *)(uintptr_t)&nothing, .dtype = p->o.dtype};
    }
}

flashc_status flashc_problem_read_params(flashc_attention_params *ours, const flashc_attention_params *params)
{
    flashc_attention_params_init(ours, sizeof *ours);
    return flashc_params_read(ours, sizeof *ours, params, FIRST_STRUCT_SIZE, "flashc_attention_params_init");
}

/* state, outputs: as in flashc_check_attention(). */
static flashc_status init(flashc_problem *problem, const flashc_attention_params *params,
                          const flashc_attention_state *state, bool outputs)
{
    flashc_attention_params p;
    FLASHC_IN_DEFAULT_FLOAT_MODE; /* for checks that compare floats, and the default scale, which is rounded */
    flashc_status status = flashc_problem_read_params(&p, params);
    if (status == FLASHC_OK)
        status = flashc_check_attention(&p, state, outputs);
    if (status != FLASHC_OK)
        return status;
    resolve(problem, &p, state, outputs);
    return FLASHC_OK;
}

flashc_status flashc_problem_init(flashc_problem *problem, const flashc_attention_params *params)
{
    return init(problem, params, NULL, true);
}

flashc_status flashc_problem_init_chunk(flashc_problem *problem, const flashc_attention_params *params,
                                        const flashc_attention_state *state)
{
    return init(problem, params, state, false);
}

flashc_sequence flashc_problem_sequence(const flashc_problem *p, int64_t batch)
{
    const int64_t rows = flashc_lengths_rows(p->seqlens_k, p->cu_seqlens_k, batch, p->seqlen_k);
    const int64_t leftpad = p->leftpad_k ? p->leftpad_k[batch] : 0;
    const int64_t begin = (p->state ? p->state->next_key : 0) - leftpad; /* key that row 0 is, or would be */
    flashc_sequence s = {
        .n_queries = flashc_lengths_rows(p->seqlens_q, p->cu_seqlens_q, batch, p->seqlen_q),
        .n_keys = flashc_max(0, begin + rows),
        .q_element = p->cu_seqlens_q ? 0 : batch,
        .first_query = p->cu_seqlens_q ? p->cu_seqlens_q[batch] : 0,
        .k_element = p->cu_seqlens_k ? 0 : batch,
        .first_key = (p->cu_seqlens_k ? p->cu_seqlens_k[batch] : 0) - begin,
        .begin_key = flashc_max(0, begin),
        .leftpad = leftpad,
    };
    switch (p->alignment) {
    case FLASHC_ALIGN_UNSET:
    case FLASHC_ALIGN_TOP_LEFT: break;
    case FLASHC_ALIGN_BOTTOM_RIGHT:
        s.offset = (p->state ? flashc_lengths_in_all(p->state, batch) : rows) - leftpad - s.n_queries;
        break;
    case FLASHC_ALIGN_EXPLICIT: s.offset = p->offsets[batch]; break;
    }
    return s;
}

bool flashc_problem_is_uniform(const flashc_problem *p)
{
    return p->alignment != FLASHC_ALIGN_EXPLICIT && !p->seqlens_q && !p->seqlens_k && !p->leftpad_k &&
           !p->cu_seqlens_q && !p->cu_seqlens_k;
}
