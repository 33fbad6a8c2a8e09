/* One attention problem: parameters with tensors in guarded memory of their own. */
#ifndef FLASHC_TESTS_PROBLEM_H
#define FLASHC_TESTS_PROBLEM_H

#include "flashc.h"

#include "support/memory.h"
#include "support/score_mod.h"
#include "support/values.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct problem_shape {
    int64_t batch, num_heads, num_heads_k, seqlen_q, seqlen_k, head_dim, head_dim_v;
} problem_shape;

typedef enum problem_tensor {
    TENSOR_Q,
    TENSOR_K,
    TENSOR_V,
    TENSOR_K_SCALE,
    TENSOR_V_SCALE,
    TENSOR_MASK,
    TENSOR_BIAS,
    TENSOR_BLOCK_MASK,
    TENSOR_O, /* the outputs from here on */
    TENSOR_LSE,
    TENSOR_ROW_MAX,
    TENSOR_SCORES,
    TENSOR_KEY_MASS,
    TENSORS
} problem_tensor;

/* Arrays of one number per batch element. */
typedef enum problem_array { ARRAY_OFFSETS, ARRAY_SEQLENS_Q, ARRAY_SEQLENS_K, ARRAY_LEFTPAD_K, ARRAYS } problem_array;

typedef struct problem {
    flashc_attention_params params;
    guarded_buffer buffer[TENSORS];
    unsigned char *before[TENSORS]; /* copies of the buffers, made by problem_snapshot() */
    guarded_buffer array[ARRAYS];
    guarded_buffer alibi, sinks; /* floats */
    test_score_mod mod;
    uint64_t seed;
    const char *data_kind; /* name of the distribution of q, k, v */
    const char *mask_kind, *bias_kind;
    bool zero_mean; /* the tight gate of bound.h applies */
} problem;

/* Packed [batch, heads, rows, columns] tensors with normal q, k, v of type dtype (q in f32 if that is a type of k and v
 * alone), o in f32, with lse; no mask, bias or causal. */
void problem_plain(problem *p, const problem_shape *shape, flashc_dtype dtype, uint64_t seed);

/* The same with a type for each. */
void problem_typed(problem *p, const problem_shape *shape, flashc_dtype q, flashc_dtype k, flashc_dtype v,
                   flashc_dtype o, uint64_t seed);

/* A random problem for the kernel; equal seeds give equal problems on kernels of equal block sizes.
 * Exits with a message if flashc_explain() cannot tell the kernel's block sizes. */
void problem_random(problem *p, uint64_t seed, const char *kernel);

void problem_free(problem *p);

/* A second problem on the same inputs, with outputs of its own. It must be freed before the first. */
problem problem_twin(const problem *p);
void problem_free_twin(problem *twin);

/* Gives a plain problem a packed mask (all visible) or bias (all 0) of the full size. */
void problem_add_mask(problem *p);
void problem_add_bias(problem *p, flashc_dtype dtype);
/* Gives a plain problem packed outputs: row_max and key_mass; scores at this stage. */
void problem_add_outputs(problem *p, flashc_score_stage stage, flashc_dtype scores);
/* Causal with one offset per batch element, all of them this one. */
void problem_add_causal(problem *p, int64_t offset);
/* Gives params an array of this value for each batch element, in memory of the problem. */
int64_t *problem_add_array(problem *p, problem_array which, int64_t value);
/* Gives params a packed block mask with tiles of m x n, all visible. */
void problem_add_block_mask(problem *p, int64_t m, int64_t n);
/* Gives params sinks or slopes (of each batch element, or the same for all), of 0. */
float *problem_add_sinks(problem *p);
float *problem_add_alibi(problem *p, bool per_batch);
/* Gives params a score_mod that adds this. */
void problem_add_score_mod(problem *p, double (*added)(const test_score_mod *, int64_t, int64_t, int64_t, int64_t),
                           uint64_t seed);

/* The sizes of a tensor's axes; of params without packed sequences or pages. */
void problem_sizes(const problem *p, problem_tensor which, int64_t size[4]);
void params_sizes(const flashc_attention_params *params, problem_tensor which, int64_t size[4]);
const flashc_tensor *problem_view(const problem *p, problem_tensor which);
flashc_tensor *params_view(flashc_attention_params *params, problem_tensor which);
const char *problem_tensor_name(problem_tensor which);

/* Makes the memory of a tensor for view->dtype and view->stride, and sets view->data; padding
 * between elements is NaN. */
void problem_allocate(problem *p, problem_tensor which, bool guard_start);

/* Packed strides and memory for a tensor of this type. */
void problem_pack(problem *p, problem_tensor which, flashc_dtype dtype);

/* Fills the outputs with a poison and remembers every buffer. */
void problem_snapshot(problem *p);
/* Since the snapshot: inputs are unchanged and outputs are changed in their elements only
 * (elements_too: not even there). Otherwise false and a message. */
bool problem_unharmed(const problem *p, bool elements_too, char *message, size_t size);

/* Is it a type of codes, for k and v alone? Do such k and v have scales in a tensor? */
bool is_of_codes(flashc_dtype dtype);
bool has_scales(flashc_dtype dtype);
double largest_code(flashc_dtype dtype);
/* Fills k or v, of a type of codes, and its scales, if there are any, with data of p->data_kind. */
void problem_fill_codes(problem *p, problem_tensor which, test_rng *rng);

void problem_print(FILE *stream, const problem *p);

#endif
