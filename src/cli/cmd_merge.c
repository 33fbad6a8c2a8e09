#include "cli/cli.h"
#include "cli/json.h"
#include "cli/merge.h"
#include "cli/options.h"
#include "cli/output.h"

#include <stdio.h>

enum {
    OPT_OUTPUT = 1, OPT_LSE, OPT_STATES, OPT_SAVE_STATE, OPT_SINKS, OPT_LAYOUT, OPT_DTYPE,
    OPT_OUT_DTYPE, OPT_JSON, OPT_QUIET
};
enum { NUM_OUTPUTS = 4 };

static const flashc_cli_option options[] = {
    {OPT_OUTPUT, "output", 'o', "FILE", "Where the merged O goes.", FLASHC_CLI_FOR_ALL},
    {OPT_LSE, "lse", 0, "FILE", "Where the merged log-sum-exp goes.", FLASHC_CLI_FOR_ALL},
    {OPT_STATES, "states", 0, NULL,
     "The parts are states that `flashc-run attention --save-state NAME` saved: NAME1 [NAME2 ...].",
     FLASHC_CLI_FOR_ALL},
    {OPT_SAVE_STATE, "save-state", 0, "NAME", "With --states: where the merged state goes.", FLASHC_CLI_FOR_ALL},
    {OPT_SINKS, "sinks", 0, "FILE",
     "With --states: one more logit in each softmax, without a value, in O and LSE: [H].", FLASHC_CLI_FOR_ALL},
    {OPT_LAYOUT, "layout", 0, "L", "Order of the axes of O: bhsd (default) or bshd. LSE is [B,H,L] in both.",
     FLASHC_CLI_FOR_ALL},
    {OPT_DTYPE, "dtype", 0, "T", "Convert the O of the parts to f32, f16 or bf16 first; only with bf16 is 2-byte raw "
     "data read, as bf16.", FLASHC_CLI_FOR_ALL},
    {OPT_OUT_DTYPE, "out-dtype", 0, "T", "Type of the merged O: f32 (default), f16 or bf16 (written as <V2).",
     FLASHC_CLI_FOR_ALL},
    {OPT_JSON, "json", 0, NULL, "One JSON object on standard output instead of text.", FLASHC_CLI_FOR_ALL},
    {OPT_QUIET, "quiet", 0, NULL, "Print nothing but errors and what --json asks for.", FLASHC_CLI_FOR_ALL},
    {0, NULL, 0, NULL, NULL, 0},
};

typedef struct merge_run {
    const char *o_path, *lse_path, *save_state, *sinks;
    int states, bshd, dtype, out_dtype, json, quiet;
    int num_parts;
    flashc_cli_merged merged;
} merge_run;

static int take_option(int id, const char *value, void *args)
{
    merge_run *run = args;
    switch (id) {
    case OPT_OUTPUT: run->o_path = value; return 0;
    case OPT_LSE: run->lse_path = value; return 0;
    case OPT_STATES: run->states = 1; return 0;
    case OPT_SAVE_STATE: run->save_state = value; return 0;
    case OPT_SINKS: run->sinks = value; return 0;
    case OPT_LAYOUT: return flashc_cli_parse_layout(value, &run->bshd);
    case OPT_DTYPE: return flashc_cli_parse_dtype("--dtype", value, &run->dtype);
    case OPT_OUT_DTYPE: return flashc_cli_parse_dtype("--out-dtype", value, &run->out_dtype);
    case OPT_JSON: run->json = 1; return 0;
    default: run->quiet = 1; return 0;
    }
}

static void report(const merge_run *run, FILE *text_out)
{
    const flashc_cli_array *o = &run->merged.o;
    char shape[FLASHC_CLI_SHAPE_TEXT], text[FLASHC_CLI_SIZE_TEXT];
    if (!run->json) {
        fprintf(text_out, "merged     %s\n",
                flashc_cli_size_text(run->states ? "states" : "parts", run->num_parts, text));
        fprintf(text_out, "O          %s %s\n", flashc_cli_shape_text(o->rank, o->shape, shape),
                flashc_dtype_name(o->dtype));
        return;
    }
    flashc_cli_json json;
    flashc_cli_json_begin(&json, stdout);
    flashc_cli_json_object(&json, NULL);
    flashc_cli_json_int(&json, "parts", run->num_parts);
    flashc_cli_json_ints(&json, "shape", o->rank, o->shape);
    flashc_cli_json_string(&json, "dtype", flashc_dtype_name(o->dtype));
    flashc_cli_json_end(&json, '}');
}

static int merge_and_write(merge_run *run, char **names, const flashc_cli_output *outputs)
{
    flashc_npy_batch *batch;
    flashc_cli_merged *merged = &run->merged;
    if (flashc_cli_outputs_reserve(NUM_OUTPUTS, outputs, &batch))
        return FLASHC_CLI_FAILED;
    if ((run->states ? flashc_cli_merge_states(run->num_parts, names, run->bshd, run->sinks, merged)
                     : flashc_cli_merge_parts(run->num_parts, names, run->bshd, run->dtype, merged)) ||
        (run->out_dtype && flashc_cli_array_convert(&merged->o, (flashc_dtype)run->out_dtype))) {
        flashc_npy_abort(batch);
        return FLASHC_CLI_FAILED;
    }
    return flashc_cli_outputs_write(NUM_OUTPUTS, outputs, batch);
}

static int run_merge(merge_run *run, char **names)
{
    flashc_cli_merged *merged = &run->merged;
    if (run->save_state && flashc_cli_states_name(run->save_state, &merged->states))
        return FLASHC_CLI_FAILED;
    const flashc_cli_output outputs[NUM_OUTPUTS] = {{run->o_path, &merged->o},
                                                   {run->lse_path, &merged->lse},
                                                   {merged->states.rows_path, &merged->states.rows},
                                                   {merged->states.keys_path, &merged->states.keys}};
    FILE *words = flashc_cli_outputs_words(NUM_OUTPUTS, outputs, run->json);
    if (!words)
        return FLASHC_CLI_USAGE;
    if (merge_and_write(run, names, outputs))
        return FLASHC_CLI_FAILED;
    if (run->json || !run->quiet)
        report(run, words);
    return flashc_cli_finish_stdout(FLASHC_CLI_OK);
}

static const flashc_cli_syntax syntax = {
    .options = options,
    .command = FLASHC_CLI_FOR_ALL,
    .take = take_option,
    .takes_operands = 1,
    .usage = "flashc-run merge -o O.npy [--lse LSE.npy] [options] O1 LSE1 [O2 LSE2 ...]\n"
             "       flashc-run merge --states -o O.npy [options] NAME1 [NAME2 ...]",
    .description =
        "Merges partial results of attention, each over its own keys, into exact attention over all of them. Each part "
        "is a pair of files: its O of rank 2, 3 or 4, and its LSE (f32, of one rank less). '-' means standard input or "
        "standard output. With --states each part is a saved state.",
};

static int check(const merge_run *run, int num_names)
{
    if (!run->states && (num_names < 2 || num_names % 2))
        return flashc_cli_usage_error("expected pairs of files, an O and its LSE for each part, found %d files",
                                      num_names);
    if (run->states && num_names < 1)
        return flashc_cli_usage_error("expected the names of states, found none");
    if (run->states && run->dtype)
        return flashc_cli_usage_error("--states and --dtype do not go together: states are f32");
    if (run->save_state && !run->states)
        return flashc_cli_usage_error("--save-state needs --states");
    if (run->sinks && !run->states)
        return flashc_cli_usage_error("--sinks needs --states: parts are merged with a part whose O is 0 and whose LSE "
                                      "is the sink");
    if (run->sinks && !run->o_path && !run->lse_path)
        return flashc_cli_usage_error("--sinks needs -o or --lse: a state has no sinks");
    if (!run->o_path && !run->lse_path && !run->save_state)
        return flashc_cli_usage_error("nothing to do: give at least one of -o%s and --lse",
                                      run->states ? ", --save-state" : "");
    return run->save_state ? flashc_cli_states_check_name("--save-state", run->save_state) : FLASHC_CLI_OK;
}

int flashc_cmd_merge(int argc, char **argv)
{
    merge_run run = {0};
    int exit_code, num_names;
    if (!flashc_cli_options_parse(&syntax, argc, argv, &run, &exit_code))
        return exit_code;
    char **names = flashc_cli_operands(argc, argv, &num_names);
    exit_code = check(&run, num_names);
    if (exit_code)
        return exit_code;
    run.num_parts = run.states ? num_names : num_names / 2;
    exit_code = run_merge(&run, names);
    flashc_cli_merged_free(&run.merged);
    return exit_code;
}
