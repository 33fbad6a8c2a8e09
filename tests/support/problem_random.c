/* Random problems. Every choice below is a draw from one generator, so a seed is a problem. */
#include "support/kernels.h"
#include "support/problem_random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Multiply-adds that one problem may cost the oracle: about 10 ms. */
static const int64_t COST_LIMIT = 8000000;

int64_t random_pick(test_rng *rng, const int64_t *values, size_t count)
{
    return values[test_rng_next(rng) % count];
}

flashc_dtype random_dtype(test_rng *rng)
{
    static const int64_t dtypes[] = {FLASHC_F32, FLASHC_F32, FLASHC_F16, FLASHC_BF16};
    return (flashc_dtype)random_pick(rng, dtypes, 4);
}

/* Of k or v. */
static flashc_dtype random_cache_dtype(test_rng *rng)
{
    static const int64_t dtypes[] = {FLASHC_F32, FLASHC_F16,     FLASHC_BF16,    FLASHC_I8,
                                     FLASHC_I8,  FLASHC_F8_E4M3, FLASHC_F8_E5M2, FLASHC_Q8_0};
    return (flashc_dtype)random_pick(rng, dtypes, 8);
}

static int64_t random_head_dim(test_rng *rng)
{
    static const int64_t common[] = {8, 16, 32, 32, 64, 64, 80, 96, 128, 128, 192, 256};
    int64_t kind = test_rng_int(rng, 0, 99);
    if (kind < 50)
        return random_pick(rng, common, sizeof common / sizeof common[0]);
    if (kind < 65)
        return test_rng_int(rng, 1, 9);
    if (kind < 94)
        return test_rng_int(rng, 10, 140);
    return test_rng_int(rng, 257, 600);
}

/* A length around the borders of blocks; min_blocks of them in most draws. */
static int64_t random_length(test_rng *rng, int64_t block, int64_t min_blocks)
{
    int64_t kind = test_rng_int(rng, 0, 99);
    if (kind < 1)
        return 0;
    if (kind < 4)
        return 1;
    if (kind < 9)
        return test_rng_int(rng, 2, block + 1);
    if (kind < 60) /* an edge of a block, and one element to each side of it */
        return block * (min_blocks + test_rng_chance(rng, 50) - test_rng_chance(rng, 30)) + test_rng_int(rng, -1, 1);
    return test_rng_int(rng, (min_blocks - 1) * block + 1, (min_blocks + 1) * block);
}

static void random_shape(problem *p, test_rng *rng)
{
    static const int64_t groups[] = {1, 1, 5, 2, 3, 4, 8}, batches[] = {1, 1, 1, 2, 3};
    flashc_attention_params *s = &p->params;
    s->batch = test_rng_chance(rng, 1) ? 0 : random_pick(rng, batches, 5);
    s->num_heads_k = test_rng_int(rng, 1, 3);
    s->num_heads = s->num_heads_k * random_pick(rng, groups, 7);
    s->head_dim = random_head_dim(rng);
    s->head_dim_v = test_rng_chance(rng, 60) ? s->head_dim : test_rng_chance(rng, 8) ? 0 : random_head_dim(rng);
    if (strcmp(p->data_kind, "constant-sign") == 0 && test_rng_chance(rng, 25))
        s->head_dim = test_rng_int(rng, 600, 1024); /* long chains in q . k */
}

/* Whole blocks for q8_0. */
static void round_head_dims(flashc_attention_params *s)
{
    if (s->k.dtype == FLASHC_Q8_0)
        s->head_dim = (s->head_dim + 31) / 32 * 32;
    if (s->v.dtype == FLASHC_Q8_0)
        s->head_dim_v = (s->head_dim_v + 31) / 32 * 32;
}

/* Drops batch elements, then heads, then columns, until the oracle can afford it. */
static void limit_cost(flashc_attention_params *s)
{
    int64_t group = s->num_heads / s->num_heads_k;
    while (s->batch * s->num_heads * s->seqlen_q * s->seqlen_k * (s->head_dim + s->head_dim_v) > COST_LIMIT) {
        if (s->batch > 1)
            s->batch--;
        else if (s->num_heads_k > 1)
            s->num_heads_k--;
        else if (group > 1)
            group--;
        else if (s->head_dim_v > 70)
            s->head_dim_v /= 2;
        else if (s->head_dim > 20 && s->head_dim < 257)
            s->head_dim -= 7;
        else if (s->seqlen_q > 2)
            s->seqlen_q /= 2;
        else
            s->seqlen_k -= s->seqlen_k / 3;
        s->num_heads = s->num_heads_k * group;
    }
}

/* The kernel's blocks for these dims and types, on long sequences. Data is not read by explain. */
static void query_blocks(const problem *p, int64_t *block_m, int64_t *block_n)
{
    flashc_attention_params s = p->params;
    const int64_t most_rows = kernel_most_rows(s.kernel);
    s.seqlen_k = 1024;
    s.seqlen_q = most_rows < 1024 ? most_rows : 1024;
    s.batch = s.num_heads = s.num_heads_k = 1;
    /* Addresses far apart where nothing is: explain reads no data. */
    s.q = flashc_tensor_bhsd((void *)((uintptr_t)1 << 32), p->params.q.dtype, 1, s.seqlen_q, s.head_dim);
    s.k = flashc_tensor_bhsd((void *)((uintptr_t)2 << 32), p->params.k.dtype, 1, 1024, s.head_dim);
    s.v = flashc_tensor_bhsd((void *)((uintptr_t)3 << 32), p->params.v.dtype, 1, 1024, s.head_dim_v);
    s.o = flashc_tensor_bhsd((void *)((uintptr_t)4 << 32), p->params.o.dtype, 1, 1024, s.head_dim_v);
    s.k_scale = s.v_scale = s.lse = (flashc_tensor){0};
    if (s.k.dtype == FLASHC_I8)
        s.k_scale = flashc_tensor_bhsd((void *)((uintptr_t)5 << 32), FLASHC_F32, 1, 1024, 1);
    if (s.v.dtype == FLASHC_I8)
        s.v_scale = flashc_tensor_bhsd((void *)((uintptr_t)6 << 32), FLASHC_F32, 1, 1024, 1);
    flashc_explanation plan = {.struct_size = sizeof plan};
    flashc_status status = flashc_explain(&s, &plan);
    if (status != FLASHC_OK || plan.block_m < 1 || plan.block_n < 1) {
        fprintf(stderr, "seed %llu: flashc_explain: %s: %s (block_m %lld, block_n %lld)\n",
                (unsigned long long)p->seed, flashc_status_string(status), flashc_last_error(), (long long)plan.block_m,
                (long long)plan.block_n);
        exit(1);
    }
    /* Longer blocks would only cost time: their borders are tested by the fixed cases. */
    *block_m = plan.block_m < 160 ? plan.block_m : 160;
    *block_n = plan.block_n < 260 ? plan.block_n : 260;
}

/* Sometimes a few queries over two key pieces or more, whose length kernel_piece() knows. Returns the span that
 * patterns of hidden keys go by. */
static int64_t random_long_keys(problem *p, test_rng *rng, int64_t block_n)
{
    flashc_attention_params *s = &p->params;
    if (!test_rng_chance(rng, 15))
        return block_n;
    s->head_dim = s->head_dim > 140 ? 128 : s->head_dim; /* data is slow to make, too */
    s->head_dim_v = s->head_dim_v > 140 ? 64 : s->head_dim_v;
    const int64_t piece = kernel_piece(s->kernel, s->head_dim, s->head_dim_v);
    s->batch = s->batch > 2 ? 2 : s->batch;
    s->seqlen_q = test_rng_int(rng, 1, test_rng_chance(rng, 80) ? 6 : 60);
    s->seqlen_k = random_length(rng, piece, test_rng_int(rng, 2, 4));
    return test_rng_chance(rng, 50) ? piece : block_n;
}

void random_layout(problem *p, problem_tensor which, flashc_dtype dtype, int broadcast, test_rng *rng)
{
    int order[4] = {3, 2, 1, 0}; /* innermost axis first */
    int64_t size[4];
    flashc_tensor *view = (flashc_tensor *)(uintptr_t)problem_view(p, which);
    problem_sizes(p, which, size);
    const bool whole_rows = dtype == FLASHC_Q8_0, row_numbers = which == TENSOR_K_SCALE || which == TENSOR_V_SCALE;
    size[3] /= whole_rows ? 32 : 1;
    int64_t kind = test_rng_int(rng, 0, whole_rows ? 64 : 99);
    if (kind >= 40 && kind < 65) { /* [batch, seqlen, heads, dim] */
        order[1] = 1;
        order[2] = 2;
    }
    for (int a = 3; a > 0 && kind >= 65; a--) {
        int other = (int)test_rng_int(rng, 0, a), axis = order[a];
        order[a] = order[other];
        order[other] = axis;
    }
    const bool of_rows = which == TENSOR_LSE || which == TENSOR_ROW_MAX || which == TENSOR_KEY_MASS;
    bool odd = test_rng_chance(rng, 50); /* the other half is as most callers have it */
    const bool of_a_head = row_numbers && test_rng_chance(rng, 40);
    int64_t span = odd && test_rng_chance(rng, 30) ? test_rng_int(rng, 2, 3) : 1;
    view->dtype = dtype;
    for (int a = 0; a < 4; a++) {
        int axis = order[a];
        if (whole_rows && axis == 3) {
            view->stride[axis] = size[axis] > 1 ? 1 : 77;
            span = size[axis] > 0 ? size[axis] : 1;
            continue;
        }
        if (row_numbers && axis == 2 && of_a_head) { /* one a head */
            view->stride[axis] = 0;
            continue;
        }
        if ((of_rows || row_numbers) && axis == 3) {
            view->stride[axis] = test_rng_int(rng, -3, 3); /* not used */
            continue;
        }
        if (size[axis] == 1 && odd && test_rng_chance(rng, 30)) { /* never multiplied by more than 0 */
            view->stride[axis] = test_rng_int(rng, -((int64_t)1 << 40), (int64_t)1 << 40);
            continue;
        }
        if (test_rng_chance(rng, broadcast)) {
            view->stride[axis] = 0;
            continue;
        }
        view->stride[axis] = span;
        span *= size[axis] > 0 ? size[axis] : 1;
        if (odd && test_rng_chance(rng, 40))
            span += test_rng_int(rng, 1, 5);
        if (odd && test_rng_chance(rng, 20))
            view->stride[axis] = -view->stride[axis];
    }
    problem_allocate(p, which, test_rng_chance(rng, 30));
}

/* A draw of q, k or v. The tiny ones stay in the normal range of f32 when multiplied; f16 has no
 * room for them. */
static double random_datum(const problem *p, problem_tensor which, test_rng *rng)
{
    if (strcmp(p->data_kind, "constant-sign") == 0)
        return 0.5 + test_rng_uniform(rng);
    double x = test_rng_normal(rng);
    if (strcmp(p->data_kind, "large logits") == 0 && which != TENSOR_V)
        return 8.0 * x;
    if (strcmp(p->data_kind, "tiny") == 0 && problem_view(p, which)->dtype == FLASHC_F16)
        return 1e-4 * x;
    if (strcmp(p->data_kind, "tiny") == 0)
        return which == TENSOR_V ? 1e-30 * x : 1e-17 * x;
    return x;
}

static void random_data(problem *p, problem_tensor which, test_rng *rng)
{
    const flashc_dtype dtype = problem_view(p, which)->dtype;
    if (is_of_codes(dtype)) {
        if (dtype == FLASHC_I8 || (has_scales(dtype) && test_rng_chance(rng, 70)))
            random_layout(p, which == TENSOR_K ? TENSOR_K_SCALE : TENSOR_V_SCALE, FLASHC_F32, 4, rng);
        problem_fill_codes(p, which, rng);
        return;
    }
    int64_t size[4];
    problem_sizes(p, which, size);
    for (int64_t b = 0; b < size[0]; b++) {
        for (int64_t h = 0; h < size[1]; h++) {
            for (int64_t i = 0; i < size[2]; i++) {
                for (int64_t j = 0; j < size[3]; j++)
                    test_set(problem_view(p, which), b, h, i, j, random_datum(p, which, rng));
            }
        }
    }
}

/* Rows that are no keys may have any scale. */
static void poison_scales(const problem *p, problem_tensor which)
{
    const flashc_attention_params *s = &p->params;
    const flashc_tensor *view = problem_view(p, which);
    if (view->data == NULL || view->stride[0] == 0 || view->stride[2] == 0)
        return;
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t j = 0; j < s->seqlen_k; j++) {
            const bool before = s->leftpad_k != NULL && j < s->leftpad_k[b];
            const bool after = s->seqlens_k != NULL && j >= s->seqlens_k[b];
            for (int64_t h = 0; h < s->num_heads_k && (before || after); h++)
                test_set(view, b, h, j, 0, j % 2 ? (double)NAN : -1.0);
        }
}

static float random_scale(test_rng *rng)
{
    static const float scales[] = {1.0f, 0.0f, -0.5f, 20.0f, -20.0f, 0.001f};
    if (test_rng_chance(rng, 60))
        return FLASHC_SCALE_DEFAULT;
    if (test_rng_chance(rng, 30))
        return (float)test_rng_normal(rng);
    return scales[test_rng_next(rng) % 6];
}

void problem_random(problem *p, uint64_t seed, const char *kernel)
{
    static const char *const kinds[] = {"normal", "normal", "normal", "constant-sign", "large logits", "tiny"};
    test_rng rng = {seed};
    *p = (problem){.seed = seed, .data_kind = kinds[test_rng_next(&rng) % 6]};
    flashc_attention_params *s = &p->params;
    flashc_attention_params_init(s, sizeof *s);
    s->kernel = kernel;
    s->num_threads = (int)test_rng_int(&rng, 1, 3);
    s->softmax_scale = random_scale(&rng);
    s->q.dtype = random_dtype(&rng);
    s->k.dtype = test_rng_chance(&rng, 40) ? s->q.dtype : random_cache_dtype(&rng);
    s->v.dtype = test_rng_chance(&rng, 50) ? s->k.dtype : random_cache_dtype(&rng);
    s->o.dtype = random_dtype(&rng);
    random_shape(p, &rng);
    round_head_dims(s);
    int64_t block_m, block_n;
    query_blocks(p, &block_m, &block_n);
    s->seqlen_q = random_length(&rng, block_m, 2);
    s->seqlen_k = random_length(&rng, block_n, 3);
    int64_t pattern_n = random_long_keys(p, &rng, block_n);
    const int64_t most = kernel_most_rows(kernel), group = s->num_heads / s->num_heads_k;
    if (group > most)
        s->num_heads = s->num_heads_k * most;
    if (s->seqlen_q > most / group)
        s->seqlen_q = test_rng_int(&rng, 1, group > most ? 1 : most / group);
    limit_cost(s);
    round_head_dims(s);

    for (problem_tensor which = TENSOR_Q; which <= TENSOR_V; which++) {
        random_layout(p, which, problem_view(p, which)->dtype, 4, &rng);
        random_data(p, which, &rng);
    }
    /* Broadcast along a summed axis makes all terms equal: nothing cancels, then. */
    p->zero_mean = strcmp(p->data_kind, "constant-sign") != 0 && (s->q.stride[3] != 0 || s->k.stride[3] != 0) &&
                   s->v.stride[2] != 0;
    random_features(p, pattern_n, block_m, block_n, &rng);
    poison_scales(p, TENSOR_K_SCALE);
    poison_scales(p, TENSOR_V_SCALE);
    random_layout(p, TENSOR_O, s->o.dtype, 0, &rng);
    random_outputs(p, &rng);
    problem_snapshot(p);
}
