/*
 * A checked call: every size, stride, position and pointer resolved and valid. All later stages take
 * a problem and check nothing again.
 */
#ifndef FLASHC_PROBLEM_H
#define FLASHC_PROBLEM_H

#include "cache/rows.h"
#include "tensor.h"

typedef struct flashc_problem {
    int64_t batch, num_heads, num_heads_k, head_dim, head_dim_v;
    int64_t seqlen_q, seqlen_k; /* no sequence has more */
    int64_t group; /* query heads per K/V head */
    flashc_cache_rows k, v;
    flashc_tensor q, o, lse, row_max, scores, key_mass, mask, block_mask, bias;
    flashc_score_stage scores_stage;
    int64_t block_mask_m, block_mask_n; /* 0: no block mask */
    float softmax_scale, softcap;       /* softcap 0: none */
    const float *alibi_slopes, *sinks;
    int64_t alibi_batch_stride;
    flashc_score_mod_fn score_mod;
    void *score_mod_user_data;
    bool causal;
    flashc_alignment alignment;
    const int64_t *offsets;
    int64_t window_left, window_right; /* < 0: open */
    const int64_t *seqlens_q, *seqlens_k, *leftpad_k, *cu_seqlens_q, *cu_seqlens_k; /* NULL: not given */
    int num_threads;    /* 0: default */
    const char *kernel; /* NULL: best */
    flashc_compute compute;
    void *workspace;    /* NULL: allocate */
    size_t workspace_size;
    flashc_progress_fn progress;
    void *progress_user_data;
    const flashc_attention_state *state; /* NULL, or what the result goes to instead of o and lse, see state.h */
} flashc_problem;

/* A copy of the caller's params, which may be of another version; nothing is checked but that. */
flashc_status flashc_problem_read_params(flashc_attention_params *ours, const flashc_attention_params *params);

/* A call in which queries have no positions: nothing is hidden by them. */
static inline void flashc_problem_forget_positions(flashc_attention_params *params)
{
    params->causal = 0;
    params->alignment = FLASHC_ALIGN_UNSET;
    params->offsets = NULL;
}

/* Checks params (argument by argument, see flashc.h) and resolves them. */
flashc_status flashc_problem_init(flashc_problem *problem, const flashc_attention_params *params);

/* The same for a chunk of keys that goes to a valid state, or (state NULL) for a call without outputs. Of the outputs
 * only scores are checked and used. */
flashc_status flashc_problem_init_chunk(flashc_problem *problem, const flashc_attention_params *params,
                                        const flashc_attention_state *state);

/* What one batch element, or packed sequence, is: how many queries and keys it has, and where they lie. */
typedef struct flashc_sequence {
    int64_t n_queries, n_keys;
    int64_t q_element, first_query; /* of q, o, lse, mask and bias: element of the batch axis; row that query 0 is */
    int64_t k_element, first_key;   /* of k and v the same (the element is the block table's if there is one);
                                       first_key is a column of mask and bias too */
    int64_t begin_key; /* keys before it are not in this call: 0, but for chunks */
    int64_t leftpad;   /* row of the one call that is key 0 */
    int64_t offset;    /* position of query 0, where key j is at j */
} flashc_sequence;

flashc_sequence flashc_problem_sequence(const flashc_problem *problem, int64_t batch);

/* Are all batch elements alike? */
bool flashc_problem_is_uniform(const flashc_problem *problem);

#endif
