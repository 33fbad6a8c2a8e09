/* Every pair of features that can be combined, at least once on every kernel, against the float64 oracle: rows of a
 * pairwise covering design (support/features.c has the features, their levels, and which are refused together) of at
 * least two query blocks and three key tiles; kernels for few rows have one query block. The seed of
 * the design is printed; FLASHC_TEST_SEED and FLASHC_TEST_COUNT (designs) choose others. */
#include "support/bound.h"
#include "support/cmocka.h"
#include "support/cover.h"
#include "support/expect.h"
#include "support/features.h"
#include "support/kernels.h"
#include "support/stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t DEFAULT_SEED = 1;

/* More than two tiles of any kernel at these dims, in one piece; and more than a piece of each. Kernels for few rows
 * have pieces of two tiles. */
static const int64_t KEYS[2][2] = {{487, 1031}, {530, 1290}};
/* Beyond a block of any kernel at these dims; what every kernel for few rows takes. */
static const int64_t MANY_ROWS = 67, FEW_ROWS = 4;

static flashc_status call_with_workspace(flashc_attention_params params)
{
    size_t size = 0;
    flashc_status status = flashc_attention_workspace_size(&params, &size);
    if (status != FLASHC_OK)
        return status;
    size = (size + 63) / 64 * 64; /* ends at a guard page, and starts aligned */
    guarded_buffer workspace = guarded_alloc(size, false);
    memset(workspace.bytes, 0xff, size);
    params.workspace = workspace.bytes;
    params.workspace_size = size;
    status = flashc_attention_fwd(&params);
    guarded_free(&workspace);
    return status;
}

/* The keys of padded in chunks that end anywhere, in one state or, to be merged, in a state each. */
static flashc_status call_by_state(const flashc_attention_params *params, const flashc_attention_params *padded,
                                   const form_kind *kind, bool merge, test_rng *rng)
{
    test_stream s = test_stream_begin(params);
    s.state.seqlens_k = padded->seqlens_k;
    flashc_status status = FLASHC_OK;
    for (int64_t first = 0, n; first < padded->seqlen_k && status == FLASHC_OK; first += n) {
        n = test_rng_int(rng, 1, 1 + padded->seqlen_k / 2);
        n = n < padded->seqlen_k - first ? n : padded->seqlen_k - first;
        if (!merge) {
            status = test_stream_form(&s, padded, first, n, kind, rng);
            continue;
        }
        test_stream part = test_stream_begin(params);
        part.state.next_key = first;
        part.state.seqlens_k = padded->seqlens_k;
        status = test_stream_form(&part, padded, first, n, kind, rng);
        if (status == FLASHC_OK)
            status = flashc_attention_state_merge(&s.state, &part.state);
        test_stream_free(&part);
    }
    if (status == FLASHC_OK)
        status = flashc_attention_finish(&s.state, params);
    test_stream_free(&s);
    return status;
}

static flashc_status call(const flashc_attention_params *params, const flashc_attention_params *padded,
                          const form_kind *kind, feature_call how, test_rng *rng)
{
    switch (how) {
    case CALL_ONCE: break;
    case CALL_WITH_WORKSPACE: return call_with_workspace(*params);
    case CALL_IN_CHUNKS: return call_by_state(params, padded, kind, false, rng);
    case CALL_AND_MERGE: return call_by_state(params, padded, kind, true, rng);
    }
    return flashc_attention_fwd(params);
}

/* Calls the problem of a row, in its form; results come to p. */
static flashc_status call_row(const problem *p, const form_kind *kind, const int *level)
{
    test_rng rng = {p->seed + 1};
    const feature_call how = (feature_call)level[FEATURE_CALL];
    if (form_is_padded(kind))
        return call(&p->params, &p->params, kind, how, &rng);
    char message[256];
    test_form f;
    form_make(&f, &p->params, kind, &rng);
    if (level[FEATURE_SEQLENS_Q] && level[FEATURE_QUERY_FORM] == 1) /* refused */
        f.params.seqlens_q = p->params.seqlens_q;
    if (level[FEATURE_SEQLENS_K] && level[FEATURE_KEY_FORM] == 1)
        f.params.seqlens_k = p->params.seqlens_k;
    if (how >= CALL_IN_CHUNKS && f.params.scores_stage != FLASHC_SCORES_WEIGHTS)
        f.params.scores.data = NULL; /* each chunk's come to p */
    flashc_status status = call(&f.params, &p->params, kind, how, &rng);
    if (status == FLASHC_OK && !form_collect(&f, &p->params, message, sizeof message)) {
        features_print(stderr, level);
        problem_print(stderr, p);
        fail_msg("%s", message);
    }
    form_free(&f);
    return status;
}

static _Noreturn void fail_row(const problem *p, const int *level, const char *message)
{
    features_print(stderr, level);
    problem_print(stderr, p);
    fail_msg("%s", message);
    abort();
}

/* A kernel that computes in bf16 refuses a call that asks for f32. */
static bool refuses_f32(problem *p, const int *level, const form_kind *kind)
{
    p->params.compute = FLASHC_COMPUTE_DEFAULT;
    if (level[FEATURE_COMPUTE] != FLASHC_COMPUTE_F32 || plan_of(p).compute != FLASHC_COMPUTE_BF16)
        return false;
    p->params.compute = FLASHC_COMPUTE_F32;
    flashc_explanation plan = {.struct_size = sizeof plan};
    const bool in_one_call = level[FEATURE_CALL] <= CALL_WITH_WORKSPACE;
    if ((in_one_call ? call_row(p, kind, level) : flashc_explain(&p->params, &plan)) != FLASHC_ERR_UNSUPPORTED ||
        strstr(flashc_last_error(), "computes in bf16, compute asks for f32") == NULL)
        fail_row(p, level, "a kernel that computes in bf16 did not refuse to compute in f32");
    p->params.compute = FLASHC_COMPUTE_DEFAULT;
    return true;
}

/* Runs a row on one kernel. Returns whether it computes in bf16. */
static bool run_on_kernel(problem *p, const form_kind *kind, const int *level, const oracle *exact, const char *kernel,
                          bool few)
{
    char message[256];
    p->params.kernel = kernel;
    if (!refuses_f32(p, level, kind))
        p->params.compute = (flashc_compute)level[FEATURE_COMPUTE];
    const flashc_explanation plan = plan_of(p);
    const int64_t queries = p->params.seqlens_q != NULL ? p->params.seqlens_q[0] : p->params.seqlen_q;
    const int64_t keys = p->params.seqlens_k != NULL ? p->params.seqlens_k[0] : p->params.seqlen_k;
    if ((!few && queries * p->params.num_heads / p->params.num_heads_k <= plan.block_m) || keys <= 2 * plan.block_n)
        fail_row(p, level, "less than two query blocks and three key tiles");
    problem_snapshot(p);
    if (call_row(p, kind, level) != FLASHC_OK)
        fail_row(p, level, flashc_last_error());
    if (!problem_unharmed(p, false, message, sizeof message) ||
        !bound_check(&p->params, exact, &plan, p->zero_mean, message, sizeof message) ||
        !bound_check_outputs(&p->params, exact, &plan, message, sizeof message))
        fail_row(p, level, message);
    return plan.compute == FLASHC_COMPUTE_BF16;
}

/* What was run on one kernel. */
typedef struct coverage {
    const char *kernel;
    bool few, bf16;
    cover_count count;
} coverage;

static void run_row(const cover *design, const int *level, uint64_t seed, bool few, coverage *kernels, int n)
{
    problem p;
    form_kind kind;
    oracle exact = {.rows = 0};
    for (int k = 0; k < n; k++) {
        if (kernels[k].few != few)
            continue;
        if (exact.scores == NULL) { /* the same problem for all */
            features_problem(&p, &kind, level, few ? FEW_ROWS : MANY_ROWS, few, KEYS[few][level[FEATURE_KEYS]], seed);
            oracle_attention(&p.params, &exact);
        }
        kernels[k].bf16 = run_on_kernel(&p, &kind, level, &exact, kernels[k].kernel, few);
        cover_add(design, &kernels[k].count, level);
    }
    if (exact.scores != NULL)
        problem_free(&p);
    oracle_free(&exact);
}

static void run_design(uint64_t seed)
{
    const char *names[MAX_KERNELS];
    const int n = runnable_kernels(names);
    cover *design = calloc(1, sizeof *design);
    coverage *kernels = calloc((size_t)n, sizeof *kernels);
    design->factors = FEATURES;
    design->forbidden = feature_forbidden;
    int levels = 0, missing[4];
    for (feature f = 0; f < FEATURES; f++)
        levels += design->levels[f] = feature_count(f);
    cover_make(design, seed);
    printf("seed %llu: %d rows for the %lld pairs of %d levels of %d features\n", (unsigned long long)seed,
           design->rows, (long long)design->pairs, levels, FEATURES);
    for (int k = 0; k < n; k++)
        kernels[k] = (coverage){.kernel = names[k], .few = kernel_most_rows(names[k]) < 1000};
    for (int row = 0; row < design->rows; row++)
        for (int few = 0; few < 2; few++)
            run_row(design, design->row[row], 1000 * seed + (uint64_t)row, few, kernels, n);
    for (int k = 0; k < n; k++) {
        const int except = kernels[k].bf16 ? FEATURE_COMPUTE : -1;
        const int64_t left = cover_missing(design, &kernels[k].count, except, FLASHC_COMPUTE_F32, missing);
        if (left > 0)
            fail_msg("%s: %lld pairs were not run, \"%s: %s\" with \"%s: %s\" among them", names[k], (long long)left,
                     feature_table[missing[0]].name, feature_table[missing[0]].level[missing[1]],
                     feature_table[missing[2]].name, feature_table[missing[2]].level[missing[3]]);
    }
    free(kernels);
    free(design);
}

static void test_every_pair(void **state)
{
    (void)state;
    const char *seed_text = getenv("FLASHC_TEST_SEED"), *count_text = getenv("FLASHC_TEST_COUNT");
    const uint64_t seed = seed_text != NULL ? strtoull(seed_text, NULL, 0) : DEFAULT_SEED;
    const uint64_t count = count_text != NULL ? strtoull(count_text, NULL, 0) : 1;
    for (uint64_t i = 0; i < count; i++)
        run_design(seed + i);
}

static flashc_status call_levels(const int *level)
{
    problem p;
    form_kind kind;
    features_problem(&p, &kind, level, MANY_ROWS, false, KEYS[0][0], 1);
    const flashc_status status = call_row(&p, &kind, level);
    problem_free(&p);
    return status;
}

/* The pairs that no row has are refused, and because of the pair: either level alone is not. */
static void test_forbidden_pairs_are_refused(void **state)
{
    (void)state;
    for (int n = 0; n < forbidden_pairs_count; n++) {
        const forbidden_pair *pair = &forbidden_pairs[n];
        for (int alone = 0; alone < 2; alone++) {
            int level[FEATURES] = {[FEATURE_ALIGNMENT] = 1};
            level[alone == 0 ? pair->a : pair->b] = alone == 0 ? pair->level_a : pair->level_b;
            expect_ok(call_levels(level));
        }
        int level[FEATURES] = {[FEATURE_ALIGNMENT] = 1};
        level[pair->a] = pair->level_a;
        level[pair->b] = pair->level_b;
        if (call_levels(level) != FLASHC_ERR_ARGUMENT ||
            strncmp(flashc_last_error(), pair->message, strlen(pair->message)) != 0) {
            features_print(stderr, level);
            fail_msg("expected \"%s...\", found \"%s\"", pair->message, flashc_last_error());
        }
    }
    printf("%d pairs are refused\n", forbidden_pairs_count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_pair),
                                       cmocka_unit_test(test_forbidden_pairs_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
