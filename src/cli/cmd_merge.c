#include "cli/array.h"
#include "cli/cli.h"
#include "cli/job.h"
#include "cli/output.h"

#include <stdlib.h>
#include <string.h>

enum { OPT_OUTPUT = 1, OPT_LSE, OPT_LAYOUT, OPT_DTYPE, OPT_OUT_DTYPE, OPT_JSON, OPT_QUIET };
enum { NUM_OUTPUTS = 2 };

static const flashc_cli_option options[] = {
    {OPT_OUTPUT, "output", 'o', "FILE", "Where the merged O goes.", FLASHC_CLI_FOR_ALL},
    {OPT_LSE, "lse", 0, "FILE", "Where the merged log-sum-exp goes.", FLASHC_CLI_FOR_ALL},
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
    const char *o_path, *lse_path;
    int bshd, dtype, out_dtype, json, quiet;
    int num_parts;
    flashc_cli_array *o, *lse;           /* of each part, f32, in C order, rows in the same order in both */
    const float **o_parts, **lse_parts;  /* their data */
} merge_run;

static int take_option(int id, const char *value, void *args)
{
    merge_run *run = args;
    switch (id) {
    case OPT_OUTPUT: run->o_path = value; return 0;
    case OPT_LSE: run->lse_path = value; return 0;
    case OPT_LAYOUT: return flashc_cli_parse_layout(value, &run->bshd);
    case OPT_DTYPE: return flashc_cli_parse_dtype("--dtype", value, &run->dtype);
    case OPT_OUT_DTYPE: return flashc_cli_parse_dtype("--out-dtype", value, &run->out_dtype);
    case OPT_JSON: run->json = 1; return 0;
    default: run->quiet = 1; return 0;
    }
}

/* LSE [.., H, L] with its last two axes exchanged: the order of O's rows in the layout bshd, and back. */
static int exchange_rows(flashc_cli_array *lse)
{
    if (lse->rank < 2)
        return FLASHC_CLI_OK;
    flashc_cli_array_swap_axes(lse, lse->rank - 2, lse->rank - 1);
    return flashc_cli_array_pack(lse);
}

static int read_part(merge_run *run, int part, const char *o_path, const char *lse_path)
{
    flashc_cli_array *o = &run->o[part], *lse = &run->lse[part];
    char found[FLASHC_CLI_SHAPE_TEXT], expected[FLASHC_CLI_SHAPE_TEXT];
    if (flashc_cli_array_read(o_path, 0, o) || flashc_cli_array_to_float(o, run->dtype) ||
        flashc_cli_array_convert(o, FLASHC_F32) || flashc_cli_array_pack(o))
        return FLASHC_CLI_FAILED;
    if (flashc_cli_array_read(lse_path, 0, lse))
        return FLASHC_CLI_FAILED;
    if (lse->file_type != FLASHC_NPY_F32)
        return flashc_cli_error("%s: expected an LSE of type f32, found %s", lse->name,
                                flashc_npy_type_name(lse->file_type));
    lse->dtype = FLASHC_F32;
    if (o->rank < 2 || o->rank > 4)
        return flashc_cli_error("%s: expected an O of rank 2, 3 or 4, found %s", o->name,
                                flashc_cli_shape_text(o->rank, o->shape, found));
    const flashc_cli_array *first = &run->o[0];
    if (o->rank != first->rank || memcmp(o->shape, first->shape, (size_t)o->rank * sizeof o->shape[0]) != 0)
        return flashc_cli_error("%s has shape %s, %s has %s: the parts must have the same shape", o->name,
                                flashc_cli_shape_text(o->rank, o->shape, found), first->name,
                                flashc_cli_shape_text(first->rank, first->shape, expected));
    int64_t rows[4];
    memcpy(rows, o->shape, sizeof rows);
    if (run->bshd && o->rank > 2) {
        rows[o->rank - 3] = o->shape[o->rank - 2];
        rows[o->rank - 2] = o->shape[o->rank - 3];
    }
    if (lse->rank != o->rank - 1 || memcmp(lse->shape, rows, (size_t)lse->rank * sizeof rows[0]) != 0)
        return flashc_cli_error("%s has shape %s: %s needs an LSE of shape %s", lse->name,
                                flashc_cli_shape_text(lse->rank, lse->shape, found), o->name,
                                flashc_cli_shape_text(o->rank - 1, rows, expected));
    if (run->bshd ? exchange_rows(lse) : flashc_cli_array_pack(lse))
        return FLASHC_CLI_FAILED;
    run->o_parts[part] = o->data;
    run->lse_parts[part] = lse->data;
    return FLASHC_CLI_OK;
}

/* Merges into the first part. */
static int merge_parts(merge_run *run)
{
    flashc_cli_array *o = &run->o[0], *lse = &run->lse[0];
    const flashc_status status = flashc_merge_partials(run->num_parts, lse->count, o->shape[o->rank - 1],
                                                       run->o_parts, run->lse_parts, o->data, lse->data);
    if (status != FLASHC_OK)
        return flashc_cli_library_error();
    if (run->bshd && exchange_rows(lse))
        return FLASHC_CLI_FAILED;
    return run->out_dtype ? flashc_cli_array_convert(o, (flashc_dtype)run->out_dtype) : FLASHC_CLI_OK;
}

static void report(const merge_run *run, FILE *text_out)
{
    const flashc_cli_array *o = &run->o[0];
    char shape[FLASHC_CLI_SHAPE_TEXT];
    if (!run->json) {
        fprintf(text_out, "merged     %d parts\n", run->num_parts);
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

static int run_merge(merge_run *run, char **paths)
{
    const flashc_cli_output outputs[NUM_OUTPUTS] = {{run->o_path, &run->o[0]}, {run->lse_path, &run->lse[0]}};
    const int data_on_stdout = flashc_cli_outputs_use_stdout(NUM_OUTPUTS, outputs);
    flashc_npy_batch *batch;
    if (run->json && data_on_stdout)
        return flashc_cli_usage_error("--json and an output '-' both want standard output");
    for (int i = 0; i < run->num_parts; i++)
        if (read_part(run, i, paths[2 * i], paths[2 * i + 1]))
            return FLASHC_CLI_FAILED;
    if (flashc_cli_outputs_reserve(NUM_OUTPUTS, outputs, &batch))
        return FLASHC_CLI_FAILED;
    if (merge_parts(run)) {
        flashc_npy_abort(batch);
        return FLASHC_CLI_FAILED;
    }
    if (flashc_cli_outputs_write(NUM_OUTPUTS, outputs, batch))
        return FLASHC_CLI_FAILED;
    if (run->json || !run->quiet)
        report(run, data_on_stdout ? stderr : stdout);
    return flashc_cli_finish_stdout(FLASHC_CLI_OK);
}

static int allocate_and_run(merge_run *run, char **paths)
{
    const size_t n = (size_t)run->num_parts;
    int exit_code = FLASHC_CLI_FAILED;
    run->o = calloc(n, sizeof *run->o);
    run->lse = calloc(n, sizeof *run->lse);
    run->o_parts = calloc(n, sizeof *run->o_parts);
    run->lse_parts = calloc(n, sizeof *run->lse_parts);
    if (run->o && run->lse && run->o_parts && run->lse_parts)
        exit_code = run_merge(run, paths);
    else
        flashc_cli_error("no memory for %d parts", run->num_parts);
    for (size_t i = 0; i < n; i++) {
        if (run->o)
            flashc_cli_array_free(&run->o[i]);
        if (run->lse)
            flashc_cli_array_free(&run->lse[i]);
    }
    free(run->o);
    free(run->lse);
    free(run->o_parts);
    free(run->lse_parts);
    return exit_code;
}

static const flashc_cli_syntax syntax = {
    .options = options,
    .command = FLASHC_CLI_FOR_ALL,
    .take = take_option,
    .takes_operands = 1,
    .usage = "flashc-run merge -o O.npy [--lse LSE.npy] [options] O1 LSE1 [O2 LSE2 ...]",
    .description =
        "Merges partial results of attention, each over its own keys, into exact attention over all of them. Each part "
        "is a pair of files: its O of rank 2, 3 or 4, and its LSE (f32, of one rank less). '-' means standard input or "
        "standard output.",
};

int flashc_cmd_merge(int argc, char **argv)
{
    merge_run run = {0};
    int exit_code, num_files;
    if (!flashc_cli_options_parse(&syntax, argc, argv, &run, &exit_code))
        return exit_code;
    char **paths = flashc_cli_operands(argc, argv, &num_files);
    if (num_files < 2 || num_files % 2)
        return flashc_cli_usage_error("expected pairs of files, an O and its LSE for each part, found %d files",
                                      num_files);
    if (!run.o_path && !run.lse_path)
        return flashc_cli_usage_error("nothing to do: give at least one of -o and --lse");
    run.num_parts = num_files / 2;
    return allocate_and_run(&run, paths);
}
