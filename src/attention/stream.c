#include "attention/stream.h"

#include "attention/execute.h"
#include "attention/plan.h"
#include "attention/stages.h"
#include "cpu.h"
#include "numerics.h"
#include "params.h"
#include "softmax/state.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* All rows of a node. */
static flashc_softmax_state node_of(const flashc_attention_state *s, int64_t node)
{
    return (flashc_softmax_state){.rows = s->rows,
                                  .head_dim_v = s->head_dim_v,
                                  .row_max = s->row_max + node * s->rows,
                                  .row_sum = s->row_sum + node * s->rows,
                                  .acc = s->head_dim_v > 0 ? s->acc + node * s->rows * s->head_dim_v : NULL,
                                  .acc_row_stride = s->head_dim_v,
                                  .acc_col_stride = 1};
}

static int64_t row_of(const flashc_attention_state *s, const flashc_sequence *sequence, int64_t head, int64_t query)
{
    return sequence->q_element * s->row_stride[0] + head * s->row_stride[1] +
           (sequence->first_query + query) * s->row_stride[2];
}

static int64_t block_row_of(const flashc_problem *p, const flashc_row_block *block, int64_t r)
{
    return row_of(p->state, &block->sequence, flashc_row_head(p, block, r), flashc_row_query(p, block, r));
}

void flashc_stream_load(const flashc_problem *p, const flashc_row_block *block, int64_t node,
                        const flashc_softmax_state *to)
{
    const flashc_softmax_state from = node_of(p->state, node);
    for (int64_t r = 0; r < block->n_rows; r++) {
        const int64_t row = block_row_of(p, block, r);
        to->row_max[r] = from.row_max[row];
        to->row_sum[r] = from.row_sum[row];
        for (int64_t d = 0; d < p->head_dim_v; d++)
            to->acc[r * to->acc_row_stride + d * to->acc_col_stride] = from.acc[row * from.head_dim_v + d];
    }
}

void flashc_stream_store(const flashc_problem *p, const flashc_row_block *block, int64_t node,
                         const flashc_softmax_state *from)
{
    const flashc_softmax_state to = node_of(p->state, node);
    for (int64_t r = 0; r < block->n_rows; r++) {
        const int64_t row = block_row_of(p, block, r);
        to.row_max[row] = from->row_max[r];
        to.row_sum[row] = from->row_sum[r];
        for (int64_t d = 0; d < p->head_dim_v; d++)
            to.acc[row * to.head_dim_v + d] = from->acc[r * from->acc_row_stride + d * from->acc_col_stride];
    }
}

static flashc_status read_params(flashc_attention_params *ours, const flashc_attention_params *params)
{
    flashc_attention_params_init(ours, sizeof *ours);
    return flashc_params_read(ours, sizeof *ours, params, sizeof *ours, "flashc_attention_params_init");
}

/* The most keys that the levels hold: each node stands for twice as many pieces as the one after it. */
static int64_t capacity(const flashc_attention_state *s)
{
    if (s->piece_n == 0)
        return FLASHC_SIZE_LIMIT - 1;
    const int64_t pieces = s->levels < FLASHC_TREE_LEVELS ? (INT64_C(1) << s->levels) - 1 : FLASHC_MAX_PIECES;
    return pieces * s->piece_n;
}

/* Sizes and arrays. */
static flashc_status check_state(const char *name, const flashc_attention_state *s)
{
    if (!s)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s: expected a pointer, found NULL", name);
    if (s->struct_size != sizeof *s)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "%s->struct_size: expected %zu (flashc_attention_state_init sets it), found %zu", name,
                           sizeof *s, s->struct_size);
    const struct {
        const char *name;
        int64_t value, low, high;
    } sizes[] = {
        {"rows", s->rows, 0, FLASHC_SIZE_LIMIT},
        {"head_dim_v", s->head_dim_v, 0, FLASHC_SIZE_LIMIT},
        {"piece_n", s->piece_n, 0, FLASHC_SIZE_LIMIT / FLASHC_MAX_PIECES},
        {"levels", s->levels, 1, FLASHC_TREE_LEVELS},
        {"n_nodes", s->n_nodes, 0, s->levels},
        {"next_key", s->next_key, 0, capacity(s)},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (sizes[i].value < sizes[i].low || sizes[i].value > sizes[i].high)
            return flashc_fail(FLASHC_ERR_ARGUMENT, "%s->%s: expected %" PRId64 " to %" PRId64 ", found %" PRId64, name,
                               sizes[i].name, sizes[i].low, sizes[i].high, sizes[i].value);
    if (s->rows > 0 && (!s->row_max || !s->row_sum || (!s->acc && s->head_dim_v > 0)))
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s->%s: expected a pointer, found NULL", name,
                           !s->row_max ? "row_max" : !s->row_sum ? "row_sum" : "acc");
    return FLASHC_OK;
}

/* Does the state have a row of its own for each query of the call? */
static flashc_status check_rows(const flashc_attention_state *s, const flashc_attention_params *p)
{
    const int64_t size[3] = {p->cu_seqlens_q ? 1 : p->batch, p->num_heads, p->seqlen_q};
    if (s->rows != size[0] * size[1] * size[2])
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "state->rows: expected the %" PRId64 " * %" PRId64 " * %" PRId64
                           " queries of the call, found %" PRId64, size[0], size[1], size[2], s->rows);
    if (s->head_dim_v != p->head_dim_v)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "state->head_dim_v: expected that of the call, %" PRId64
                           ", found %" PRId64, p->head_dim_v, s->head_dim_v);
    int64_t last = 0;
    bool fits = true;
    for (int i = 0; i < 3 && s->rows > 0; i++) {
        fits = fits && s->row_stride[i] >= 0 && (size[i] == 1 || s->row_stride[i] < s->rows);
        last += fits && size[i] > 1 ? (size[i] - 1) * s->row_stride[i] : 0;
        fits = fits && last < s->rows;
    }
    if (!fits)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "state->row_stride: expected rows 0 to %" PRId64 ", found strides %" PRId64 ", %" PRId64
                           ", %" PRId64, s->rows - 1, s->row_stride[0], s->row_stride[1], s->row_stride[2]);
    const flashc_tensor rows = {s->row_max, FLASHC_F32, {s->row_stride[0], s->row_stride[1], s->row_stride[2], 0}};
    return flashc_tensor_check(&(flashc_tensor_argument){
        .name = "state->rows", .tensor = &rows, .size = {size[0], size[1], size[2], 1}, .direction = FLASHC_OUTPUT,
        .types = FLASHC_TYPES_F32});
}

flashc_status flashc_attention_state_init(flashc_attention_state *state, size_t struct_size,
                                          const flashc_attention_params *params)
{
    static const double nothing[8]; /* aligned for any type */
    flashc_attention_params p;
    flashc_problem problem;
    flashc_plan plan;
    if (!state)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "state: expected a pointer, found NULL");
    if (struct_size != sizeof *state)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "struct_size: expected %zu, found %zu", sizeof *state, struct_size);
    flashc_status status = read_params(&p, params);
    if (status != FLASHC_OK)
        return status;
    const flashc_attention_state none = {.struct_size = 0};
    const flashc_tensor absent = {.data = NULL};
    p.k = (flashc_tensor){.data = (void *)(uintptr_t)nothing, .dtype = p.k.dtype, .stride = {0, 0, 0, 1}};
    p.v = (flashc_tensor){.data = (void *)(uintptr_t)nothing, .dtype = p.v.dtype, .stride = {0, 0, 0, 1}};
    p.q = (flashc_tensor){.data = (void *)(uintptr_t)nothing, .dtype = p.q.dtype};
    p.k_scale = p.v_scale = (flashc_tensor){.data = NULL};
    p.mask = p.bias = p.row_max = p.scores = p.key_mass = absent;
    if (p.k.dtype == FLASHC_I8)
        p.k_scale = (flashc_tensor){.data = (void *)(uintptr_t)nothing, .dtype = FLASHC_F32};
    if (p.v.dtype == FLASHC_I8)
        p.v_scale = (flashc_tensor){.data = (void *)(uintptr_t)nothing, .dtype = FLASHC_F32};
    p.block_table = p.block_table_v = (flashc_block_table){.pages = NULL};
    status = flashc_problem_init_chunk(&problem, &p, &none);
    problem.state = NULL; /* the plan of the one call */
    if (status == FLASHC_OK)
        status = flashc_plan_init(&plan, &problem, NULL, 0);
    if (status != FLASHC_OK)
        return status;
    const int64_t queries = p.seqlen_q;
    *state = (flashc_attention_state){
        .struct_size = sizeof *state,
        .rows = (p.cu_seqlens_q ? 1 : p.batch) * p.num_heads * queries,
        .row_stride = {p.num_heads * queries, queries, 1},
        .head_dim_v = p.head_dim_v,
        .piece_n = plan.longest_piece,
        .levels = 1,
    };
    while (capacity(state) < problem.seqlen_k)
        state->levels++;
    return FLASHC_OK;
}

flashc_status flashc_attention_state_clear(flashc_attention_state *state)
{
    if (state)
        state->n_nodes = state->next_key = 0;
    flashc_status status = check_state("state", state);
    for (int64_t node = 0; status == FLASHC_OK && node < state->levels; node++) {
        const flashc_softmax_state all = node_of(state, node);
        flashc_state_init(&all);
    }
    return status;
}

/* Scores take all of LSE, and so all keys, in one call. */
static flashc_status check_outputs(const flashc_attention_params *p)
{
    if (p->scores.data || p->key_mass.data)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s: expected NULL with a state, which does not keep scores, found %p",
                           p->scores.data ? "scores" : "key_mass", p->scores.data ? p->scores.data : p->key_mass.data);
    return FLASHC_OK;
}

static flashc_status accumulate(flashc_attention_state *state, flashc_attention_params *p)
{
    flashc_problem problem;
    flashc_plan plan;
    p->sinks = NULL;
    p->row_max.data = NULL;
    flashc_status status = check_outputs(p);
    if (status == FLASHC_OK)
        status = flashc_problem_init_chunk(&problem, p, state);
    if (status == FLASHC_OK)
        status = check_rows(state, p);
    if (status == FLASHC_OK && p->alignment == FLASHC_ALIGN_BOTTOM_RIGHT)
        status = flashc_fail(FLASHC_ERR_ARGUMENT, "alignment: expected TOP_LEFT or EXPLICIT with a chunk of the keys, "
                                                  "whose number it does not know, found BOTTOM_RIGHT");
    if (status == FLASHC_OK && p->leftpad_k)
        status = flashc_fail(FLASHC_ERR_ARGUMENT, "leftpad_k: expected NULL with a chunk of the keys, found %p",
                             (const void *)p->leftpad_k);
    if (status == FLASHC_OK && problem.seqlen_k > capacity(state) - state->next_key)
        status = flashc_fail(FLASHC_ERR_ARGUMENT,
                             "seqlen_k: expected at most %" PRId64 " more keys, for which the state has %" PRId64
                             " levels, found %" PRId64, capacity(state) - state->next_key, state->levels,
                             problem.seqlen_k);
    if (status == FLASHC_OK)
        status = flashc_scales_check(&problem);
    if (status == FLASHC_OK)
        status = flashc_plan_init(&plan, &problem, NULL, 0);
    if (status != FLASHC_OK)
        return status;
    const int64_t end = state->next_key + problem.seqlen_k;
    plan.pass = (flashc_chunk_pass){.end = state->next_key, .nodes = state->n_nodes};
    do {
        flashc_stream_next_pass(state, &plan, end);
        status = flashc_execute_plan(&problem, &plan);
        plan.pass.nodes = flashc_stream_nodes_after(state, plan.pass.begin, plan.pass.end, plan.pass.nodes);
    } while (status == FLASHC_OK && plan.pass.end < end);
    if (status == FLASHC_OK) {
        state->n_nodes = plan.pass.nodes;
        state->next_key = end;
    } else if (status == FLASHC_ERR_CANCELLED) {
        state->next_key = -1; /* some rows have the chunk, others do not */
    }
    return status;
}

flashc_status flashc_attention_accumulate(flashc_attention_state *state, const flashc_attention_params *params)
{
    flashc_attention_params p;
    flashc_status status = check_state("state", state);
    if (status == FLASHC_OK)
        status = read_params(&p, params);
    return status == FLASHC_OK ? accumulate(state, &p) : status;
}

flashc_status flashc_attention_state_merge(flashc_attention_state *into, const flashc_attention_state *from)
{
    flashc_status status = check_state("into", into);
    if (status == FLASHC_OK)
        status = check_state("from", from);
    if (status != FLASHC_OK)
        return status;
    if (into->rows != from->rows || into->head_dim_v != from->head_dim_v ||
        memcmp(into->row_stride, from->row_stride, sizeof into->row_stride) != 0)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "from: expected the rows, row_stride and head_dim_v of into (%" PRId64 " rows of %" PRId64
                           "), found others (%" PRId64 " rows of %" PRId64 ")",
                           into->rows, into->head_dim_v, from->rows, from->head_dim_v);
    if (into->rows > 0 && into->row_max == from->row_max)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "from: expected another state than into, found the same");
    const int64_t next_key = flashc_max(into->next_key, from->next_key);
    if (next_key > capacity(into))
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "from->next_key: expected at most the %" PRId64 " keys of into's levels, found %" PRId64,
                           capacity(into), from->next_key);
    const flashc_softmax_state whole = node_of(into, 0);
    if (into->n_nodes == 0 && from->n_nodes > 0)
        flashc_state_init(&whole);
    for (int64_t node = 1; node < into->n_nodes; node++) {
        const flashc_softmax_state part = node_of(into, node);
        flashc_state_merge(&whole, &part);
    }
    for (int64_t node = 0; node < from->n_nodes; node++) {
        const flashc_softmax_state part = node_of(from, node);
        flashc_state_merge(&whole, &part);
    }
    into->n_nodes = flashc_min(1, into->n_nodes + from->n_nodes);
    into->next_key = next_key;
    return FLASHC_OK;
}

/* The union of a row's nodes, from the last to the first as flashc_fold_finish() has it (a merge is the same from
 * either side), in row. */
static void fold_row(const flashc_attention_state *s, int64_t index, const flashc_softmax_state *row)
{
    flashc_state_init(row);
    for (int64_t node = s->n_nodes - 1; node >= 0; node--) {
        const flashc_softmax_state all = node_of(s, node);
        const flashc_softmax_state part = {.rows = 1,
                                           .head_dim_v = s->head_dim_v,
                                           .row_max = all.row_max + index,
                                           .row_sum = all.row_sum + index,
                                           .acc = s->head_dim_v > 0 ? all.acc + index * s->head_dim_v : NULL,
                                           .acc_row_stride = s->head_dim_v,
                                           .acc_col_stride = 1};
        flashc_state_merge(row, &part);
    }
}

static void finish_row(const flashc_problem *p, const flashc_attention_state *s, const flashc_sequence *sequence,
                       int64_t head, int64_t query, const flashc_softmax_state *row)
{
    const int64_t i = sequence->first_query + query;
    const bool padding = query >= sequence->n_queries;
    float *lse = p->lse.data ? (float *)(void *)flashc_element(&p->lse, sequence->q_element, head, i, 0) : NULL;
    float factor = 0.0f;
    if (padding) {
        flashc_state_init(row);
        if (lse)
            *lse = -INFINITY;
    } else {
        fold_row(s, row_of(s, sequence, head, query), row);
        flashc_stages_finish_row(p, head, *row->row_max, *row->row_sum, &factor, lse);
    }
    if (p->row_max.data)
        *(float *)(void *)flashc_element(&p->row_max, sequence->q_element, head, i, 0) =
            isnan(*row->row_sum) ? NAN : *row->row_max;
    for (int64_t d = 0; d < p->head_dim_v; d++)
        flashc_store_f32(flashc_element(&p->o, sequence->q_element, head, i, 0), p->o.dtype, d * p->o.stride[3],
                         row->acc[d] * factor + 0.0f);
}

flashc_status flashc_attention_finish(const flashc_attention_state *state, const flashc_attention_params *params)
{
    flashc_attention_params p;
    flashc_problem problem;
    flashc_status status = check_state("state", state);
    if (status == FLASHC_OK)
        status = read_params(&p, params);
    if (status != FLASHC_OK)
        return status;
    p.seqlen_k = 0; /* what is about keys is not looked at */
    p.k.dtype = p.v.dtype = FLASHC_F32;
    p.k.data = p.v.data = p.k_scale.data = p.v_scale.data = p.mask.data = p.bias.data = p.block_mask.data = NULL;
    p.seqlens_k = p.leftpad_k = p.cu_seqlens_k = NULL;
    p.block_table = p.block_table_v = (flashc_block_table){.pages = NULL};
    p.causal = 0;
    p.window_left = p.window_right = -1;
    p.alignment = FLASHC_ALIGN_UNSET;
    p.alibi_slopes = NULL;
    status = check_outputs(&p);
    if (status == FLASHC_OK)
        status = flashc_problem_init(&problem, &p);
    if (status == FLASHC_OK)
        status = check_rows(state, &p);
    if (status != FLASHC_OK)
        return status;
    float row_max, row_sum, *acc = malloc((size_t)(p.head_dim_v + 1) * sizeof *acc);
    if (!acc)
        return flashc_fail(FLASHC_ERR_MEMORY, "finish: could not allocate a row of %" PRId64 " floats", p.head_dim_v);
    const flashc_softmax_state row = {1, p.head_dim_v, &row_max, &row_sum, acc, p.head_dim_v, 1};
    const unsigned float_mode = flashc_cpu_default_float_mode();
    for (int64_t b = 0; b < p.batch; b++) {
        const flashc_sequence s = flashc_problem_sequence(&problem, b);
        const int64_t queries = p.cu_seqlens_q ? s.n_queries : p.seqlen_q;
        for (int64_t n = 0; n < p.num_heads * queries; n++)
            finish_row(&problem, state, &s, n / queries, n % queries, &row);
    }
    flashc_cpu_restore_float_mode(float_mode);
    free(acc);
    return FLASHC_OK;
}
