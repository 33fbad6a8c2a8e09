/*
 * A checked call: every size, stride, position and pointer resolved and valid. All later stages take
 * a problem and check nothing again.
 */
#ifndef FLASHC_PROBLEM_H
#define FLASHC_PROBLEM_H

#include "tensor.h"

typedef struct flashc_problem {
    int64_t batch, num_heads, num_heads_k, seqlen_q, seqlen_k, head_dim, head_dim_v;
    int64_t group; /* query heads per K/V head */
    flashc_tensor q, k, v, o, lse, mask, bias;
    float softmax_scale;
    bool causal;
    flashc_alignment alignment;
    const int64_t *offsets;
    int64_t window_left, window_right; /* < 0: open */
    const int64_t *seqlens_q, *seqlens_k, *leftpad_k; /* NULL: not given */
    int num_threads;    /* 0: default */
    const char *kernel; /* NULL: best */
    void *workspace;    /* NULL: allocate */
    size_t workspace_size;
    flashc_progress_fn progress;
    void *progress_user_data;
} flashc_problem;

/* Checks params (argument by argument, see flashc.h) and resolves them. */
flashc_status flashc_problem_init(flashc_problem *problem, const flashc_attention_params *params);

/* What one batch element is: how many queries and keys it has, and where they lie. */
typedef struct flashc_sequence {
    int64_t n_queries, n_keys;
    int64_t first_key; /* row of k and v, and column of mask and bias, that key 0 is */
    int64_t offset;    /* position of query 0, where key j is at j */
} flashc_sequence;

flashc_sequence flashc_problem_sequence(const flashc_problem *problem, int64_t batch);

/* Are all batch elements alike? */
bool flashc_problem_is_uniform(const flashc_problem *problem);

/* Checks everything in params that is per sequence: alignment, window and lengths. */
flashc_status flashc_sequences_check(const flashc_attention_params *params);

#endif
