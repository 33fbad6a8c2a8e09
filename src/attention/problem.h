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
    int num_threads;    /* 0: default */
    const char *kernel; /* NULL: best */
    void *workspace;    /* NULL: allocate */
    size_t workspace_size;
    flashc_progress_fn progress;
    void *progress_user_data;
} flashc_problem;

/* Checks params (argument by argument, see flashc.h) and resolves them. */
flashc_status flashc_problem_init(flashc_problem *problem, const flashc_attention_params *params);

/* Position of query 0 of a batch element. */
int64_t flashc_problem_offset(const flashc_problem *problem, int64_t batch);

#endif
