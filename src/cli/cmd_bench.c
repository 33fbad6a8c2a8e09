/* flashc-run bench: how fast attention is here, beside what this machine could do. */
#include "cli/attention_options.h"
#include "cli/bench.h"
#include "cli/bench_data.h"
#include "cli/bench_time.h"
#include "cli/cli.h"
#include "cli/costs.h"
#include "cli/job.h"
#include "cli/lengths.h"
#include "cli/library_error.h"

#include <flashc.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const flashc_cli_syntax words = {
    .command = FLASHC_CLI_FOR_BENCH,
    .usage = "flashc-run bench [-q FILE -k FILE -v FILE | shapes] [options]",
    .description =
        "Times attention on random standard-normal data of the given shapes, or on files, and compares it with two "
        "limits measured in the same process: the multiply-add peak (f32, or bf16 where the kernel computes in that) "
        "of as many cores as there are threads, and the bandwidth of reading memory. GFLOP/s count useful work only "
        "(causal counts what is visible); K and V count once, each byte that some query sees.",
    .notes = "K and V that fit in a cache stay there between calls, so their GB/s may exceed\n"
             "the bandwidth of memory; --cold shows what memory delivers. The limits take a\n"
             "few seconds and up to 1 GiB of memory to measure; --no-limits goes without.\n",
};

static void append(char *text, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void append(char *text, size_t size, const char *format, ...)
{
    const size_t length = strlen(text);
    va_list args;
    va_start(args, format);
    vsnprintf(text + length, size - length, format, args);
    va_end(args);
}

static void name_run(const flashc_cli_attention_args *args, const flashc_attention_params *p, flashc_bench_run *run)
{
    const size_t size = sizeof run->name;
    snprintf(run->name, size, "attention/%s/batch:%lld/heads:%lld/heads_k:%lld/seqlen_q:%lld/seqlen_k:%lld",
             flashc_dtype_name(p->q.dtype), (long long)p->batch, (long long)p->num_heads, (long long)p->num_heads_k,
             (long long)p->seqlen_q, (long long)p->seqlen_k);
    append(run->name, size, "/head_dim:%lld/head_dim_v:%lld", (long long)p->head_dim, (long long)p->head_dim_v);
    if (p->k.dtype != p->q.dtype)
        append(run->name, size, "/cache:%s", flashc_dtype_name(p->k.dtype));
    if (p->o.dtype != p->q.dtype)
        append(run->name, size, "/out:%s", flashc_dtype_name(p->o.dtype));
    if (p->causal && p->alignment == FLASHC_ALIGN_EXPLICIT)
        append(run->name, size, "/causal:%lld", (long long)args->offset);
    else if (p->causal)
        append(run->name, size, "/causal:%s", p->alignment == FLASHC_ALIGN_TOP_LEFT ? "top-left" : "bottom-right");
    if (p->window_left >= 0 || p->window_right >= 0)
        append(run->name, size, "/window:%lld,%lld", (long long)p->window_left, (long long)p->window_right);
    if (p->softcap > 0)
        append(run->name, size, "/softcap:%g", (double)p->softcap);
    append(run->name, size, "%s%s%s%s", p->alibi_slopes ? "/alibi" : "", p->sinks ? "/sinks" : "",
           p->block_mask.data ? "/block_mask" : "", p->score_mod ? "/score_mod" : "");
    if (args->page_size > 0)
        append(run->name, size, "/page_size:%lld", (long long)args->page_size);
    append(run->name, size, "%s%s%s%s%s%s", args->packed ? "/packed" : "", p->mask.data != NULL ? "/mask" : "",
           p->bias.data != NULL ? "/bias" : "", args->bshd ? "/bshd" : "", args->cold ? "/cold" : "",
           args->huge_pages ? "/huge_pages" : "");
    append(run->name, size, "/threads:%lld/%s", (long long)run->plan.num_threads, run->plan.kernel);
}

/* Of one sequence, keys that some query sees by position. */
static int64_t visible_keys(const flashc_attention_params *p, int64_t b)
{
    const int64_t queries = flashc_cli_queries_of(p, b), rows = flashc_cli_keys_of(p, b);
    const int64_t keys = rows - (p->leftpad_k ? p->leftpad_k[b] : 0);
    const double offset = (double)flashc_cli_offset_of(p, b, rows); /* as a double no sum of positions overflows */
    double begin = 0, end = (double)keys;
    if (p->causal || p->window_right >= 0) /* one beyond what the last query sees */
        end = fmin(end, (double)queries + offset + (p->causal ? 0.0 : (double)p->window_right));
    if (p->window_left >= 0)
        begin = fmax(begin, offset - (double)p->window_left);
    return queries == 0 || end <= begin ? 0 : (int64_t)(end - begin);
}

/* Bytes of K and V that some query sees; every call must read these once. */
static double visible_kv_bytes(const flashc_attention_params *p)
{
    double keys = 0;
    for (int64_t b = 0; b < p->batch; b++)
        keys += (double)visible_keys(p, b);
    return (double)p->num_heads_k * keys * flashc_costs_bytes(p).key;
}

/* Times the call on the kernel that params names. FLASHC_CLI_OK or the exit code after a message. */
static int bench_kernel(const flashc_cli_attention_args *args, flashc_attention_params params,
                        flashc_bench_rotation *rotation, flashc_bench_run *run)
{
    name_run(args, &params, run);
    run->work_is_known = params.mask.data == NULL && params.bias.data == NULL &&
                         params.block_mask.data == NULL && params.score_mod == NULL;
    run->kv_bytes = visible_kv_bytes(&params);
    return flashc_bench_time(&params, rotation, (int)args->repeats, run);
}

/* --kernel all: every kernel that this machine and these params allow; otherwise the one named. */
static int bench_kernels(const flashc_cli_attention_args *args, flashc_cli_job *job, flashc_bench_rotation *rotation,
                         flashc_bench_run *runs, int *num_runs)
{
    const bool all = args->kernel != NULL && strcmp(args->kernel, "all") == 0;
    const int count = all ? flashc_kernel_count() : 1;
    for (int i = 0; i < count; i++) {
        flashc_kernel kernel;
        if (all && flashc_kernel_get(i, &kernel) == FLASHC_OK)
            job->params.kernel = kernel.name;
        flashc_bench_run *run = &runs[*num_runs];
        *run = (flashc_bench_run){.plan.struct_size = sizeof run->plan};
        const flashc_status status = flashc_explain(&job->params, &run->plan);
        if (status == FLASHC_ERR_UNSUPPORTED && all) {
            fprintf(stderr, "flashc-run: not run: %s\n", flashc_last_error());
            continue;
        }
        if (status != FLASHC_OK)
            return flashc_cli_library_error();
        if (args->verbose && !args->json && !args->quiet)
            flashc_cli_print_explanation(&run->plan, stdout);
        (*num_runs)++;
        const int code = bench_kernel(args, job->params, rotation, run);
        if (code != FLASHC_CLI_OK)
            return code;
    }
    return FLASHC_CLI_OK;
}

/* Makes the data, times, and gives the memory back before the limits are measured. */
static int bench_data(const flashc_cli_attention_args *args, flashc_cli_job *job, flashc_bench_run *runs,
                      int *num_runs)
{
    if (args->q == NULL)
        flashc_bench_fill(job, (uint64_t)args->seed);
    /* Pages of the output that no call has touched would count as memory that the call takes. */
    memset(job->o.data, 0xff, (size_t)job->o.count * flashc_dtype_size(job->o.dtype));
    job->params.lse.data = NULL; /* as those that flashc is compared with, which write O alone */
    flashc_bench_rotation rotation;
    const flashc_bench_copies copies = args->huge_pages ? FLASHC_BENCH_HUGE_PAGES
                                       : args->cold     ? FLASHC_BENCH_COPIES
                                                        : FLASHC_BENCH_NO_COPIES;
    if (!flashc_bench_rotation_open(job, copies, flashc_read_buffer_size(), &rotation))
        return flashc_cli_error("no memory%s for the copies of K and V that --cold needs",
                                args->huge_pages ? ", or no transparent huge pages," : "");
    const int code = bench_kernels(args, job, &rotation, runs, num_runs);
    flashc_bench_rotation_close(&rotation);
    return code;
}

/* The same call for the rest of the program, which does not know --kernel all. */
static flashc_cli_attention_args without_all(const flashc_cli_attention_args *args)
{
    flashc_cli_attention_args result = *args;
    if (args->kernel != NULL && strcmp(args->kernel, "all") == 0)
        result.kernel = NULL;
    return result;
}

static int bench_job(const flashc_cli_attention_args *args, flashc_bench_run *runs, int *num_runs)
{
    flashc_cli_job *job = calloc(1, sizeof *job);
    if (job == NULL)
        return flashc_cli_error("no memory for the arrays");
    const flashc_cli_attention_args job_args = without_all(args);
    int code = flashc_cli_job_open(&job_args, 0, job);
    if (code == FLASHC_CLI_OK)
        code = bench_data(args, job, runs, num_runs);
    flashc_cli_job_close(job);
    free(job);
    return code;
}

static int limit_threads(const flashc_bench_run *run)
{
    return run->plan.num_threads > 1 ? (int)run->plan.num_threads : 1;
}

/* GFLOP/s of the fastest repeat with so many threads, computed in this; 0 if there is none whose work is known. */
static double fastest_gflops(int threads, flashc_compute compute, int num_runs, const flashc_bench_run *runs)
{
    double fastest = 0.0;
    for (int i = 0; i < num_runs; i++) {
        if (limit_threads(&runs[i]) != threads || runs[i].plan.compute != compute || !runs[i].work_is_known)
            continue;
        for (int r = 0; r < runs[i].num_repeats; r++)
            fastest = fmax(fastest, flashc_bench_repeat_numbers(&runs[i], r).gflops);
    }
    return fastest;
}

static void measure_limits(int threads, int num_runs, const flashc_bench_run *runs, flashc_bench_limits *limits)
{
    limits->threads = threads;
    flashc_measure_fma_peak(threads, &limits->fma);
    const double reached = fastest_gflops(threads, FLASHC_COMPUTE_F32, num_runs, runs);
    const double bf16_reached = fastest_gflops(threads, FLASHC_COMPUTE_BF16, num_runs, runs);
    if (reached > limits->fma.gflops || bf16_reached > limits->fma.bf16_gflops) {
        /* Nothing is faster than the peak: what was measured was disturbed throughout. Once more; and what
         * attention reached is certainly possible. */
        const flashc_fma_peak before = limits->fma;
        flashc_measure_fma_peak(threads, &limits->fma);
        const double avx2 = fmax(before.avx2_gflops, limits->fma.avx2_gflops);
        const double bf16 = fmax(before.bf16_gflops, limits->fma.bf16_gflops);
        if (before.gflops > limits->fma.gflops)
            limits->fma = before;
        limits->fma.gflops = fmax(limits->fma.gflops, reached);
        limits->fma.avx2_gflops = avx2;
        limits->fma.bf16_gflops = fmax(bf16, bf16_reached);
    }
    flashc_measure_read_bandwidth(threads, &limits->read);
}

static void report(const flashc_cli_attention_args *args, int num_runs, flashc_bench_run *runs)
{
    flashc_bench_limits one_thread;
    if (!args->no_limits) {
        measure_limits(1, num_runs, runs, &one_thread);
        const flashc_bench_limits *known = &one_thread;
        for (int i = 0; i < num_runs; i++) {
            const int threads = limit_threads(&runs[i]);
            if (threads == 1)
                runs[i].limits = one_thread;
            else if (threads == known->threads)
                runs[i].limits = *known;
            else
                measure_limits(threads, num_runs, runs, &runs[i].limits);
            known = &runs[i].limits;
        }
    }
    const flashc_bench_limits *limits = args->no_limits ? NULL : &one_thread;
    if (args->json)
        flashc_bench_print_json(num_runs, runs, limits);
    for (int i = 0; i < num_runs && !args->json && !args->quiet; i++)
        flashc_bench_print_text(&runs[i], limits);
}

int flashc_cmd_bench(int argc, char **argv)
{
    flashc_cli_attention_args args;
    int code = FLASHC_CLI_OK;
    if (!flashc_cli_attention_parse(&words, argc, argv, &args, &code))
        return code;
    if (args.dry_run) {
        args = without_all(&args);
        return flashc_cli_explain(&args);
    }
    flashc_bench_run *runs = calloc((size_t)flashc_kernel_count() + 1, sizeof *runs);
    if (runs == NULL)
        return flashc_cli_error("no memory for the results");
    int num_runs = 0;
    code = bench_job(&args, runs, &num_runs);
    if (code == FLASHC_CLI_OK && num_runs == 0)
        code = flashc_cli_error("no kernel can run this");
    if (code == FLASHC_CLI_OK)
        report(&args, num_runs, runs);
    for (int i = 0; i < num_runs; i++)
        free(runs[i].repeats);
    free(runs);
    return flashc_cli_finish_stdout(code);
}
