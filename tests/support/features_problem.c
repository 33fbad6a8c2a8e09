/* From a row of levels to a problem. */
#include "support/features.h"

#include <math.h>
#include <string.h>

static const flashc_dtype floats[] = {FLASHC_F32, FLASHC_F16, FLASHC_BF16};
static const flashc_dtype caches[] = {FLASHC_F32,     FLASHC_F16,     FLASHC_BF16, FLASHC_I8,
                                      FLASHC_F8_E4M3, FLASHC_F8_E5M2, FLASHC_Q8_0};
static const int64_t heads[][2] = {{1, 1}, {2, 2}, {4, 2}, {3, 1}};
static const int64_t dims[][2] = {{64, 64}, {64, 96}, {96, 64}, {37, 21}};

/* Of a type of codes, the level says how its scales lie: one for each row, one for each head, or none. */
typedef enum scales { SCALES_NONE, SCALES_ROW, SCALES_HEAD } scales;
static const scales k_scales[] = {[3] = SCALES_ROW, [4] = SCALES_HEAD, [6] = SCALES_NONE};
static const scales v_scales[] = {[3] = SCALES_HEAD, [5] = SCALES_ROW, [6] = SCALES_NONE};

static void lay_out(problem *p, problem_tensor which, flashc_dtype dtype, test_layout layout)
{
    flashc_tensor *view = params_view(&p->params, which);
    int64_t size[4];
    problem_sizes(p, which, size);
    view->dtype = dtype;
    layout_strides(view, size, layout);
    problem_allocate(p, which, layout == LAYOUT_REVERSED);
}

static void fill_normal(problem *p, problem_tensor which, double deviation, int percent_hidden, test_rng *rng)
{
    int64_t size[4];
    problem_sizes(p, which, size);
    for (int64_t n = 0; n < size[0] * size[1] * size[2] * size[3]; n++) {
        const double x = deviation * test_rng_normal(rng);
        test_set(problem_view(p, which), n / size[3] / size[2] / size[1], n / size[3] / size[2] % size[1],
                 n / size[3] % size[2], n % size[3], test_rng_chance(rng, percent_hidden) ? -(double)INFINITY : x);
    }
}

static void make_keys(problem *p, problem_tensor which, flashc_dtype dtype, scales how, test_layout layout,
                      test_rng *rng)
{
    const problem_tensor scale = which == TENSOR_K ? TENSOR_K_SCALE : TENSOR_V_SCALE;
    lay_out(p, which, dtype, layout);
    if (how != SCALES_NONE)
        lay_out(p, scale, FLASHC_F32, layout == LAYOUT_BSHD ? LAYOUT_BSHD : LAYOUT_BHSD);
    if (how == SCALES_HEAD) {
        flashc_tensor *view = params_view(&p->params, scale);
        view->stride[0] = view->stride[2] = 0;
        view->stride[1] = 1;
    }
    if (!is_of_codes(dtype)) {
        fill_normal(p, which, 1.0, 0, rng);
        return;
    }
    problem_fill_codes(p, which, rng);
    for (int64_t h = 0; how == SCALES_HEAD && h < p->params.num_heads_k; h++)
        if (test_get(problem_view(p, scale), 0, h, 0, 0) == 0.0)
            test_set(problem_view(p, scale), 0, h, 0, 0, 0.01);
}

static void make_shape(flashc_attention_params *s, const int *level, int64_t rows, bool few, int64_t keys)
{
    flashc_attention_params_init(s, sizeof *s);
    s->num_heads = heads[level[FEATURE_HEADS]][0];
    s->num_heads_k = heads[level[FEATURE_HEADS]][1];
    s->batch = level[FEATURE_BATCH] == 0 ? 1 : 3;
    s->head_dim = dims[level[FEATURE_DIMS]][0];
    s->head_dim_v = dims[level[FEATURE_DIMS]][1];
    const int64_t group = s->num_heads / s->num_heads_k;
    s->seqlen_q = few ? (rows < group ? 1 : rows / group) : (rows + group - 1) / group;
    s->seqlen_k = keys;
    const bool from_the_left = level[FEATURE_ALIGNMENT] == 1 && (level[FEATURE_CAUSAL] || level[FEATURE_WINDOW] >= 2);
    if (from_the_left && !few) /* so that there are several tiles to see */
        s->seqlen_q = group == 1 ? 290 : 150;
    if (level[FEATURE_SEQLENS_Q] || level[FEATURE_QUERY_FORM] == 1)
        s->seqlen_q += few ? 0 : 3;
    if (level[FEATURE_SEQLENS_K] || level[FEATURE_KEY_FORM] == 1)
        s->seqlen_k += 5;
}

/* The first batch element has (nearly) all rows, the others fewer or none. Packed sequences are made of such. */
static void make_lengths(problem *p, const int *level, test_rng *rng)
{
    flashc_attention_params *s = &p->params;
    const int64_t queries = s->seqlen_q, keys = s->seqlen_k;
    if (level[FEATURE_SEQLENS_Q] || level[FEATURE_QUERY_FORM] == 1) {
        int64_t *lengths = problem_add_array(p, ARRAY_SEQLENS_Q, queries > 4 ? queries - 3 : queries);
        for (int64_t b = 1; b < s->batch; b++)
            lengths[b] = test_rng_int(rng, 0, queries);
    }
    if (level[FEATURE_SEQLENS_K] || level[FEATURE_KEY_FORM] == 1) {
        int64_t *lengths = problem_add_array(p, ARRAY_SEQLENS_K, keys - 5);
        for (int64_t b = 1; b < s->batch; b++)
            lengths[b] = test_rng_chance(rng, 30) ? 0 : test_rng_int(rng, 0, keys);
    }
    if (level[FEATURE_LEFTPAD_K]) {
        int64_t *padding = problem_add_array(p, ARRAY_LEFTPAD_K, 3);
        for (int64_t b = 1; b < s->batch; b++)
            padding[b] = test_rng_int(rng, 0, (s->seqlens_k != NULL ? s->seqlens_k[b] : keys) / 2);
    }
}

static void make_positions(problem *p, const int *level)
{
    flashc_attention_params *s = &p->params;
    const int64_t keys = s->seqlen_k;
    s->alignment = (flashc_alignment)level[FEATURE_ALIGNMENT];
    if (s->alignment == FLASHC_ALIGN_EXPLICIT) {
        int64_t *offsets = problem_add_array(p, ARRAY_OFFSETS, keys - s->seqlen_q - 20);
        for (int64_t b = 1; b < s->batch; b++)
            offsets[b] = b == 1 ? keys / 3 : -2;
    }
    s->causal = level[FEATURE_CAUSAL];
    if (level[FEATURE_WINDOW] == 1 || level[FEATURE_WINDOW] == 3)
        s->window_left = level[FEATURE_WINDOW] == 1 ? keys / 2 : keys - 60;
    if (level[FEATURE_WINDOW] >= 2)
        s->window_right = level[FEATURE_WINDOW] == 2 ? keys / 4 : 20;
}

static void make_masks(problem *p, const int *level, test_rng *rng)
{
    flashc_attention_params *s = &p->params;
    if (level[FEATURE_MASK]) {
        problem_add_mask(p);
        if (level[FEATURE_MASK] == 2)
            s->mask.stride[1] = s->mask.stride[2] = 0;
        for (size_t n = 0; n < p->buffer[TENSOR_MASK].size; n++)
            p->buffer[TENSOR_MASK].bytes[n] = (unsigned char)(test_rng_chance(rng, 75) ? test_rng_int(rng, 1, 255) : 0);
    }
    if (level[FEATURE_BLOCK_MASK]) {
        problem_add_block_mask(p, level[FEATURE_BLOCK_MASK] == 1 ? 64 : 7, level[FEATURE_BLOCK_MASK] == 1 ? 64 : 13);
        for (size_t n = 0; n < p->buffer[TENSOR_BLOCK_MASK].size; n++)
            p->buffer[TENSOR_BLOCK_MASK].bytes[n] = test_rng_chance(rng, 70);
    }
    if (level[FEATURE_BIAS]) {
        static const flashc_dtype types[] = {FLASHC_F32, FLASHC_F32, FLASHC_BF16, FLASHC_F16};
        problem_add_bias(p, types[level[FEATURE_BIAS]]);
        if (level[FEATURE_BIAS] == 3)
            s->bias.stride[1] = s->bias.stride[2] = 0;
        fill_normal(p, TENSOR_BIAS, 2.0, level[FEATURE_BIAS] == 2 ? 20 : 0, rng);
    }
}

static int go_on(void *user_data, int64_t done, int64_t total)
{
    return user_data != NULL || done < 0 || done > total;
}

static void make_stages(problem *p, const int *level, test_rng *rng)
{
    flashc_attention_params *s = &p->params;
    if (level[FEATURE_SCALE])
        s->softmax_scale = level[FEATURE_SCALE] == 1 ? -0.11f : 0.0f;
    if (level[FEATURE_SOFTCAP])
        s->softcap = 3.0f;
    if (level[FEATURE_ALIBI]) {
        const bool per_batch = level[FEATURE_ALIBI] == 2;
        float *slopes = problem_add_alibi(p, per_batch);
        for (int64_t n = 0; n < s->num_heads * (per_batch ? s->batch : 1); n++)
            slopes[n] = (float)ldexp(1.0, -(int)test_rng_int(rng, 3, 9));
    }
    if (level[FEATURE_SCORE_MOD])
        problem_add_score_mod(p, level[FEATURE_SCORE_MOD] == 1 ? test_score_mod_wave : test_score_mod_documents, 173);
    float *sinks = level[FEATURE_SINKS] ? problem_add_sinks(p) : NULL;
    for (int64_t h = 0; sinks != NULL && h < s->num_heads; h++)
        sinks[h] = level[FEATURE_SINKS] == 2 && h % 2 == 0 ? -INFINITY : (float)(3.0 * test_rng_normal(rng));
    if (level[FEATURE_PROGRESS])
        s->progress = go_on;
}

static void make_outputs(problem *p, const int *level)
{
    static const flashc_dtype types[] = {FLASHC_F32, FLASHC_F32, FLASHC_F16, FLASHC_BF16, FLASHC_F32};
    lay_out(p, TENSOR_O, floats[level[FEATURE_O_TYPE]], (test_layout)level[FEATURE_O_LAYOUT]);
    if (level[FEATURE_LSE] == 0)
        problem_pack(p, TENSOR_LSE, FLASHC_F32);
    if (level[FEATURE_ROW_MAX])
        problem_pack(p, TENSOR_ROW_MAX, FLASHC_F32);
    if (level[FEATURE_SCORES]) {
        p->params.scores_stage = (flashc_score_stage)(level[FEATURE_SCORES] - 1);
        problem_pack(p, TENSOR_SCORES, types[level[FEATURE_SCORES]]);
    }
    if (level[FEATURE_KEY_MASS])
        problem_pack(p, TENSOR_KEY_MASS, FLASHC_F32);
}

/* In the first batch element, which has the most keys. */
static void make_special(problem *p)
{
    const flashc_attention_params *s = &p->params;
    static const double special[] = {(double)NAN, (double)INFINITY, -(double)INFINITY};
    test_set(&s->q, 0, 0, s->seqlen_q / 2, 3, (double)NAN);
    for (int n = 0; n < 3 && s->v.dtype != FLASHC_I8; n++)
        test_set(&s->v, 0, s->num_heads_k - 1, 20 + n * s->seqlen_k / 4, 1 + 7 * n, special[n]);
}

/* Rows that are no keys: NaN, and scales that would be refused. */
static void poison_rows(problem *p)
{
    const flashc_attention_params *s = &p->params;
    for (int64_t n = 0; n < s->batch * s->num_heads_k * s->seqlen_k; n++) {
        const int64_t j = n % s->seqlen_k, h = n / s->seqlen_k % s->num_heads_k, b = n / s->seqlen_k / s->num_heads_k;
        if ((s->leftpad_k == NULL || j >= s->leftpad_k[b]) && (s->seqlens_k == NULL || j < s->seqlens_k[b]))
            continue;
        for (problem_tensor which = TENSOR_K; which <= TENSOR_V_SCALE; which++) {
            const flashc_tensor *view = problem_view(p, which);
            const bool of_a_head = which >= TENSOR_K_SCALE && view->stride[2] == 0;
            const int64_t columns = which == TENSOR_K ? s->head_dim : which == TENSOR_V ? s->head_dim_v : 1;
            for (int64_t d = 0; view->data != NULL && view->dtype != FLASHC_I8 && !of_a_head && d < columns; d++)
                test_set(view, b, h, j, d, (double)NAN);
        }
    }
}

static form_kind make_kind(const int *level)
{
    static const int64_t pages[] = {0, 0, 1, 16, 256, 48};
    return (form_kind){.packed_q = level[FEATURE_QUERY_FORM] == 1,
                       .packed_k = level[FEATURE_KEY_FORM] == 1,
                       .page_size = pages[level[FEATURE_KEY_FORM]],
                       .page_size_v = level[FEATURE_KEY_FORM] == 5 ? 20 : 0,
                       .q = (test_layout)level[FEATURE_Q_LAYOUT],
                       .k = (test_layout)level[FEATURE_K_LAYOUT],
                       .v = (test_layout)level[FEATURE_V_LAYOUT],
                       .o = (test_layout)level[FEATURE_O_LAYOUT]};
}

void features_problem(problem *p, form_kind *kind, const int level[FEATURES], int64_t rows, bool few, int64_t keys,
                      uint64_t seed)
{
    test_rng rng = {seed};
    const flashc_dtype k = caches[level[FEATURE_K_TYPE]], v = caches[level[FEATURE_V_TYPE]];
    *p = (problem){.seed = seed, .data_kind = "normal",
                   .mask_kind = feature_table[FEATURE_MASK].level[level[FEATURE_MASK]],
                   .bias_kind = feature_table[FEATURE_BIAS].level[level[FEATURE_BIAS]], .zero_mean = true};
    flashc_attention_params *s = &p->params;
    make_shape(s, level, rows, few, keys);
    s->num_threads = level[FEATURE_THREADS] == 0 ? 1 : 3;
    if (k == FLASHC_Q8_0 || v == FLASHC_Q8_0) { /* memory for whole blocks, also where that is to be refused */
        s->head_dim = (s->head_dim + 31) / 32 * 32;
        s->head_dim_v = (s->head_dim_v + 31) / 32 * 32;
    }
    lay_out(p, TENSOR_Q, floats[level[FEATURE_Q_TYPE]], (test_layout)level[FEATURE_Q_LAYOUT]);
    fill_normal(p, TENSOR_Q, level[FEATURE_VALUES] == 1 ? 8.0 : 1.0, 0, &rng);
    make_keys(p, TENSOR_K, k, k_scales[level[FEATURE_K_TYPE]], (test_layout)level[FEATURE_K_LAYOUT], &rng);
    make_keys(p, TENSOR_V, v, v_scales[level[FEATURE_V_TYPE]], (test_layout)level[FEATURE_V_LAYOUT], &rng);
    make_lengths(p, level, &rng);
    make_positions(p, level);
    make_masks(p, level, &rng);
    make_stages(p, level, &rng);
    make_outputs(p, level);
    if (level[FEATURE_VALUES] == 2)
        make_special(p);
    poison_rows(p);
    s->head_dim = dims[level[FEATURE_DIMS]][0];
    s->head_dim_v = dims[level[FEATURE_DIMS]][1];
    *kind = make_kind(level);
}
