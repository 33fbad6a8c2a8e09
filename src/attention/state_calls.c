/* The calls that make attention states and give them keys. */
#include "attention/execute.h"
#include "attention/plan.h"
#include "attention/scales.h"
#include "attention/state.h"
#include "attention/state_check.h"
#include "softmax/state.h"

#include <inttypes.h>

/* A tensor of this one's type to make a plan with, all its elements being one, which nobody reads. */
static flashc_tensor stand_in(const flashc_tensor *t)
{
    static const double nothing[8]; /* aligned for any type */
    return (flashc_tensor){.data = (void *)(uintptr_t)nothing, .dtype = t->dtype, .stride = {0, 0, 0, 1}};
}

/* Tensors as a plan looks at them: their types, and whether there is a mask, bias or block mask, which the choice of a
 * kernel and its tiles goes by. */
static void forget_data(flashc_attention_params *p)
{
    const flashc_tensor absent = {.data = NULL}, scale = {.dtype = FLASHC_F32};
    p->q = stand_in(&p->q);
    p->k = stand_in(&p->k);
    p->v = stand_in(&p->v);
    p->k_scale = p->k.dtype == FLASHC_I8 ? stand_in(&scale) : absent;
    p->v_scale = p->v.dtype == FLASHC_I8 ? stand_in(&scale) : absent;
    p->mask = p->mask.data ? stand_in(&p->mask) : absent;
    p->bias = p->bias.data ? stand_in(&p->bias) : absent;
    p->block_mask = p->block_mask.data ? stand_in(&p->block_mask) : absent;
    p->row_max = p->scores = p->key_mass = absent;
    p->block_table = p->block_table_v = (flashc_block_table){.pages = NULL};
}

flashc_status flashc_attention_state_init(flashc_attention_state *state, size_t struct_size,
                                          const flashc_attention_params *params)
{
    flashc_attention_params p;
    flashc_problem problem;
    flashc_plan plan;
    if (!state)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "state: expected a pointer, found NULL");
    if (struct_size != sizeof *state)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "struct_size: expected %zu, found %zu", sizeof *state, struct_size);
    flashc_status status = flashc_problem_read_params(&p, params);
    if (status != FLASHC_OK)
        return status;
    forget_data(&p);
    status = flashc_problem_init_chunk(&problem, &p, NULL);
    if (status == FLASHC_OK)
        status = flashc_plan_init(&plan, &problem, NULL, 0);
    if (status != FLASHC_OK)
        return status;
    const int64_t queries = p.seqlen_q;
    flashc_attention_state made = {
        .struct_size = sizeof made,
        .rows = (p.cu_seqlens_q ? 1 : p.batch) * p.num_heads * queries,
        .row_stride = {p.num_heads * queries, queries, 1},
        .head_dim_v = p.head_dim_v,
        .piece_n = plan.longest_piece,
        .seqlen_k = problem.seqlen_k,
        .levels = 1,
    };
    /* More rows than that many pieces have are not keys: seqlens_k says so, by which pieces go. */
    while (made.levels < FLASHC_TREE_LEVELS && flashc_attention_state_capacity(&made) < problem.seqlen_k)
        made.levels++;
    status = flashc_attention_state_check_memory("state", &made);
    if (status == FLASHC_OK)
        *state = made;
    return status;
}

flashc_status flashc_attention_state_clear(flashc_attention_state *state)
{
    if (!state || state->struct_size != sizeof *state)
        return flashc_attention_state_check_state("state", state); /* says so */
    flashc_attention_state none = *state; /* the caller's stays as it is where something else is wrong with it */
    none.n_nodes = none.next_key = 0;
    const flashc_status status = flashc_attention_state_check_state("state", &none);
    if (status != FLASHC_OK)
        return status;
    *state = none;
    for (int64_t node = 0; node < state->levels; node++) {
        const flashc_softmax_state all = flashc_attention_state_node(state, node);
        flashc_state_init(&all);
    }
    return FLASHC_OK;
}

/* A chunk, checked, and its plan. */
static flashc_status plan_chunk(const flashc_attention_state *state, const flashc_attention_params *params,
                                flashc_problem *problem, flashc_plan *plan)
{
    flashc_attention_params p;
    flashc_status status = flashc_attention_state_read_call(&p, state, params);
    if (status != FLASHC_OK)
        return status;
    p.sinks = NULL;
    p.lse.data = p.row_max.data = NULL;
    status = flashc_attention_state_check_outputs(&p);
    if (status == FLASHC_OK)
        status = flashc_problem_init_chunk(problem, &p, state);
    if (status == FLASHC_OK)
        status = flashc_attention_state_check_rows(state, &p);
    if (status == FLASHC_OK && problem->seqlen_k > flashc_attention_state_capacity(state) - state->next_key)
        status = flashc_fail(FLASHC_ERR_ARGUMENT,
                             "seqlen_k: expected at most %" PRId64 " more keys, for which the state has %" PRId64
                             " levels, found %" PRId64,
                             flashc_attention_state_capacity(state) - state->next_key, state->levels,
                             problem->seqlen_k);
    return status == FLASHC_OK ? flashc_plan_init(plan, problem, NULL, 0) : status;
}

flashc_status flashc_attention_accumulate_workspace_size(const flashc_attention_state *state,
                                                         const flashc_attention_params *params, size_t *size)
{
    flashc_problem problem;
    flashc_plan plan;
    if (!size)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "size: expected a pointer, found NULL");
    flashc_status status = plan_chunk(state, params, &problem, &plan);
    return status == FLASHC_OK ? flashc_plan_workspace_bound(&plan, &problem, size) : status;
}

/* Passes of the chunk that ends at `end`. */
static int64_t count_passes(const flashc_attention_state *state, int64_t most_runs, int64_t end)
{
    flashc_chunk_pass pass = {.end = state->next_key};
    int64_t n = 0;
    do {
        flashc_attention_state_next_pass(state, most_runs, end, &pass);
        n++;
    } while (pass.end < end);
    return n;
}

/* The chunk's keys to the state, pass by pass. */
static flashc_status run_passes(flashc_attention_state *state, flashc_problem *problem, flashc_plan *plan,
                                void *workspace)
{
    flashc_status status;
    const int64_t end = state->next_key + problem->seqlen_k;
    flashc_progress progress = {.total = (count_passes(state, plan->runs, end) - 1) * plan->num_items +
                                         flashc_execute_items(problem, plan)};
    plan->pass = (flashc_chunk_pass){.end = state->next_key, .nodes = state->n_nodes};
    const flashc_tensor scores = problem->scores;
    do {
        flashc_attention_state_next_pass(state, plan->runs, end, &plan->pass);
        problem->scores.data = plan->pass.end < end ? NULL : scores.data; /* all of the chunk's, once */
        status = flashc_execute(problem, plan, workspace, &progress);
        plan->pass.nodes = flashc_attention_state_nodes_after(state, plan->pass.begin, plan->pass.end,
                                                              plan->pass.nodes);
    } while (status == FLASHC_OK && plan->pass.end < end);
    if (status == FLASHC_OK) {
        state->n_nodes = plan->pass.nodes;
        state->next_key = end;
    } else {
        state->next_key = -1; /* cancelled: some rows have the chunk, others do not */
    }
    return status;
}

flashc_status flashc_attention_accumulate(flashc_attention_state *state, const flashc_attention_params *params)
{
    flashc_problem problem;
    flashc_plan plan;
    void *workspace = NULL;
    flashc_status status = plan_chunk(state, params, &problem, &plan);
    if (status == FLASHC_OK)
        status = flashc_scales_check(&problem);
    if (status == FLASHC_OK)
        status = flashc_workspace_begin(&problem, &plan, &workspace);
    if (status != FLASHC_OK)
        return status;
    status = run_passes(state, &problem, &plan, workspace);
    flashc_workspace_end(&problem, workspace);
    return status;
}
