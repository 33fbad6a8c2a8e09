/* flashc-run trace: the online softmax recurrence as a table, and the identities that make it exact. */
#include "cli/cli.h"
#include "cli/json.h"
#include "cli/options.h"
#include "cli/trace_checks.h"
#include "npy/npy.h"

#include <flashc.h>
#include <float.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_VALUES = 1, OPT_X, OPT_JSON };

static const flashc_cli_option options[] = {
    {OPT_VALUES, "values", 0, "LIST", "The values, separated by commas.", FLASHC_CLI_FOR_ALL},
    {OPT_X, "input", 'x', "FILE", "The values from a .npy file of rank 1: f16, f32 or f64.", FLASHC_CLI_FOR_ALL},
    {OPT_JSON, "json", 0, NULL, "One JSON object on standard output instead of tables.", FLASHC_CLI_FOR_ALL},
    {0, NULL, 0, NULL, NULL, 0},
};

typedef struct trace_args {
    const char *values, *file;
    bool json;
} trace_args;

static int take_option(int id, const char *value, void *parsed)
{
    trace_args *args = parsed;
    switch (id) {
    case OPT_VALUES: args->values = value; return 0;
    case OPT_X: args->file = value; return 0;
    default: args->json = true; return 0;
    }
}

static const flashc_cli_syntax syntax = {
    .options = options,
    .command = FLASHC_CLI_FOR_ALL,
    .take = take_option,
    .usage = "flashc-run trace (--values LIST | -x FILE) [--json]",
    .description =
        "Shows the online softmax step by step: the running maximum m_i, the standard denominator d_i (with the final "
        "maximum m_N), the online denominator d'_i (with the running one), the factor between them and the correction "
        "that each step applies to the sum so far. Checks that d'_i = d_i * exp(m_N - m_i) at every step and "
        "d_N = d'_N, and shows the probabilities both ways. A check that fails exits 1.",
};

static void print_tables(int64_t n, const flashc_trace_step *steps)
{
    printf("%6s %13s %13s %13s %13s %13s %16s\n", "idx", "x[i]", "max m_i", "standard d_i", "online d'_i",
           "exp(m_N-m_i)", "exp(m_{i-1}-m_i)");
    for (int64_t i = 0; i < n; i++)
        printf("%6lld %13.7g %13.7g %13.7g %13.7g %13.7g %16.7g\n", (long long)i, steps[i].x, steps[i].row_max,
               steps[i].denom_standard, steps[i].denom_online, steps[i].scale, steps[i].correction);

    const flashc_trace_step *last = &steps[n - 1];
    printf("\nfinal d_N = %.7g, final d'_N * exp(m_N - m_N) = %.7g\n\n", last->denom_standard,
           last->denom_online * last->scale);

    printf("%6s %13s %13s %13s\n", "idx", "p standard", "p online", "difference");
    double sum_standard = 0.0, sum_online = 0.0;
    for (int64_t i = 0; i < n; i++) {
        printf("%6lld %13.7g %13.7g %13.3g\n", (long long)i, steps[i].p_standard, steps[i].p_online,
               steps[i].p_online - steps[i].p_standard);
        sum_standard += steps[i].p_standard;
        sum_online += steps[i].p_online;
    }
    printf("%6s %13.7g %13.7g\n\n", "sum", sum_standard, sum_online);
}

static void print_checks(const flashc_cli_trace_check *checks)
{
    for (int c = 0; c < FLASHC_CLI_TRACE_CHECKS; c++) {
        const flashc_cli_trace_check *check = &checks[c];
        printf("%s  %s: ", check->pass ? "PASS" : "FAIL", check->name);
        if (check->index >= 0)
            printf("largest relative difference %.3g at %lld, tolerance %.3g", check->difference,
                   (long long)check->index, check->tolerance);
        if (check->skipped > 0)
            printf("%s%lld not compared: out of the range of doubles", check->index >= 0 ? "; " : "",
                   (long long)check->skipped);
        putchar('\n');
    }
}

static void print_json(int64_t n, const flashc_trace_step *steps, const flashc_cli_trace_check *checks, bool pass)
{
    flashc_cli_json json;
    flashc_cli_json_begin(&json, stdout);
    flashc_cli_json_object(&json, NULL);
    flashc_cli_json_int(&json, "n", n);
    flashc_cli_json_array(&json, "steps");
    for (int64_t i = 0; i < n; i++) {
        flashc_cli_json_object(&json, NULL);
        flashc_cli_json_int(&json, "idx", i);
        flashc_cli_json_double(&json, "x", steps[i].x);
        flashc_cli_json_double(&json, "row_max", steps[i].row_max);
        flashc_cli_json_double(&json, "denom_standard", steps[i].denom_standard);
        flashc_cli_json_double(&json, "denom_online", steps[i].denom_online);
        flashc_cli_json_double(&json, "scale", steps[i].scale);
        flashc_cli_json_double(&json, "correction", steps[i].correction);
        flashc_cli_json_double(&json, "p_standard", steps[i].p_standard);
        flashc_cli_json_double(&json, "p_online", steps[i].p_online);
        flashc_cli_json_end(&json, '}');
    }
    flashc_cli_json_end(&json, ']');
    flashc_cli_json_array(&json, "checks");
    for (int c = 0; c < FLASHC_CLI_TRACE_CHECKS; c++) {
        flashc_cli_json_object(&json, NULL);
        flashc_cli_json_string(&json, "name", checks[c].name);
        flashc_cli_json_double(&json, "max_relative_difference", checks[c].difference);
        flashc_cli_json_int(&json, "idx", checks[c].index);
        flashc_cli_json_double(&json, "tolerance", checks[c].tolerance);
        flashc_cli_json_int(&json, "not_compared", checks[c].skipped);
        flashc_cli_json_bool(&json, "pass", checks[c].pass);
        flashc_cli_json_end(&json, '}');
    }
    flashc_cli_json_end(&json, ']');
    flashc_cli_json_bool(&json, "pass", pass);
    flashc_cli_json_end(&json, '}');
}

/* source: where the values came from, for messages. */
static int trace(const char *source, int64_t n, const double *x, bool json)
{
    flashc_trace_step *steps = calloc((size_t)n, sizeof *steps);
    if (steps == NULL)
        return flashc_cli_error("no memory for the trace of %lld values", (long long)n);
    if (flashc_softmax_trace(n, x, steps) != FLASHC_OK) {
        free(steps);
        return flashc_cli_error("%s: %s", source, flashc_last_error());
    }
    flashc_cli_trace_check checks[FLASHC_CLI_TRACE_CHECKS];
    flashc_cli_trace_checks(n, x, steps, checks);
    bool pass = true;
    for (int c = 0; c < FLASHC_CLI_TRACE_CHECKS; c++)
        pass = pass && checks[c].pass;
    if (json) {
        print_json(n, steps, checks, pass);
    } else {
        print_tables(n, steps);
        print_checks(checks);
    }
    free(steps);
    return flashc_cli_finish_stdout(pass ? FLASHC_CLI_OK : FLASHC_CLI_FAILED);
}

/* Reads "3,1,4" into *x (the caller frees it) and *n. Returns 0, or the exit code after a message. */
static int parse_values(const char *text, double **x, int64_t *n)
{
    size_t count = 1;
    for (const char *c = text; *c != '\0'; c++)
        count += *c == ',';
    char *copy = strdup(text);
    *x = calloc(count, sizeof **x);
    int code = copy != NULL && *x != NULL ? 0 : flashc_cli_error("no memory for %zu values", count);
    char *rest = copy;
    for (*n = 0; code == 0 && rest != NULL; (*n)++)
        code = flashc_cli_parse_double("--values", strsep(&rest, ","), -DBL_MAX, DBL_MAX, &(*x)[*n]);
    free(copy);
    return code;
}

static int convert_file(const char *name, const flashc_npy *npy, double **x, int64_t *n)
{
    const flashc_npy_type type = npy->header.type;
    if (npy->header.rank != 1)
        return flashc_cli_error("%s: expected an array of rank 1, found rank %d", name, npy->header.rank);
    if (type != FLASHC_NPY_F16 && type != FLASHC_NPY_F32 && type != FLASHC_NPY_F64)
        return flashc_cli_error("%s: expected f16, f32 or f64, found %s", name, flashc_npy_type_name(type));
    if (npy->header.count == 0)
        return flashc_cli_error("%s: expected at least one value, found none", name);
    *n = npy->header.count;
    *x = calloc((size_t)*n, sizeof **x);
    if (*x == NULL)
        return flashc_cli_error("%s: no memory for %lld values", name, (long long)*n);
    for (int64_t i = 0; i < *n; i++) {
        float value = 0.0f;
        if (type == FLASHC_NPY_F64) {
            (*x)[i] = ((const double *)npy->data)[i];
            continue;
        }
        if (type == FLASHC_NPY_F32)
            value = ((const float *)npy->data)[i];
        else
            flashc_convert(&value, FLASHC_F32, (const uint16_t *)npy->data + i, FLASHC_F16, 1);
        (*x)[i] = (double)value;
    }
    return 0;
}

static int read_values(const char *path, const char *name, double **x, int64_t *n)
{
    char message[FLASHC_NPY_MESSAGE_SIZE];
    flashc_npy npy;
    if (!flashc_npy_read(path, &npy, message, sizeof message))
        return flashc_cli_error("%s", message);
    const int code = convert_file(name, &npy, x, n);
    flashc_npy_free(&npy);
    return code;
}

int flashc_cmd_trace(int argc, char **argv)
{
    trace_args args = {.json = false};
    int code;
    if (!flashc_cli_options_parse(&syntax, argc, argv, &args, &code))
        return code;
    if ((args.values == NULL) == (args.file == NULL))
        return flashc_cli_usage_error("give either --values or -x, found %s", args.values == NULL ? "neither" : "both");
    double *x = NULL;
    int64_t n = 0;
    const char *source = args.values != NULL ? "--values" : strcmp(args.file, "-") == 0 ? "standard input" : args.file;
    code = args.values != NULL ? parse_values(args.values, &x, &n) : read_values(args.file, source, &x, &n);
    if (code == 0)
        code = trace(source, n, x, args.json);
    free(x);
    return code;
}
