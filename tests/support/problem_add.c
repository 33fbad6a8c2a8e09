/* What a plain problem can be given besides q, k, v and o. */
#include "support/problem.h"

#include <string.h>

/* Of a packed tensor. */
static void fill(problem *p, problem_tensor which, int byte)
{
    memset(p->buffer[which].bytes, byte, p->buffer[which].size);
}

void problem_add_mask(problem *p)
{
    problem_pack(p, TENSOR_MASK, FLASHC_BOOL);
    fill(p, TENSOR_MASK, 1);
}

void problem_add_bias(problem *p, flashc_dtype dtype)
{
    problem_pack(p, TENSOR_BIAS, dtype);
    fill(p, TENSOR_BIAS, 0);
}

void problem_add_block_mask(problem *p, int64_t m, int64_t n)
{
    p->params.block_mask_m = m;
    p->params.block_mask_n = n;
    problem_pack(p, TENSOR_BLOCK_MASK, FLASHC_BOOL);
    fill(p, TENSOR_BLOCK_MASK, 1);
}

void problem_add_outputs(problem *p, flashc_score_stage stage, flashc_dtype scores)
{
    problem_pack(p, TENSOR_ROW_MAX, FLASHC_F32);
    problem_pack(p, TENSOR_KEY_MASS, FLASHC_F32);
    problem_pack(p, TENSOR_SCORES, scores);
    p->params.scores_stage = stage;
    problem_snapshot(p);
}

static float *add_floats(guarded_buffer *buffer, int64_t count)
{
    guarded_free(buffer);
    *buffer = guarded_alloc((size_t)count * sizeof(float), false);
    memset(buffer->bytes, 0, buffer->size);
    return (float *)(void *)buffer->bytes;
}

float *problem_add_sinks(problem *p)
{
    float *sinks = add_floats(&p->sinks, p->params.num_heads);
    p->params.sinks = sinks;
    return sinks;
}

float *problem_add_alibi(problem *p, bool per_batch)
{
    p->params.alibi_batch_stride = per_batch ? p->params.num_heads : 0;
    float *slopes = add_floats(&p->alibi, p->params.num_heads * (per_batch ? p->params.batch : 1));
    p->params.alibi_slopes = slopes;
    return slopes;
}

void problem_add_score_mod(problem *p, double (*added)(const test_score_mod *, int64_t, int64_t, int64_t, int64_t),
                           uint64_t seed)
{
    p->mod = (test_score_mod){.added = added, .seed = seed};
    p->params.score_mod = test_score_mod_apply;
    p->params.score_mod_user_data = &p->mod;
}

int64_t *problem_add_array(problem *p, problem_array which, int64_t value)
{
    const int64_t **const fields[ARRAYS] = {&p->params.offsets, &p->params.seqlens_q, &p->params.seqlens_k,
                                            &p->params.leftpad_k};
    guarded_free(&p->array[which]);
    p->array[which] = guarded_alloc((size_t)p->params.batch * sizeof value, false);
    int64_t *array = (int64_t *)(void *)p->array[which].bytes;
    for (int64_t b = 0; b < p->params.batch; b++)
        array[b] = value;
    *fields[which] = array;
    return array;
}

void problem_add_causal(problem *p, int64_t offset)
{
    problem_add_array(p, ARRAY_OFFSETS, offset);
    p->params.causal = 1;
    p->params.alignment = FLASHC_ALIGN_EXPLICIT;
}
