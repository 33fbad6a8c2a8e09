/* Attention as a person reads it, in float64: for each query row three plain passes over all keys
 * (scores; max and sum; weighted sum of V). No tiles, no online softmax, no code of the library. */
#ifndef FLASHC_TESTS_ORACLE_H
#define FLASHC_TESTS_ORACLE_H

#include "flashc.h"

#include <stdint.h>

typedef struct oracle {
    int64_t rows;       /* batch * num_heads * seqlen_q */
    int64_t head_dim_v;
    double *o;          /* [rows, head_dim_v] */
    double *lse;        /* [rows] */
    double *weighted_v; /* [rows, head_dim_v]: sum_j p_j |v_j|, of the error bound */
    double *magnitude;  /* [rows]: A of the error bound, as flashc.h has it */
    double *max_v;      /* [rows]: max |v| over visible keys and all columns, of what is finite */
    double *scores;     /* [rows, seqlen_k]: as softmax takes them, -inf where hidden */
    /* [rows, seqlen_k], for scores at a stage before the masks: as that stage has them, and what their error goes by;
     * -inf where there is no query or no key */
    double *early, *early_magnitude;
    int64_t *visible;   /* [rows]: number of visible keys */
    /* [rows, head_dim_v]: 1 where a visible row of V holds NaN or infinity in this column: O is then
     * only known not to be finite, because a tiny p may be 0 in f32 and 0 * infinity is NaN. */
    unsigned char *special_v;
} oracle;

/* Reads all inputs of params, which must be valid, and of its outputs whether there are scores, and their stage. A
 * score_mod must be test_score_mod_apply() with a test_score_mod. */
void oracle_attention(const flashc_attention_params *params, oracle *result);
void oracle_free(oracle *result);

#endif
