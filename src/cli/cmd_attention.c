#include "cli/cli.h"
#include "cli/clock.h"
#include "cli/compare.h"
#include "cli/job.h"
#include "cli/library_error.h"
#include "cli/output.h"
#include "cli/prefix.h"
#include "cli/progress.h"
#include "cli/stream.h"

enum { NUM_OUTPUTS = 7 };

/* Everything that one run holds. */
typedef struct attention_run {
    flashc_cli_attention_args args;
    flashc_cli_job job;
    flashc_cli_comparison comparison;
    flashc_cli_stream_states states;
    flashc_cli_plan plan;
    double seconds;
} attention_run;

static int check_args(const flashc_cli_attention_args *args, const flashc_cli_output *outputs)
{
    if (!args->q || !args->k || !args->v)
        return flashc_cli_usage_error("%s FILE is missing", !args->q ? "-q" : !args->k ? "-k" : "-v");
    if (flashc_cli_stream_check(args) || flashc_cli_prefix_check(args))
        return FLASHC_CLI_USAGE;
    if (args->dry_run)
        return FLASHC_CLI_OK;
    if (!args->o && !args->lse && !args->scores && !args->key_mass && !args->row_max && !args->save_state &&
        !args->compare)
        return flashc_cli_usage_error("nothing to do: give at least one of -o, --lse, --scores, --key-mass, --row-max, "
                                      "--save-state and --compare");
    if (!args->compare && (args->rtol >= 0 || args->atol >= 0))
        return flashc_cli_usage_error("%s needs --compare", args->rtol >= 0 ? "--rtol" : "--atol");
    if (!args->scores && args->scores_stage != FLASHC_SCORES_SCALED)
        return flashc_cli_usage_error("--scores-stage needs --scores");
    return flashc_cli_outputs_words(NUM_OUTPUTS, outputs, args->json) ? FLASHC_CLI_OK : FLASHC_CLI_USAGE;
}

static double gflops(const attention_run *run)
{
    return 1e-9 * (run->plan.own.flops + run->plan.prefix.flops) / run->seconds;
}

static void report_text(const attention_run *run, FILE *out)
{
    const flashc_explanation *own = &run->plan.own;
    flashc_cli_job_print_shapes(&run->job, out);
    if (run->args.verbose) {
        flashc_cli_print_plan(&run->plan, out);
    } else {
        fprintf(out, "kernel     %s\n", own->kernel);
        fprintf(out, "compute    %s\n", flashc_cli_compute_name(own->compute));
        fprintf(out, "gemm       %s\n", own->gemm);
        fprintf(out, "threads    %lld\n", (long long)own->num_threads);
        fprintf(out, "workspace  %zu bytes\n", own->workspace_size);
        if (run->plan.has_prefix)
            fprintf(out, "prefix     %s\n", run->plan.prefix.kernel);
    }
    fprintf(out, "time       %.3f ms\n", 1e3 * run->seconds);
    fprintf(out, "speed      %.4g GFLOP/s\n", gflops(run));
    if (run->args.compare)
        flashc_cli_compare_print(&run->job, &run->comparison, out);
}

static void report_json(const attention_run *run)
{
    flashc_cli_json json;
    flashc_cli_json_begin(&json, stdout);
    flashc_cli_json_object(&json, NULL);
    flashc_cli_job_json_shapes(&run->job, &json);
    flashc_cli_json_plan(&run->plan, &json);
    flashc_cli_json_double(&json, "milliseconds", 1e3 * run->seconds);
    flashc_cli_json_double(&json, "gflops", gflops(run));
    if (run->args.compare)
        flashc_cli_compare_json(&run->job, &run->comparison, &json);
    flashc_cli_json_end(&json, '}');
}

static flashc_status call(const attention_run *run)
{
    return run->plan.has_prefix ? flashc_attention_shared_prefix(&run->job.params, &run->job.prefix.shared)
                                : flashc_attention_fwd(&run->job.params);
}

static int compute(attention_run *run)
{
    flashc_cli_progress progress;
    flashc_status status;
    if (flashc_cli_job_plan(&run->job, &run->plan))
        return FLASHC_CLI_FAILED;
    flashc_cli_progress_begin(&progress, run->args.quiet, &run->job.params);
    const double start = flashc_cli_now();
    int exit_code = FLASHC_CLI_OK;
    if (run->args.stream_kv)
        exit_code = flashc_cli_stream_run(&run->args, &run->job, &run->plan, &run->states, &progress);
    else if ((status = call(run)) != FLASHC_OK)
        exit_code = flashc_cli_library_error();
    run->seconds = flashc_cli_now() - start;
    flashc_cli_progress_end(&progress);
    return exit_code;
}

static int run_attention(attention_run *run, const flashc_cli_output *outputs)
{
    flashc_npy_batch *batch;
    FILE *words = flashc_cli_outputs_words(NUM_OUTPUTS, outputs, run->args.json);
    if (!run->args.lse && !run->args.scores && !run->args.key_mass)
        run->job.params.lse.data = NULL;
    if (flashc_cli_stream_open(&run->args, &run->job, &run->states))
        return FLASHC_CLI_FAILED;
    if (run->args.compare && flashc_cli_compare_open(&run->args, &run->job, &run->comparison))
        return FLASHC_CLI_FAILED;
    if (flashc_cli_outputs_reserve(NUM_OUTPUTS, outputs, &batch))
        return FLASHC_CLI_FAILED;
    if (compute(run) || (run->args.compare && flashc_cli_compare_run(&run->job, &run->comparison))) {
        flashc_npy_abort(batch);
        return FLASHC_CLI_FAILED;
    }
    if (flashc_cli_outputs_write(NUM_OUTPUTS, outputs, batch))
        return FLASHC_CLI_FAILED;
    if (run->args.json)
        report_json(run);
    else if (!run->args.quiet)
        report_text(run, words);
    const int exit_code = flashc_cli_finish_stdout(FLASHC_CLI_OK);
    if (exit_code == FLASHC_CLI_OK && run->args.compare)
        return flashc_cli_compare_verdict(&run->job, &run->comparison);
    return exit_code;
}

int flashc_cmd_attention(int argc, char **argv)
{
    static attention_run run; /* too large for the stack */
    const flashc_cli_syntax words = {
        .command = FLASHC_CLI_FOR_ATTENTION,
        .usage = "flashc-run attention -q Q.npy -k K.npy -v V.npy -o O.npy [options]",
        .description =
            "Computes O = softmax(scale * Q K^T + bias) V. A file name '-' means standard input or standard output; "
            "several inputs '-' follow one another, Q, K and V first (the man page has the order). Output files appear "
            "all or not at all, and may be input files, which they replace.",
        .notes = flashc_cli_compare_notes,
    };
    int exit_code;
    if (!flashc_cli_attention_parse(&words, argc, argv, &run.args, &exit_code))
        return exit_code;
    if (run.args.save_state && flashc_cli_states_name(run.args.save_state, &run.states.after))
        return FLASHC_CLI_FAILED;
    const flashc_cli_output outputs[NUM_OUTPUTS] = {{run.args.o, &run.job.o},
                                                   {run.args.lse, &run.job.lse},
                                                   {run.args.scores, &run.job.extra.scores},
                                                   {run.args.key_mass, &run.job.extra.key_mass},
                                                   {run.args.row_max, &run.job.extra.row_max},
                                                   {run.states.after.rows_path, &run.states.after.rows},
                                                   {run.states.after.keys_path, &run.states.after.keys}};
    exit_code = check_args(&run.args, outputs);
    if (exit_code)
        return exit_code;
    if (run.args.dry_run)
        return flashc_cli_explain(&run.args);
    exit_code = flashc_cli_job_open(&run.args, 0, &run.job);
    if (exit_code == FLASHC_CLI_OK)
        exit_code = run_attention(&run, outputs);
    flashc_cli_compare_close(&run.comparison);
    flashc_cli_stream_close(&run.states);
    flashc_cli_job_close(&run.job);
    return exit_code;
}
