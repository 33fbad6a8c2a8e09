#include "cli/append_job.h"
#include "cli/caches.h"
#include "cli/cli.h"
#include "cli/library_error.h"
#include "cli/options.h"
#include "cli/output.h"

#include <string.h>

enum {
    OPT_KEY = 1, OPT_VALUE, OPT_QUERY, OPT_CACHE_K, OPT_CACHE_V, OPT_SCALE_K, OPT_SCALE_V,
    OPT_OUTPUT_K, OPT_OUTPUT_V, OPT_OUTPUT_SCALE_K, OPT_OUTPUT_SCALE_V, OPT_OUTPUT_Q, OPT_POSITIONS,
    OPT_SEQLENS, OPT_CU_SEQLENS, OPT_BLOCK_TABLE, OPT_BLOCK_TABLE_V, OPT_COS, OPT_SIN, OPT_INTERLEAVED,
    OPT_ROTARY_POSITIONS, OPT_LAYOUT, OPT_DTYPE, OPT_CACHE_DTYPE, OPT_OUT_DTYPE, OPT_QUIET
};

static const flashc_cli_option options[] = {
    {OPT_KEY, "key", 'k', "FILE", "New rows of K: [H,L,D] or [B,H,L,D] (see --layout).", FLASHC_CLI_FOR_ALL},
    {OPT_VALUE, "value", 'v', "FILE", "New rows of V, of K's shape but for the last axis.", FLASHC_CLI_FOR_ALL},
    {OPT_QUERY, "query", 'q', "FILE", "The queries of the same positions, to be rotated like K.", FLASHC_CLI_FOR_ALL},
    {OPT_CACHE_K, "cache-k", 0, "FILE",
     "The cache of K as it is: [B,H,L,D], or with --block-table pages [P,H,R,D].", FLASHC_CLI_FOR_ALL},
    {OPT_CACHE_V, "cache-v", 0, "FILE", "The cache of V.", FLASHC_CLI_FOR_ALL},
    {OPT_SCALE_K, "k-scale", 0, "FILE",
     "What the codes of K's cache are multiplied by: f32, of its shape without the last axis; f8 alone may repeat a 1.",
     FLASHC_CLI_FOR_ALL},
    {OPT_SCALE_V, "v-scale", 0, "FILE", "The same of V's.", FLASHC_CLI_FOR_ALL},
    {OPT_OUTPUT_K, "output-k", 0, "FILE", "Where the cache of K goes with the new rows in it.", FLASHC_CLI_FOR_ALL},
    {OPT_OUTPUT_V, "output-v", 0, "FILE", "Where the cache of V goes.", FLASHC_CLI_FOR_ALL},
    {OPT_OUTPUT_SCALE_K, "output-k-scale", 0, "FILE", "i8: where --k-scale goes with the new rows' in it.",
     FLASHC_CLI_FOR_ALL},
    {OPT_OUTPUT_SCALE_V, "output-v-scale", 0, "FILE", "i8: where --v-scale goes.", FLASHC_CLI_FOR_ALL},
    {OPT_OUTPUT_Q, "output-q", 0, "FILE", "Where the rotated queries go.", FLASHC_CLI_FOR_ALL},
    {OPT_POSITIONS, "positions", 0, "FILE",
     "For each sequence the row of the cache that its first new row becomes: i32 or i64, [B].", FLASHC_CLI_FOR_ALL},
    {OPT_SEQLENS, "seqlens", 0, "FILE", "How many of the L rows each sequence has, [B]; default all.",
     FLASHC_CLI_FOR_ALL},
    {OPT_CU_SEQLENS, "cu-seqlens", 0, "FILE",
     "The new rows are packed, [H,L,D]: sequence b has the rows from number b to number b + 1 of this file, [B+1].",
     FLASHC_CLI_FOR_ALL},
    {OPT_BLOCK_TABLE, "block-table", 0, "FILE",
     "The caches are pages: rows i*R to i*R + R - 1 of sequence b are page [b,i] of this file, [B,N].",
     FLASHC_CLI_FOR_ALL},
    {OPT_BLOCK_TABLE_V, "block-table-v", 0, "FILE", "The pages of V, if they are others.", FLASHC_CLI_FOR_ALL},
    {OPT_COS, "cos", 0, "FILE",
     "Rotate K and Q: cosines [positions, rotary_dim / 2]; goes with --sin.", FLASHC_CLI_FOR_ALL},
    {OPT_SIN, "sin", 0, "FILE", "The sines, of the same shape.", FLASHC_CLI_FOR_ALL},
    {OPT_INTERLEAVED, "interleaved", 0, NULL,
     "Rotate columns 2d and 2d + 1 together, rather than d and d + rotary_dim / 2.", FLASHC_CLI_FOR_ALL},
    {OPT_ROTARY_POSITIONS, "rotary-positions", 0, "FILE",
     "Position of each sequence's first new row in the cosines and sines, [B]; default --positions.",
     FLASHC_CLI_FOR_ALL},
    {OPT_LAYOUT, "layout", 0, "L", "Order of the axes of all arrays: bhsd (default) or bshd.", FLASHC_CLI_FOR_ALL},
    {OPT_DTYPE, "dtype", 0, "T",
     "Convert the new rows to f32, f16 or bf16 first; only with bf16 is 2-byte raw data read, as bf16.",
     FLASHC_CLI_FOR_ALL},
    {OPT_CACHE_DTYPE, "cache-dtype", 0, "T",
     "The type that the caches are kept in: f32, f16, bf16, i8, f8_e4m3, f8_e5m2, q8_0.", FLASHC_CLI_FOR_ALL},
    {OPT_OUT_DTYPE, "out-dtype", 0, "T", "Type of the rotated queries: f32, f16 or bf16; default Q's.",
     FLASHC_CLI_FOR_ALL},
    {OPT_QUIET, "quiet", 0, NULL, "Print nothing but errors.", FLASHC_CLI_FOR_ALL},
    {0, NULL, 0, NULL, NULL, 0},
};

enum { OUTPUT_K, OUTPUT_V, OUTPUT_SCALE_K, OUTPUT_SCALE_V, OUTPUT_Q, NUM_OUTPUTS };

typedef struct append_run {
    const char *output_path[NUM_OUTPUTS]; /* NULL: not given */
    int quiet;
    flashc_cli_append_job job;
} append_run;

static int take_option(int id, const char *value, void *args)
{
    append_run *run = args;
    static const int arrays[] = {[OPT_KEY] = APPEND_K,
                                 [OPT_VALUE] = APPEND_V,
                                 [OPT_QUERY] = APPEND_Q,
                                 [OPT_CACHE_K] = APPEND_CACHE_K,
                                 [OPT_CACHE_V] = APPEND_CACHE_V,
                                 [OPT_SCALE_K] = APPEND_SCALE_K,
                                 [OPT_SCALE_V] = APPEND_SCALE_V,
                                 [OPT_COS] = APPEND_COS,
                                 [OPT_SIN] = APPEND_SIN};
    static const int integers[] = {[OPT_POSITIONS] = APPEND_POSITIONS,
                                   [OPT_SEQLENS] = APPEND_SEQLENS,
                                   [OPT_CU_SEQLENS] = APPEND_CU_SEQLENS,
                                   [OPT_BLOCK_TABLE] = APPEND_BLOCK_TABLE,
                                   [OPT_BLOCK_TABLE_V] = APPEND_BLOCK_TABLE_V,
                                   [OPT_ROTARY_POSITIONS] = APPEND_ROTARY_POSITIONS};
    flashc_cli_append_job *job = &run->job;
    switch (id) {
    case OPT_KEY:
    case OPT_VALUE:
    case OPT_QUERY:
    case OPT_CACHE_K:
    case OPT_CACHE_V:
    case OPT_SCALE_K:
    case OPT_SCALE_V:
    case OPT_COS:
    case OPT_SIN: job->array_path[arrays[id]] = value; return 0;
    case OPT_OUTPUT_K:
    case OPT_OUTPUT_V:
    case OPT_OUTPUT_SCALE_K:
    case OPT_OUTPUT_SCALE_V:
    case OPT_OUTPUT_Q: run->output_path[id - OPT_OUTPUT_K] = value; return 0;
    case OPT_INTERLEAVED: job->interleaved = 1; return 0;
    case OPT_LAYOUT: return flashc_cli_parse_layout(value, &job->bshd);
    case OPT_DTYPE: return flashc_cli_parse_dtype("--dtype", value, &job->dtype);
    case OPT_CACHE_DTYPE: return flashc_cli_parse_cache_dtype("--cache-dtype", value, &job->cache_dtype);
    case OPT_OUT_DTYPE: return flashc_cli_parse_dtype("--out-dtype", value, &job->out_dtype);
    case OPT_QUIET: run->quiet = 1; return 0;
    default: job->integers_path[integers[id]] = value; return 0;
    }
}

/* What goes together. */
static int check_args(const append_run *run)
{
    static const struct {
        int array, partner, output;
        const char *name, *partner_name, *output_name;
    } pairs[] = {{APPEND_K, APPEND_CACHE_K, OUTPUT_K, "-k", "--cache-k", "--output-k"},
                 {APPEND_V, APPEND_CACHE_V, OUTPUT_V, "-v", "--cache-v", "--output-v"},
                 {APPEND_Q, APPEND_Q, OUTPUT_Q, "-q", "-q", "--output-q"}};
    const char *const *arrays = run->job.array_path, *const *integers = run->job.integers_path;
    int given = 0;
    for (int i = 0; i < 3; i++) {
        const int has = arrays[pairs[i].array] != NULL, partner = arrays[pairs[i].partner] != NULL;
        const int output = run->output_path[pairs[i].output] != NULL;
        given += has;
        if (pairs[i].array == pairs[i].partner && has != output)
            return flashc_cli_usage_error("%s and %s go together: one of them is missing", pairs[i].name,
                                          pairs[i].output_name);
        if (has != partner || has != output)
            return flashc_cli_usage_error("%s, %s and %s go together: one of them is missing", pairs[i].name,
                                          pairs[i].partner_name, pairs[i].output_name);
    }
    if (!given)
        return flashc_cli_usage_error("nothing to do: give at least one of -k, -v and -q");
    if ((arrays[APPEND_SCALE_K] && !arrays[APPEND_CACHE_K]) || (arrays[APPEND_SCALE_V] && !arrays[APPEND_CACHE_V]))
        return flashc_cli_usage_error("--k-scale goes with --cache-k, and --v-scale with --cache-v");
    if (run->job.out_dtype && !arrays[APPEND_Q])
        return flashc_cli_usage_error("--out-dtype goes with -q");
    if (!arrays[APPEND_COS] != !arrays[APPEND_SIN])
        return flashc_cli_usage_error("--cos and --sin go together: one of them is missing");
    if (run->job.interleaved && !arrays[APPEND_COS])
        return flashc_cli_usage_error("--interleaved needs --cos and --sin");
    if (integers[APPEND_ROTARY_POSITIONS] && !arrays[APPEND_COS])
        return flashc_cli_usage_error("--rotary-positions needs --cos and --sin");
    if (integers[APPEND_SEQLENS] && integers[APPEND_CU_SEQLENS])
        return flashc_cli_usage_error("give --seqlens or --cu-seqlens, not both");
    if (integers[APPEND_BLOCK_TABLE_V] && !integers[APPEND_BLOCK_TABLE])
        return flashc_cli_usage_error("--block-table-v needs --block-table");
    if (!integers[APPEND_POSITIONS] && (arrays[APPEND_K] || arrays[APPEND_V]))
        return flashc_cli_usage_error("--positions FILE is missing");
    return FLASHC_CLI_OK;
}

/* Scales are made beside codes of i8, and only there. */
static int check_scales(const append_run *run)
{
    static const char *const names[] = {"k", "v"};
    for (int i = 0; i < 2; i++) {
        const flashc_cli_array *cache = &run->job.array[APPEND_CACHE_K + i];
        const int is_i8 = cache->data && cache->dtype == FLASHC_I8;
        const int output = run->output_path[OUTPUT_SCALE_K + i] != NULL;
        if (is_i8 && !(output && run->job.array_path[APPEND_SCALE_K + i]))
            return flashc_cli_usage_error("%s has codes of i8: --%s-scale and --output-%s-scale go with it",
                                          cache->name, names[i], names[i]);
        if (!is_i8 && output)
            return flashc_cli_usage_error("--output-%s-scale goes with a cache of i8 alone", names[i]);
    }
    return FLASHC_CLI_OK;
}

/* What the library calls them. */
static void name_fields(const flashc_cli_append_job *job)
{
    const char *const *arrays = job->array_path, *const *integers = job->integers_path;
    static flashc_cli_field fields[APPEND_ARRAYS + APPEND_INTEGERS + 1];
    const flashc_cli_field all[APPEND_ARRAYS + APPEND_INTEGERS] = {
        {"k", "-k", arrays[APPEND_K]},
        {"v", "-v", arrays[APPEND_V]},
        {"q", "-q", arrays[APPEND_Q]},
        {"k_cache", "--cache-k", arrays[APPEND_CACHE_K]},
        {"v_cache", "--cache-v", arrays[APPEND_CACHE_V]},
        {"rotary_cos", "--cos", arrays[APPEND_COS]},
        {"rotary_sin", "--sin", arrays[APPEND_SIN]},
        {"k_cache_scale", "--k-scale", arrays[APPEND_SCALE_K]},
        {"v_cache_scale", "--v-scale", arrays[APPEND_SCALE_V]},
        {"positions", "--positions", integers[APPEND_POSITIONS]},
        {"seqlens_new", "--seqlens", integers[APPEND_SEQLENS]},
        {"cu_seqlens_new", "--cu-seqlens", integers[APPEND_CU_SEQLENS]},
        {"block_table", "--block-table", integers[APPEND_BLOCK_TABLE]},
        {"block_table_v", "--block-table-v", integers[APPEND_BLOCK_TABLE_V]},
        {"rotary_positions", "--rotary-positions", integers[APPEND_ROTARY_POSITIONS]},
    };
    memcpy(fields, all, sizeof all);
    flashc_cli_library_fields(fields);
}

static int run_append(append_run *run)
{
    flashc_cli_array *array = run->job.array;
    flashc_cli_output outputs[NUM_OUTPUTS] = {{run->output_path[OUTPUT_K], &array[APPEND_CACHE_K]},
                                              {run->output_path[OUTPUT_V], &array[APPEND_CACHE_V]},
                                              {run->output_path[OUTPUT_SCALE_K], &array[APPEND_SCALE_K]},
                                              {run->output_path[OUTPUT_SCALE_V], &array[APPEND_SCALE_V]},
                                              {run->output_path[OUTPUT_Q], &array[APPEND_Q]}};
    const flashc_append_params *params = &run->job.params;
    FILE *words = flashc_cli_outputs_words(NUM_OUTPUTS, outputs, 0);
    flashc_npy_batch *batch;
    int exit_code = flashc_cli_append_open(&run->job);
    if (exit_code == FLASHC_CLI_OK)
        exit_code = check_scales(run);
    if (exit_code)
        return exit_code;
    outputs[OUTPUT_Q].array = flashc_cli_append_rotated(&run->job);
    if (flashc_cli_outputs_reserve(NUM_OUTPUTS, outputs, &batch))
        return FLASHC_CLI_FAILED;
    const flashc_status status = flashc_append(params);
    if (status != FLASHC_OK) {
        flashc_npy_abort(batch);
        return flashc_cli_library_error();
    }
    flashc_cli_array_to_file(&array[APPEND_CACHE_K]);
    flashc_cli_array_to_file(&array[APPEND_CACHE_V]);
    if (flashc_cli_outputs_write(NUM_OUTPUTS, outputs, batch))
        return FLASHC_CLI_FAILED;
    char text[FLASHC_CLI_SIZE_TEXT];
    if (!run->quiet)
        fprintf(words, "appended   to %s, rotary_dim %lld\n", flashc_cli_size_text("sequences", params->batch, text),
                (long long)params->rotary_dim);
    return flashc_cli_finish_stdout(FLASHC_CLI_OK);
}

static const flashc_cli_syntax syntax = {
    .options = options,
    .command = FLASHC_CLI_FOR_ALL,
    .take = take_option,
    .usage = "flashc-run append -k K --cache-k C --output-k NEW --positions P [options]",
    .description =
        "Writes new rows of K and V into caches, contiguous or in pages, at each sequence's position, in the caches' "
        "type, with rotary embedding of K and Q if --cos and --sin are given. The caches are read, and written "
        "whole to the outputs, which may be the same files. '-' means standard input or standard output.",
};

int flashc_cmd_append(int argc, char **argv)
{
    append_run run = {.quiet = 0};
    int exit_code;
    if (!flashc_cli_options_parse(&syntax, argc, argv, &run, &exit_code))
        return exit_code;
    name_fields(&run.job);
    exit_code = check_args(&run);
    if (exit_code == FLASHC_CLI_OK)
        exit_code = run_append(&run);
    flashc_cli_append_close(&run.job);
    return exit_code;
}
