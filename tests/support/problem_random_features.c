/* What random problems have beside q, k and v: masks, bias, positions, lengths, score stages. */
#include "support/problem_random.h"

#include <math.h>
#include <string.h>

/* Is element (i, j) visible? pattern and block: drawn once per mask; period: tiles of keys. */
static bool random_visible(const problem *p, int64_t b, int64_t i, int64_t j, uint64_t pattern, int64_t block,
                           test_rng *rng)
{
    if (strcmp(p->mask_kind, "random") == 0)
        return test_rng_chance(rng, (int)(pattern % 99) + 1);
    if (strcmp(p->mask_kind, "sparse") == 0)
        return test_rng_int(rng, 0, p->params.seqlen_k) == 0;
    if (strcmp(p->mask_kind, "blocks") == 0) /* whole tiles hidden or visible, differently for blocks of rows */
        return (pattern >> ((j / block + 5 * (i / block)) % 64)) & 1u;
    if (strcmp(p->mask_kind, "hidden rows") == 0)
        return ((pattern >> (i % 64)) & 1u) != 0 && test_rng_chance(rng, 70);
    /* "key padding": of another length for each batch element */
    int64_t length = (int64_t)(pattern % (uint64_t)(p->params.seqlen_k + 1));
    return j < (b % 2 == 0 ? length : p->params.seqlen_k - length);
}

static void random_mask(problem *p, int64_t block, test_rng *rng)
{
    static const char *const kinds[] = {"random", "sparse", "blocks", "hidden rows", "key padding"};
    p->mask_kind = "none";
    if (!test_rng_chance(rng, 50))
        return;
    p->mask_kind = kinds[test_rng_next(rng) % 5];
    uint64_t pattern = test_rng_next(rng);
    random_layout(p, TENSOR_MASK, FLASHC_BOOL, 15, rng);
    if (strcmp(p->mask_kind, "key padding") == 0) {
        guarded_free(&p->buffer[TENSOR_MASK]);
        p->params.mask.stride[0] = p->params.seqlen_k;
        p->params.mask.stride[1] = p->params.mask.stride[2] = 0;
        p->params.mask.stride[3] = 1;
        problem_allocate(p, TENSOR_MASK, false);
    }
    const flashc_attention_params *s = &p->params;
    for (int64_t b = 0; b < s->batch; b++) {
        for (int64_t h = 0; h < s->num_heads; h++) {
            for (int64_t i = 0; i < s->seqlen_q; i++) {
                for (int64_t j = 0; j < s->seqlen_k; j++) {
                    bool visible = random_visible(p, b, i, j, pattern, block, rng);
                    /* Anything but 0 is true. */
                    *test_at(&s->mask, b, h, i, j) = (unsigned char)(visible ? test_rng_int(rng, 1, 255) : 0);
                }
            }
        }
    }
}

static void random_bias(problem *p, test_rng *rng)
{
    static const char *const kinds[] = {"normal", "large", "with -inf", "mostly -inf"};
    static const int hidden[] = {0, 0, 20, 95};
    p->bias_kind = "none";
    if (!test_rng_chance(rng, 40))
        return;
    size_t kind = test_rng_next(rng) % 4;
    p->bias_kind = kinds[kind];
    random_layout(p, TENSOR_BIAS, random_dtype(rng), 15, rng);
    const flashc_attention_params *s = &p->params;
    for (int64_t b = 0; b < s->batch; b++) {
        for (int64_t h = 0; h < s->num_heads; h++) {
            for (int64_t i = 0; i < s->seqlen_q; i++) {
                for (int64_t j = 0; j < s->seqlen_k; j++) {
                    double x = test_rng_normal(rng) * (kind == 1 ? 100.0 : 2.0);
                    test_set(&s->bias, b, h, i, j, test_rng_chance(rng, hidden[kind]) ? -(double)INFINITY : x);
                }
            }
        }
    }
}

static void random_position(problem *p, test_rng *rng)
{
    static const int64_t extremes[] = {0, INT64_MAX, INT64_MIN, (int64_t)1 << 40, -((int64_t)1 << 40), -1};
    flashc_attention_params *s = &p->params;
    s->causal = test_rng_chance(rng, 40);
    if (test_rng_chance(rng, 30))
        s->window_left = test_rng_chance(rng, 8) ? INT64_MAX : test_rng_int(rng, 0, s->seqlen_k);
    if (test_rng_chance(rng, 20))
        s->window_right = test_rng_chance(rng, 8) ? INT64_MAX : test_rng_int(rng, 0, s->seqlen_k / 2);
    const bool needed = s->causal || s->window_left >= 0 || s->window_right >= 0;
    s->alignment = (flashc_alignment)test_rng_int(rng, needed ? FLASHC_ALIGN_TOP_LEFT : FLASHC_ALIGN_UNSET,
                                                  FLASHC_ALIGN_EXPLICIT);
    if (s->alignment != FLASHC_ALIGN_EXPLICIT)
        return;
    int64_t *offsets = problem_add_array(p, ARRAY_OFFSETS, 0);
    for (int64_t b = 0; b < s->batch; b++)
        offsets[b] = test_rng_chance(rng, 25) ? random_pick(rng, extremes, 6)
                                              : test_rng_int(rng, -s->seqlen_q - 2, s->seqlen_k + 2);
}

/* Lengths of the batch elements, most of them long enough for several tiles to be left. */
static void random_lengths(problem *p, test_rng *rng)
{
    flashc_attention_params *s = &p->params;
    int64_t *seqlens_q = test_rng_chance(rng, 20) ? problem_add_array(p, ARRAY_SEQLENS_Q, s->seqlen_q) : NULL;
    int64_t *seqlens_k = test_rng_chance(rng, 25) ? problem_add_array(p, ARRAY_SEQLENS_K, s->seqlen_k) : NULL;
    int64_t *leftpad_k = test_rng_chance(rng, 20) ? problem_add_array(p, ARRAY_LEFTPAD_K, 0) : NULL;
    for (int64_t b = 0; b < s->batch; b++) {
        if (seqlens_q != NULL && test_rng_chance(rng, 80))
            seqlens_q[b] = test_rng_int(rng, test_rng_chance(rng, 20) ? 0 : s->seqlen_q / 2, s->seqlen_q);
        if (seqlens_k != NULL && test_rng_chance(rng, 80))
            seqlens_k[b] = test_rng_int(rng, test_rng_chance(rng, 20) ? 0 : s->seqlen_k / 2, s->seqlen_k);
        const int64_t keys = seqlens_k != NULL ? seqlens_k[b] : s->seqlen_k;
        if (leftpad_k != NULL && test_rng_chance(rng, 80))
            leftpad_k[b] = test_rng_int(rng, 0, test_rng_chance(rng, 20) ? keys : keys / 3);
    }
}

/* Tiles around the plan's own, hidden at random; sometimes broadcast along an axis. */
static void random_block_mask(problem *p, int64_t block_m, int64_t block_n, test_rng *rng)
{
    flashc_attention_params *s = &p->params;
    if (!test_rng_chance(rng, 15))
        return;
    const int64_t shrink = test_rng_int(rng, 1, 4);
    s->block_mask_m = test_rng_chance(rng, 50) ? 64 : test_rng_int(rng, 1 + block_m / shrink / 2, 2 * block_m + 1);
    s->block_mask_n = test_rng_chance(rng, 50) ? 64 : test_rng_int(rng, 1 + block_n / shrink / 2, 2 * block_n + 1);
    random_layout(p, TENSOR_BLOCK_MASK, FLASHC_BOOL, 15, rng);
    int64_t size[4];
    problem_sizes(p, TENSOR_BLOCK_MASK, size);
    for (int64_t n = 0; n < size[0] * size[1] * size[2] * size[3]; n++) {
        const int64_t j = n % size[3], i = n / size[3] % size[2], h = n / size[3] / size[2] % size[1];
        *test_at(&s->block_mask, n / size[3] / size[2] / size[1], h, i, j) =
            (unsigned char)(test_rng_chance(rng, 60) ? test_rng_int(rng, 1, 255) : 0);
    }
}

/* Softcap, ALiBi, score_mod and sinks. */
static void random_stages(problem *p, test_rng *rng)
{
    static const float caps[] = {0.5f, 5.0f, 20.0f, 50.0f, 1e6f};
    flashc_attention_params *s = &p->params;
    if (test_rng_chance(rng, 25))
        s->softcap = caps[test_rng_next(rng) % 5];
    if (s->alignment != FLASHC_ALIGN_UNSET && test_rng_chance(rng, 35)) {
        /* Of far positions slopes are small: the bound is one of errors in the scores that are small. */
        double farthest = 1.0;
        for (int64_t b = 0; s->alignment == FLASHC_ALIGN_EXPLICIT && b < s->batch; b++)
            farthest = fmax(farthest, fabs((double)s->offsets[b]) / 4096.0);
        const bool per_batch = test_rng_chance(rng, 30);
        float *slopes = problem_add_alibi(p, per_batch);
        for (int64_t n = 0; n < s->num_heads * (per_batch ? s->batch : 1); n++)
            slopes[n] = (float)(ldexp(test_rng_chance(rng, 20) ? -1.0 : 1.0, -(int)test_rng_int(rng, 1, 8)) / farthest);
    }
    if (test_rng_chance(rng, 15))
        problem_add_score_mod(p, test_rng_chance(rng, 50) ? test_score_mod_wave : test_score_mod_documents,
                              test_rng_next(rng));
    float *sinks = test_rng_chance(rng, 20) ? problem_add_sinks(p) : NULL;
    for (int64_t h = 0; sinks != NULL && h < s->num_heads; h++)
        sinks[h] = test_rng_chance(rng, 10) ? -INFINITY : (float)(10.0 * test_rng_normal(rng));
}

void random_features(problem *p, int64_t pattern_n, int64_t block_m, int64_t block_n, test_rng *rng)
{
    random_mask(p, pattern_n, rng);
    random_bias(p, rng);
    random_position(p, rng);
    random_lengths(p, rng);
    random_block_mask(p, block_m, block_n, rng);
    random_stages(p, rng);
}

void random_outputs(problem *p, test_rng *rng)
{
    const bool lse = test_rng_chance(rng, 85);
    if (lse)
        random_layout(p, TENSOR_LSE, FLASHC_F32, 0, rng);
    if (test_rng_chance(rng, 15))
        random_layout(p, TENSOR_ROW_MAX, FLASHC_F32, 0, rng);
    if (lse && test_rng_chance(rng, 10))
        random_layout(p, TENSOR_KEY_MASS, FLASHC_F32, 0, rng);
    if (test_rng_chance(rng, 15)) {
        p->params.scores_stage =
            (flashc_score_stage)test_rng_int(rng, 0, lse ? FLASHC_SCORES_WEIGHTS : FLASHC_SCORES_MASKED);
        random_layout(p, TENSOR_SCORES, random_dtype(rng), 0, rng);
    }
}
