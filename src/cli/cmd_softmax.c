#include "cli/array.h"
#include "cli/cli.h"
#include "cli/json.h"
#include "cli/library_error.h"
#include "cli/options.h"
#include "cli/output.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_X = 1, OPT_OUTPUT, OPT_SPLIT, OPT_DTYPE, OPT_JSON, OPT_QUIET };
/* Results of up to this many elements are printed if no file is to hold them. */
enum { MAX_PRINTED = 256 };

static const flashc_cli_option options[] = {
    {OPT_X, "input", 'x', "FILE", "x, of rank 1 or more.", FLASHC_CLI_FOR_ALL},
    {OPT_OUTPUT, "output", 'o', "FILE",
     "Where softmax(x) goes; default: it is printed, if it has at most 256 elements.", FLASHC_CLI_FOR_ALL},
    {OPT_SPLIT, "split", 0, "N",
     "Cut each row into N pieces, compute them independently and merge their states; report how far the "
     "concatenation of the pieces' own softmaxes is from that.", FLASHC_CLI_FOR_ALL},
    {OPT_DTYPE, "dtype", 0, "T", "Convert x to f32, f16 or bf16; only with bf16 is 2-byte raw data read, as bf16.",
     FLASHC_CLI_FOR_ALL},
    {OPT_JSON, "json", 0, NULL, "One JSON object on standard output instead of text.", FLASHC_CLI_FOR_ALL},
    {OPT_QUIET, "quiet", 0, NULL, "Print nothing but errors and what --json asks for.", FLASHC_CLI_FOR_ALL},
    {0, NULL, 0, NULL, NULL, 0},
};

typedef struct softmax_run {
    const char *x_path, *y_path;
    int64_t split; /* 0: not given */
    int dtype, json, quiet;
    flashc_cli_array x, y, whole, naive;
    int64_t rows, cols;
    int y_valid, naive_valid;
    double from_whole, from_naive; /* the largest differences of y */
} softmax_run;

static int take_option(int id, const char *value, void *args)
{
    softmax_run *run = args;
    switch (id) {
    case OPT_X: run->x_path = value; return 0;
    case OPT_OUTPUT: run->y_path = value; return 0;
    case OPT_SPLIT: return flashc_cli_parse_int("--split", value, 1, INT64_MAX, &run->split);
    case OPT_DTYPE: return flashc_cli_parse_dtype("--dtype", value, &run->dtype);
    case OPT_JSON: run->json = 1; return 0;
    default: run->quiet = 1; return 0;
    }
}

static int read_x(softmax_run *run)
{
    char text[FLASHC_CLI_SIZE_TEXT];
    flashc_cli_array *x = &run->x;
    if (flashc_cli_array_read(run->x_path, 0, x) || flashc_cli_array_to_float(x, run->dtype) ||
        flashc_cli_array_pack(x))
        return FLASHC_CLI_FAILED;
    if (x->rank < 1)
        return flashc_cli_error("%s: expected rank 1 or more, found a single number", x->name);
    run->cols = x->shape[x->rank - 1];
    run->rows = 1; /* of rows without columns one stands for all: their number may be anything */
    for (int i = 0; run->cols == 0 && i < x->rank - 1; i++)
        run->rows = x->shape[i] ? run->rows : 0;
    if (run->cols)
        run->rows = x->count / run->cols;
    if (run->split > run->cols)
        return flashc_cli_error("%s has %s: expected at least one for each of %lld pieces", x->name,
                                flashc_cli_size_text("columns", run->cols, text), (long long)run->split);
    return FLASHC_CLI_OK;
}

static flashc_status softmax_of(const softmax_run *run, int64_t first, int64_t cols, const flashc_cli_array *y)
{
    const size_t offset = (size_t)first * flashc_dtype_size(y->dtype);
    return flashc_softmax(run->rows, cols, (const char *)run->x.data + offset, run->cols, (char *)y->data + offset,
                          run->cols, y->dtype, NULL);
}

/* One state per row, without V: the denominator of a softmax. */
static flashc_softmax_state state_of(float *memory, int64_t rows)
{
    return (flashc_softmax_state){.rows = rows, .row_max = memory, .row_sum = memory + rows};
}

/* The state of all pieces of x, merged into one. */
static flashc_status merge_pieces(const softmax_run *run, const float *x, const flashc_softmax_state *all,
                                  const flashc_softmax_state *piece)
{
    flashc_status status = flashc_softmax_state_init(all);
    for (int64_t i = 0; i < run->split && status == FLASHC_OK; i++) {
        const int64_t length = run->cols / run->split, longer = run->cols % run->split;
        const int64_t first = i * length + (i < longer ? i : longer);
        status = flashc_softmax_state_init(piece);
        if (status == FLASHC_OK)
            status = flashc_softmax_state_update(piece, length + (i < longer), x + first, run->cols, NULL, 0);
        if (status == FLASHC_OK)
            status = flashc_softmax_state_merge(all, piece);
        if (status == FLASHC_OK)
            status = softmax_of(run, first, length + (i < longer), &run->naive);
    }
    return status;
}

/* y = exp(x - max) / sum, over x. */
static void normalise(const softmax_run *run, float *x, const flashc_softmax_state *all)
{
    for (int64_t r = 0; r < run->rows; r++)
        for (int64_t c = 0; c < run->cols; c++) {
            float *element = &x[r * run->cols + c];
            const double row_max = (double)all->row_max[r];
            /* A row without a key: nothing but -inf. */
            *element = isinf(row_max) && row_max < 0
                           ? 0.0F
                           : (float)(exp((double)*element - row_max) / (double)all->row_sum[r]);
        }
}

/* NaN if one of the elements is. */
static flashc_status largest_difference(const flashc_cli_array *a, const flashc_cli_array *b, double *largest)
{
    flashc_compare_report report;
    const flashc_status status = flashc_compare(a->count, a->data, a->dtype, b->data, b->dtype, 0, 0, &report);
    *largest = status == FLASHC_OK ? report.max_abs_error : 0;
    for (int64_t i = 0; status == FLASHC_OK && i < a->count; i++) /* the report leaves out what is not finite */
        if (isnan(flashc_cli_array_element(a, i)) || isnan(flashc_cli_array_element(b, i)))
            *largest = (double)NAN;
    return status;
}

static int split_softmax(softmax_run *run)
{
    flashc_cli_array *x = &run->x, values = {0};
    if (flashc_cli_array_make("naive softmax", x->dtype, x->rank, x->shape, 0, &run->naive) ||
        flashc_cli_array_make("softmax", FLASHC_F32, x->rank, x->shape, 0, &values)) {
        flashc_cli_array_free(&values);
        return FLASHC_CLI_FAILED;
    }
    float *memory = calloc((size_t)run->rows * 4 + 1, sizeof *memory);
    if (!memory) {
        flashc_cli_array_free(&values);
        return flashc_cli_error("no memory for the states of %lld rows", (long long)run->rows);
    }
    const flashc_softmax_state all = state_of(memory, run->rows), piece = state_of(memory + 2 * run->rows, run->rows);
    float *y = values.data;
    flashc_status status = flashc_convert(y, FLASHC_F32, x->data, x->dtype, x->count);
    if (status == FLASHC_OK)
        status = merge_pieces(run, y, &all, &piece);
    if (status == FLASHC_OK) {
        normalise(run, y, &all);
        status = flashc_convert(run->y.data, run->y.dtype, y, FLASHC_F32, x->count);
    }
    if (status == FLASHC_OK)
        status = largest_difference(&run->y, &run->whole, &run->from_whole);
    if (status == FLASHC_OK)
        status = largest_difference(&run->naive, &run->y, &run->from_naive);
    if (status == FLASHC_OK)
        status = flashc_is_softmax(run->rows, run->cols, run->naive.data, run->cols, x->dtype, -1, &run->naive_valid,
                                   NULL);
    free(memory);
    flashc_cli_array_free(&values);
    return status == FLASHC_OK ? FLASHC_CLI_OK : flashc_cli_library_error();
}

static int compute(softmax_run *run)
{
    const flashc_cli_array *x = &run->x;
    if (flashc_cli_array_make("softmax", x->dtype, x->rank, x->shape, 0, &run->y) ||
        flashc_cli_array_make("softmax", x->dtype, x->rank, x->shape, 0, &run->whole))
        return FLASHC_CLI_FAILED;
    flashc_status status = softmax_of(run, 0, run->cols, run->split ? &run->whole : &run->y);
    if (status == FLASHC_OK && run->split && split_softmax(run))
        return FLASHC_CLI_FAILED;
    if (status == FLASHC_OK)
        status = flashc_is_softmax(run->rows, run->cols, run->y.data, run->cols, x->dtype, -1, &run->y_valid, NULL);
    return status == FLASHC_OK ? FLASHC_CLI_OK : flashc_cli_library_error();
}

static void print_rows(const softmax_run *run, const flashc_cli_array *array, FILE *out)
{
    for (int64_t i = 0; i < array->count; i++)
        fprintf(out, "%.4f%c", flashc_cli_array_element(array, i), (i + 1) % run->cols ? ' ' : '\n');
}

static void report_text(const softmax_run *run, FILE *out)
{
    char shape[FLASHC_CLI_SHAPE_TEXT], text[FLASHC_CLI_SIZE_TEXT];
    const int print_values = !run->y_path && run->x.count <= MAX_PRINTED;
    fprintf(out, "x          %s %s\n", flashc_cli_shape_text(run->x.rank, run->x.shape, shape),
            flashc_dtype_name(run->x.dtype));
    if (print_values)
        print_rows(run, &run->y, out);
    else if (!run->y_path)
        fprintf(out, "values     not printed, more than %d: -o FILE writes them\n", MAX_PRINTED);
    fprintf(out, "result     %s\n", run->y_valid ? "a valid softmax" : "not a valid softmax (a row does not sum to 1)");
    if (!run->split)
        return;
    fprintf(out, "merged     %s; largest difference from the softmax of the whole row: %.6g\n",
            flashc_cli_size_text("pieces", run->split, text), run->from_whole);
    if (print_values)
        print_rows(run, &run->naive, out);
    fprintf(out, "naive      the pieces' own softmaxes side by side: %s; largest difference from the merged: %.6g\n",
            run->naive_valid ? "a valid softmax" : "not a softmax", run->from_naive);
}

static void json_values(const flashc_cli_array *array, const char *key, flashc_cli_json *json)
{
    double values[MAX_PRINTED];
    for (int64_t i = 0; i < array->count; i++)
        values[i] = flashc_cli_array_element(array, i);
    flashc_cli_json_doubles(json, key, array->count, values);
}

static void report_json(const softmax_run *run)
{
    flashc_cli_json json;
    const int print_values = !run->y_path && run->x.count <= MAX_PRINTED;
    flashc_cli_json_begin(&json, stdout);
    flashc_cli_json_object(&json, NULL);
    flashc_cli_json_ints(&json, "shape", run->x.rank, run->x.shape);
    flashc_cli_json_string(&json, "dtype", flashc_dtype_name(run->x.dtype));
    flashc_cli_json_bool(&json, "valid_softmax", run->y_valid);
    if (print_values)
        json_values(&run->y, "values", &json);
    if (run->split) {
        flashc_cli_json_int(&json, "split", run->split);
        flashc_cli_json_double(&json, "merged_max_abs_error", run->from_whole);
        flashc_cli_json_bool(&json, "naive_valid_softmax", run->naive_valid);
        flashc_cli_json_double(&json, "naive_max_abs_error", run->from_naive);
        if (print_values)
            json_values(&run->naive, "naive_values", &json);
    }
    flashc_cli_json_end(&json, '}');
}

static int run_softmax(softmax_run *run)
{
    const flashc_cli_output output = {run->y_path, &run->y};
    FILE *words = flashc_cli_outputs_words(1, &output, run->json);
    flashc_npy_batch *batch;
    if (!words)
        return FLASHC_CLI_USAGE;
    if (read_x(run) || flashc_cli_outputs_reserve(1, &output, &batch))
        return FLASHC_CLI_FAILED;
    if (compute(run)) {
        flashc_npy_abort(batch);
        return FLASHC_CLI_FAILED;
    }
    if (flashc_cli_outputs_write(1, &output, batch))
        return FLASHC_CLI_FAILED;
    if (run->json)
        report_json(run);
    else if (!run->quiet)
        report_text(run, words);
    return flashc_cli_finish_stdout(FLASHC_CLI_OK);
}

static const flashc_cli_syntax syntax = {
    .options = options,
    .command = FLASHC_CLI_FOR_ALL,
    .take = take_option,
    .usage = "flashc-run softmax -x X.npy [-o Y.npy] [--split N] [options]",
    .description = "Softmax over the last axis. '-' means standard input or standard output.",
};

int flashc_cmd_softmax(int argc, char **argv)
{
    softmax_run run = {0};
    int exit_code;
    if (!flashc_cli_options_parse(&syntax, argc, argv, &run, &exit_code))
        return exit_code;
    if (!run.x_path)
        return flashc_cli_usage_error("-x FILE is missing");
    exit_code = run_softmax(&run);
    flashc_cli_array_free(&run.x);
    flashc_cli_array_free(&run.y);
    flashc_cli_array_free(&run.whole);
    flashc_cli_array_free(&run.naive);
    return exit_code;
}
