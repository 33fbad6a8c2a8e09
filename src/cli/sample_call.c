#include "cli/sample_call.h"

#include "cli/arithmetic.h"
#include "cli/cli.h"
#include "cli/clock.h"
#include "cli/library_error.h"
#include "cli/peak.h"

#include <math.h>
#include <stdlib.h>

/* Each timing is the best of so many, since others only ever make it slower; fewer where that takes long. */
enum { REPEATS_MIN = 3, REPEATS_MAX = 15 };
#define REPEAT_SECONDS 0.004
#define TIMING_SECONDS 0.15

void flashc_sample_close(flashc_sample *p)
{
    free(p->items);
    flashc_bench_rotation_close(&p->rotation);
    if (p->job)
        flashc_cli_job_close(p->job);
    free(p->job);
}

/* The arguments of a call of this shape and otherwise like the one to predict, whose position hides nothing or, with
 * causal, the upper triangle. */
static flashc_cli_attention_args args_of(const flashc_sampled_call *c, const flashc_sample_shape *s)
{
    flashc_cli_attention_args args = *c->args;
    const int64_t group = c->params->num_heads / c->params->num_heads_k;
    args.q = args.k = args.v = args.mask = args.bias = args.alibi = args.sinks = args.block_mask = NULL;
    args.score_mod = args.score_mod_data = NULL;
    args.prefix_k = args.prefix_v = args.prefix_k_scale = args.prefix_v_scale = NULL;
    args.cu_seqlens_q = args.cu_seqlens_k = args.seqlens_q = args.seqlens_k = args.leftpad_k = NULL;
    args.block_table = args.block_table_v = NULL;
    args.packed = 0;
    args.page_size = c->params->block_table.pages != NULL ? c->params->block_table.page_size : -1;
    args.k_scale = args.v_scale = NULL;
    args.window[0] = args.window[1] = -1;
    args.batch = 1;
    args.heads = s->heads * group;
    args.heads_k = s->heads;
    const int64_t queries = (s->rows + group - 1) / group;
    args.seqlen_q = flashc_cli_max(1, flashc_cli_min(queries, c->params->seqlen_q));
    args.seqlen_k = flashc_cli_max(1, s->keys);
    args.head_dim = c->params->head_dim;
    args.head_dim_v = c->params->head_dim_v;
    args.dtype = (int)c->params->q.dtype;
    args.cache_dtype = (int)c->params->k.dtype;
    args.out_dtype = (int)c->params->o.dtype;
    args.kernel = c->kernel;
    args.causal = s->causal;
    args.alignment = FLASHC_ALIGN_BOTTOM_RIGHT;
    args.num_threads = 1;
    return args;
}

/* The plan's items with so many threads. */
int flashc_sample_plan(flashc_sample *p, int threads)
{
    flashc_explanation plan = {.struct_size = sizeof plan};
    p->job->params.num_threads = threads;
    free(p->items);
    p->items = NULL;
    flashc_status status = flashc_explain(&p->job->params, &plan);
    if (status == FLASHC_OK)
        p->items = calloc((size_t)plan.num_items, sizeof *p->items);
    if (status == FLASHC_OK && p->items == NULL)
        return flashc_cli_error("no memory for %lld work items", (long long)plan.num_items);
    p->count = plan.num_items;
    if (status == FLASHC_OK)
        status = flashc_explain_items(&p->job->params, 0, p->count, p->items);
    return status == FLASHC_OK ? FLASHC_CLI_OK : flashc_cli_library_error();
}

int flashc_sample_open(const flashc_sampled_call *c, const flashc_sample_shape *s, int cold, flashc_sample *p)
{
    const flashc_cli_attention_args args = args_of(c, s);
    *p = (flashc_sample){.job = calloc(1, sizeof *p->job)};
    if (!p->job)
        return flashc_cli_error("no memory for the arrays");
    const int code = flashc_cli_job_open(&args, 0, p->job);
    if (code != FLASHC_CLI_OK)
        return code;
    flashc_bench_fill(p->job, 1);
    const flashc_bench_copies copies = cold ? FLASHC_BENCH_COPIES : FLASHC_BENCH_NO_COPIES;
    if (!flashc_bench_rotation_open(p->job, copies, flashc_read_buffer_size(), &p->rotation))
        return flashc_cli_error("no memory for copies of K and V that no cache holds");
    return flashc_sample_plan(p, 1);
}

int flashc_sample_calls(flashc_sample *p, int64_t calls, double *seconds)
{
    const double start = flashc_cli_now();
    for (int64_t i = 0; i < calls; i++) {
        flashc_bench_rotate(&p->rotation, &p->job->params);
        const flashc_status status = flashc_attention_fwd(&p->job->params);
        if (status != FLASHC_OK)
            return flashc_cli_library_error();
    }
    *seconds = (flashc_cli_now() - start) / (double)calls;
    return FLASHC_CLI_OK;
}

/* Seconds of a call at its best. */
int flashc_sample_time(flashc_sample *p, double *best)
{
    double seconds = 0.0;
    /* Warm up; the second tells how many. */
    int code = flashc_sample_calls(p, 1, &seconds) || flashc_sample_calls(p, 1, &seconds);
    const int64_t calls = flashc_cli_max(1, (int64_t)(REPEAT_SECONDS / fmax(seconds, 1e-8)));
    const double start = flashc_cli_now();
    *best = (double)INFINITY;
    for (int i = 0; code == FLASHC_CLI_OK && i < REPEATS_MAX; i++) {
        code = flashc_sample_calls(p, calls, &seconds);
        *best = fmin(*best, seconds);
        if (i + 1 >= REPEATS_MIN && flashc_cli_now() - start > TIMING_SECONDS)
            break;
    }
    return code ? FLASHC_CLI_FAILED : FLASHC_CLI_OK;
}
