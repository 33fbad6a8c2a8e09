#include "attention/check.h"

#include "attention/check_sequences.h"
#include "attention/lengths.h"
#include "cache/rows.h"
#include "params.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>

static flashc_status check_sizes(const flashc_attention_params *p)
{
    const struct {
        const char *name;
        int64_t value, low;
    } sizes[] = {
        {"batch", p->batch, 0},       {"num_heads", p->num_heads, 0}, {"num_heads_k", p->num_heads_k, 0},
        {"seqlen_q", p->seqlen_q, 0}, {"seqlen_k", p->seqlen_k, 0},   {"head_dim", p->head_dim, 1},
        {"head_dim_v", p->head_dim_v, 0},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        flashc_status status = flashc_params_check_size(sizes[i].name, sizes[i].value, sizes[i].low);
        if (status != FLASHC_OK)
            return status;
    }
    if (p->num_heads_k == 0 ? p->num_heads != 0 : p->num_heads % p->num_heads_k != 0)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "num_heads: expected a multiple of num_heads_k, found %" PRId64 " query heads and %" PRId64
                           " K/V heads",
                           p->num_heads, p->num_heads_k);
    /* Of an empty batch too: what is planned from heads and rows does not look at it. */
    int64_t rows;
    if (__builtin_mul_overflow(flashc_max(1, p->batch), p->num_heads, &rows) ||
        __builtin_mul_overflow(rows, p->seqlen_q, &rows) || rows > FLASHC_SIZE_LIMIT)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "batch, num_heads, seqlen_q: expected at most 2^48 query rows, found %" PRId64 " * %" PRId64
                           " * %" PRId64,
                           p->batch, p->num_heads, p->seqlen_q);
    int64_t heads_k;
    if (__builtin_mul_overflow(p->batch, p->num_heads_k, &heads_k) || heads_k > FLASHC_SIZE_LIMIT)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "batch, num_heads_k: expected at most 2^48 K/V heads, found %" PRId64 " * %" PRId64,
                           p->batch, p->num_heads_k);
    return FLASHC_OK;
}

/* Of arrays of numbers; the tensors and block tables come later. */
static flashc_status check_addresses(const flashc_attention_params *p)
{
    const struct {
        const char *name;
        const void *array;
        size_t size;
    } arrays[] = {
        {"offsets", p->offsets, sizeof *p->offsets},
        {"seqlens_q", p->seqlens_q, sizeof *p->seqlens_q},
        {"seqlens_k", p->seqlens_k, sizeof *p->seqlens_k},
        {"leftpad_k", p->leftpad_k, sizeof *p->leftpad_k},
        {"cu_seqlens_q", p->cu_seqlens_q, sizeof *p->cu_seqlens_q},
        {"cu_seqlens_k", p->cu_seqlens_k, sizeof *p->cu_seqlens_k},
        {"alibi_slopes", p->alibi_slopes, sizeof *p->alibi_slopes},
        {"sinks", p->sinks, sizeof *p->sinks},
    };
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        if ((uintptr_t)arrays[i].array % arrays[i].size != 0)
            return flashc_fail(FLASHC_ERR_ARGUMENT, "%s: expected an address aligned to %zu bytes, found %p",
                               arrays[i].name, arrays[i].size, arrays[i].array);
    return FLASHC_OK;
}

static flashc_status check_options(const flashc_attention_params *p)
{
    if (p->softmax_scale != FLASHC_SCALE_DEFAULT && !isfinite(p->softmax_scale))
        return flashc_fail(FLASHC_ERR_ARGUMENT, "softmax_scale: expected a finite value, found %f",
                           (double)p->softmax_scale);
    if ((int)p->compute < FLASHC_COMPUTE_DEFAULT || p->compute > FLASHC_COMPUTE_BF16)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "compute: expected a flashc_compute (0 to 2), found %d",
                           (int)p->compute);
    if (p->num_threads < 0)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "num_threads: expected 0 (default) or more, found %d", p->num_threads);
    if (p->block_mask.data && (p->block_mask_m < 1 || p->block_mask_n < 1))
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s: expected at least 1 with a block mask, found %" PRId64,
                           p->block_mask_m < 1 ? "block_mask_m" : "block_mask_n",
                           p->block_mask_m < 1 ? p->block_mask_m : p->block_mask_n);
    if ((int)p->scores_stage < FLASHC_SCORES_SCALED || p->scores_stage > FLASHC_SCORES_WEIGHTS)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "scores_stage: expected a flashc_score_stage (0 to 3), found %d",
                           (int)p->scores_stage);
    const bool weights = p->scores.data && p->scores_stage == FLASHC_SCORES_WEIGHTS;
    if ((weights || p->key_mass.data) && !p->lse.data && p->seqlen_q > 0)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "lse: expected an output beside %s, which is made from it, found NULL",
                           weights ? "scores of FLASHC_SCORES_WEIGHTS" : "key_mass");
    return FLASHC_OK;
}

/* What the stages of the scores take, tensors apart. */
static flashc_status check_stages(const flashc_attention_params *p)
{
    if (p->softcap != 0.0f && !(p->softcap >= FLT_MIN && p->softcap <= FLT_MAX))
        return flashc_fail(FLASHC_ERR_ARGUMENT, "softcap: expected 0 (none) or a positive normal number, found %g",
                           (double)p->softcap);
    if (p->alibi_slopes && p->alibi_batch_stride != 0 && p->alibi_batch_stride != p->num_heads)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "alibi_batch_stride: expected 0 or num_heads (%" PRId64 "), found %" PRId64, p->num_heads,
                           p->alibi_batch_stride);
    const int64_t slopes = p->alibi_batch_stride == 0 ? p->num_heads : p->batch * p->num_heads;
    for (int64_t i = 0; p->alibi_slopes && i < slopes; i++)
        if (!isfinite(p->alibi_slopes[i]))
            return flashc_fail(FLASHC_ERR_ARGUMENT, "alibi_slopes[%" PRId64 "]: expected a finite value, found %g", i,
                               (double)p->alibi_slopes[i]);
    for (int64_t i = 0; p->sinks && i < p->num_heads; i++)
        if (!(p->sinks[i] <= FLT_MAX))
            return flashc_fail(FLASHC_ERR_ARGUMENT,
                               "sinks[%" PRId64 "]: expected a finite value, or -inf for none, found %g", i,
                               (double)p->sinks[i]);
    return FLASHC_OK;
}

/* k or v or their scales, in one array or in pages. */
static flashc_tensor_argument rows_argument(const char *name, const flashc_tensor *tensor, const flashc_block_table *t,
                                            const flashc_attention_params *p, int64_t cols, flashc_types types)
{
    const int64_t elements = t->pages ? t->num_pages : p->cu_seqlens_k ? 1 : p->batch;
    return (flashc_tensor_argument){.name = name,
                                    .tensor = tensor,
                                    .size = {elements, p->num_heads_k, t->pages ? t->page_size : p->seqlen_k, cols},
                                    .types = types};
}

/* outputs: as in flashc_check_attention(). first_key: position of the first row of k. */
static flashc_status check_tensors(const flashc_attention_params *p, bool outputs, int64_t first_key)
{
    const flashc_block_table *table_v = flashc_cache_table_v(&p->block_table, &p->block_table_v);
    const int64_t elements = p->cu_seqlens_q ? 1 : p->batch;
    const int64_t longest_q = flashc_lengths_longest(p->cu_seqlens_q, p->batch, p->seqlen_q);
    const int64_t longest_k = flashc_lengths_longest(p->cu_seqlens_k, p->batch, p->seqlen_k);
    const int64_t mask_m = flashc_max(1, p->block_mask_m), mask_n = flashc_max(1, p->block_mask_n);
    const flashc_tensor_argument arguments[] = {
        {"q", &p->q, {elements, p->num_heads, p->seqlen_q, p->head_dim}, FLASHC_INPUT, FLASHC_TYPES_FLOAT},
        rows_argument("k", &p->k, &p->block_table, p, p->head_dim, FLASHC_TYPES_CACHE),
        rows_argument("v", &p->v, table_v, p, p->head_dim_v, FLASHC_TYPES_CACHE),
        rows_argument("k_scale", &p->k_scale, &p->block_table, p, 1, FLASHC_TYPES_F32),
        rows_argument("v_scale", &p->v_scale, table_v, p, 1, FLASHC_TYPES_F32),
        {"mask", &p->mask, {elements, p->num_heads, p->seqlen_q, p->seqlen_k}, FLASHC_INPUT, FLASHC_TYPES_BOOL},
        {"bias", &p->bias, {elements, p->num_heads, p->seqlen_q, p->seqlen_k}, FLASHC_INPUT, FLASHC_TYPES_FLOAT},
        {"block_mask",
         &p->block_mask,
         {p->batch, p->num_heads, flashc_ceil_div(longest_q, mask_m), flashc_ceil_div(first_key + longest_k, mask_n)},
         FLASHC_INPUT,
         FLASHC_TYPES_BOOL},
        {"lse", &p->lse, {elements, p->num_heads, p->seqlen_q, 1}, FLASHC_OUTPUT, FLASHC_TYPES_F32},
        {"row_max", &p->row_max, {elements, p->num_heads, p->seqlen_q, 1}, FLASHC_OUTPUT, FLASHC_TYPES_F32},
        {"scores", &p->scores, {elements, p->num_heads, p->seqlen_q, p->seqlen_k}, FLASHC_OUTPUT, FLASHC_TYPES_FLOAT},
        {"key_mass",
         &p->key_mass,
         {p->cu_seqlens_k ? 1 : p->batch, p->num_heads, p->seqlen_k, 1},
         FLASHC_OUTPUT,
         FLASHC_TYPES_F32},
        {"o", &p->o, {elements, p->num_heads, p->seqlen_q, p->head_dim_v}, FLASHC_OUTPUT, FLASHC_TYPES_FLOAT},
    };
    enum { K = 1, V = 2, COUNT = sizeof arguments / sizeof arguments[0] };
    for (int i = 0; i < COUNT; i++) {
        const flashc_tensor_argument *a = &arguments[i];
        const flashc_tensor *t = a->tensor;
        const bool optional = t != &p->q && t != &p->k && t != &p->v && t != &p->o;
        if ((optional && !t->data) || (a->direction == FLASHC_OUTPUT && !outputs && t != &p->scores))
            continue;
        flashc_status status = flashc_tensor_check(a);
        if (status != FLASHC_OK)
            return status;
        for (int j = 0; j < i && a->direction == FLASHC_OUTPUT; j++) {
            status = flashc_tensor_check_apart(a, &arguments[j]);
            if (status != FLASHC_OK)
                return status;
        }
    }
    const flashc_status status = flashc_cache_check_scale_given("k_scale", &p->k_scale, &arguments[K]);
    return status == FLASHC_OK ? flashc_cache_check_scale_given("v_scale", &p->v_scale, &arguments[V]) : status;
}

flashc_status flashc_check_attention(const flashc_attention_params *params, const flashc_attention_state *state,
                                     bool outputs)
{
    flashc_status status = check_sizes(params);
    if (status == FLASHC_OK)
        status = check_addresses(params);
    if (status == FLASHC_OK)
        status = flashc_check_sequences(params, state);
    if (status == FLASHC_OK)
        status = check_options(params);
    if (status == FLASHC_OK)
        status = check_stages(params);
    return status == FLASHC_OK ? check_tensors(params, outputs, state ? state->next_key : 0) : status;
}
