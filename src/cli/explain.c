/* What `explain` and `attention --dry-run` print: the plan, and what is measured about it if that is asked for. */
#include "cli/cli.h"
#include "cli/job.h"
#include "cli/predict.h"
#include "cli/probe.h"
#include "cli/stream_calls.h"

/* One of the calls that a job is: on the own keys, or on a prefix. */
typedef struct plan_part {
    const flashc_explanation *plan;
    flashc_attention_params params;
    int measured; /* a part that computes nothing is not */
    flashc_probe probe;
    flashc_predictions predictions;
} plan_part;

typedef struct explanation_run {
    flashc_cli_job job;
    flashc_cli_plan plan;
    plan_part own, prefix;
} explanation_run;

static int measure(const flashc_cli_attention_args *args, plan_part *part)
{
    part->measured = 1;
    if (args->probe && flashc_probe_run(args, &part->params, part->plan, &part->probe))
        return FLASHC_CLI_FAILED;
    return args->predict ? flashc_predict(args, &part->params, part->plan, &part->predictions) : FLASHC_CLI_OK;
}

static int plan(const flashc_cli_attention_args *args, explanation_run *run)
{
    if (flashc_cli_job_plan(&run->job, &run->plan))
        return FLASHC_CLI_FAILED;
    run->own = (plan_part){.plan = &run->plan.own, .params = run->job.params};
    if (!run->plan.has_prefix)
        return measure(args, &run->own);
    run->prefix = (plan_part){.plan = &run->plan.prefix,
                              .params = flashc_cli_stream_prefix(&run->job.params, &run->job.prefix.shared)};
    /* Where neither computes anything, the own part is to say so. */
    const int on_prefix = run->plan.prefix.flops > 0.0;
    if ((run->plan.own.flops > 0.0 || !on_prefix) && measure(args, &run->own))
        return FLASHC_CLI_FAILED;
    return on_prefix ? measure(args, &run->prefix) : FLASHC_CLI_OK;
}

static void print_part(const flashc_cli_attention_args *args, const plan_part *part)
{
    flashc_cli_print_explanation(part->plan, stdout);
    if (part->measured && args->probe)
        flashc_probe_print(&part->probe, stdout);
    if (part->measured && args->predict)
        flashc_predictions_print(&part->predictions, stdout);
}

static void print_text(const flashc_cli_attention_args *args, const explanation_run *run)
{
    flashc_cli_job_print_shapes(&run->job, stdout);
    if (run->plan.has_prefix)
        printf("%s", flashc_cli_own_title);
    print_part(args, &run->own);
    if (!run->plan.has_prefix)
        return;
    printf("%s", flashc_cli_prefix_title);
    print_part(args, &run->prefix);
}

static void json_part(const flashc_cli_attention_args *args, const plan_part *part, flashc_cli_json *json)
{
    flashc_cli_json_explanation(part->plan, json);
    if (part->measured && args->probe)
        flashc_probe_json(&part->probe, json);
    if (part->measured && args->predict)
        flashc_predictions_json(&part->predictions, json);
}

static void print_json(const flashc_cli_attention_args *args, const explanation_run *run)
{
    flashc_cli_json json;
    flashc_cli_json_begin(&json, stdout);
    flashc_cli_json_object(&json, NULL);
    flashc_cli_job_json_shapes(&run->job, &json);
    json_part(args, &run->own, &json);
    if (run->plan.has_prefix) {
        flashc_cli_json_object(&json, "on_prefix");
        json_part(args, &run->prefix, &json);
        flashc_cli_json_end(&json, '}');
    }
    flashc_cli_json_end(&json, '}');
}

int flashc_cli_explain(const flashc_cli_attention_args *args)
{
    static explanation_run run; /* too large for the stack */
    int exit_code = flashc_cli_job_open(args, 1, &run.job);
    if (exit_code == FLASHC_CLI_OK) {
        exit_code = plan(args, &run);
        if (exit_code == FLASHC_CLI_OK && args->json)
            print_json(args, &run);
        else if (exit_code == FLASHC_CLI_OK && !args->quiet)
            print_text(args, &run);
        exit_code = flashc_cli_finish_stdout(exit_code);
    }
    flashc_cli_job_close(&run.job);
    return exit_code;
}
