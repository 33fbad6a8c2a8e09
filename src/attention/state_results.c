/* The calls by which states of some keys become results: merged into one, and finished. */
#include "attention/problem.h"
#include "attention/stages.h"
#include "attention/state.h"
#include "attention/state_check.h"
#include "cpu.h"
#include "numerics.h"
#include "softmax/state.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A state's nodes from `first` on, to a state of all rows. */
static void merge_nodes(const flashc_softmax_state *whole, const flashc_attention_state *state, int64_t first)
{
    for (int64_t node = first; node < state->n_nodes; node++) {
        const flashc_softmax_state part = flashc_attention_state_node(state, node);
        flashc_state_merge(whole, &part);
    }
}

flashc_status flashc_attention_state_merge(flashc_attention_state *into, const flashc_attention_state *from)
{
    flashc_status status = flashc_attention_state_check_state("into", into);
    if (status == FLASHC_OK)
        status = flashc_attention_state_check_state("from", from);
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
    if (next_key > flashc_attention_state_capacity(into))
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "from->next_key: expected at most the %" PRId64 " keys of into's levels, found %" PRId64,
                           flashc_attention_state_capacity(into), from->next_key);
    const flashc_softmax_state whole = flashc_attention_state_node(into, 0);
    FLASHC_IN_DEFAULT_FLOAT_MODE;
    if (into->n_nodes == 0 && from->n_nodes > 0)
        flashc_state_init(&whole);
    merge_nodes(&whole, into, 1);
    merge_nodes(&whole, from, 0);
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
        flashc_softmax_state part = flashc_attention_state_node(s, node);
        part.rows = 1;
        part.row_max += index;
        part.row_sum += index;
        part.acc = part.acc ? part.acc + index * part.acc_row_stride : NULL;
        flashc_state_merge(row, &part);
    }
}

/* Where lse or row_max has its number for row i; NULL if it is not wanted. */
static float *output_at(const flashc_tensor *output, const flashc_sequence *sequence, int64_t head, int64_t i)
{
    return output->data ? (float *)(void *)flashc_element(output, sequence->q_element, head, i, 0) : NULL;
}

static void finish_row(const flashc_problem *p, const flashc_attention_state *s, const flashc_sequence *sequence,
                       int64_t head, int64_t query, const flashc_softmax_state *row)
{
    const int64_t i = sequence->first_query + query;
    const bool padding = query >= sequence->n_queries;
    float *lse = output_at(&p->lse, sequence, head, i), *row_max = output_at(&p->row_max, sequence, head, i);
    float factor = 0.0f;
    if (padding) {
        flashc_state_init(row);
        if (lse)
            *lse = -INFINITY;
        if (row_max)
            *row_max = -INFINITY;
    } else {
        fold_row(s, flashc_attention_state_row(s, sequence, head, query), row);
        flashc_stages_finish_row(p, head, *row->row_max, *row->row_sum, &factor, lse, row_max);
    }
    for (int64_t d = 0; d < p->head_dim_v; d++)
        flashc_store_f32(flashc_element(&p->o, sequence->q_element, head, i, 0), p->o.dtype, d * p->o.stride[3],
                         row->acc[d] * factor + 0.0f);
}

flashc_status flashc_attention_finish(const flashc_attention_state *state, const flashc_attention_params *params)
{
    flashc_attention_params p;
    flashc_problem problem;
    flashc_status status = flashc_attention_state_read_call(&p, state, params);
    if (status != FLASHC_OK)
        return status;
    p.seqlen_k = 0; /* what is about keys is not looked at */
    p.k.dtype = p.v.dtype = FLASHC_F32;
    p.k.data = p.v.data = p.k_scale.data = p.v_scale.data = p.mask.data = p.bias.data = p.block_mask.data = NULL;
    p.seqlens_k = p.leftpad_k = p.cu_seqlens_k = NULL;
    p.block_table = p.block_table_v = (flashc_block_table){.pages = NULL};
    flashc_problem_forget_positions(&p);
    p.window_left = p.window_right = -1;
    p.alibi_slopes = NULL;
    status = flashc_attention_state_check_outputs(&p);
    p.scores.data = NULL; /* of a chunk */
    if (status == FLASHC_OK)
        status = flashc_problem_init(&problem, &p);
    if (status == FLASHC_OK)
        status = flashc_attention_state_check_rows(state, &p);
    if (status != FLASHC_OK)
        return status;
    float row_max, row_sum, *acc = malloc((size_t)(p.head_dim_v + 1) * sizeof *acc);
    if (!acc)
        return flashc_fail(FLASHC_ERR_MEMORY, "finish: could not allocate a row of %" PRId64 " floats", p.head_dim_v);
    const flashc_softmax_state row = {1, p.head_dim_v, &row_max, &row_sum, acc, p.head_dim_v, 1};
    FLASHC_IN_DEFAULT_FLOAT_MODE;
    for (int64_t b = 0; b < p.batch; b++) {
        const flashc_sequence s = flashc_problem_sequence(&problem, b);
        const int64_t queries = p.cu_seqlens_q ? s.n_queries : p.seqlen_q;
        for (int64_t n = 0; n < p.num_heads * queries; n++)
            finish_row(&problem, state, &s, n / queries, n % queries, &row);
    }
    free(acc);
    return FLASHC_OK;
}
