#include "cli/compare.h"

#include "cli/cli.h"
#include "cli/library_error.h"

#include <string.h>

/* For 16-bit types: two units in the last place (2^-10 for f16, 2^-7 for bf16) of two roundings of nearly equal
 * values, and an absolute part for what rounding Q, K and V of order 1 to that type costs. */
static const struct { flashc_dtype dtype; double rtol, atol; } default_tolerances[] = {
    {FLASHC_F32, 1e-5, 1e-6}, {FLASHC_F16, 2e-3, 1e-3}, {FLASHC_BF16, 1.6e-2, 8e-3}};

const char flashc_cli_compare_notes[] =
    "Elements of O are equal to REF's if |O - REF| <= atol + rtol * |REF|; NaN equals\n"
    "NaN only. Defaults, by the coarsest of the types of Q, O and REF:\n"
    "  f32 1e-5 relative + 1e-6 absolute, f16 2e-3 + 1e-3, bf16 1.6e-2 + 8e-3.\n";

static double default_tolerance(const flashc_cli_job *job, const flashc_cli_array *reference, int relative)
{
    const flashc_dtype dtypes[] = {job->q.dtype, job->o.dtype, reference->dtype};
    double largest = 0;
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        for (size_t t = 0; t < sizeof default_tolerances / sizeof default_tolerances[0]; t++) {
            const double value = relative ? default_tolerances[t].rtol : default_tolerances[t].atol;
            if (default_tolerances[t].dtype == dtypes[i] && value > largest)
                largest = value;
        }
    return largest;
}

int flashc_cli_compare_open(const flashc_cli_attention_args *args, const flashc_cli_job *job,
                            flashc_cli_comparison *comparison)
{
    flashc_cli_array *reference = &comparison->reference;
    char found[FLASHC_CLI_SHAPE_TEXT], expected[FLASHC_CLI_SHAPE_TEXT];
    if (flashc_cli_array_read(args->compare, 0, reference))
        return FLASHC_CLI_FAILED;
    const flashc_npy_type type = reference->file_type;
    const int raw = type == FLASHC_NPY_V2 || type == FLASHC_NPY_U16;
    /* A reference of 64 bits is a good one; rounding it to f32 costs less than any tolerance. */
    if (flashc_cli_array_to_float(reference, raw ? args->dtype : type == FLASHC_NPY_F64 ? FLASHC_F32 : 0) ||
        flashc_cli_array_pack(reference))
        return FLASHC_CLI_FAILED;
    const flashc_cli_array *o = &job->o;
    if (reference->rank != o->rank || memcmp(reference->shape, o->shape, (size_t)o->rank * sizeof o->shape[0]) != 0)
        return flashc_cli_error("%s has shape %s, O has shape %s: they must be the same", reference->name,
                                flashc_cli_shape_text(reference->rank, reference->shape, found),
                                flashc_cli_shape_text(o->rank, o->shape, expected));
    comparison->rtol = args->rtol >= 0 ? args->rtol : default_tolerance(job, reference, 1);
    comparison->atol = args->atol >= 0 ? args->atol : default_tolerance(job, reference, 0);
    return FLASHC_CLI_OK;
}

int flashc_cli_compare_run(const flashc_cli_job *job, flashc_cli_comparison *comparison)
{
    const flashc_cli_array *reference = &comparison->reference;
    const flashc_status status =
        flashc_compare(job->o.count, job->o.data, job->o.dtype, reference->data, reference->dtype, comparison->rtol,
                       comparison->atol, &comparison->report);
    return status == FLASHC_OK ? FLASHC_CLI_OK : flashc_cli_library_error();
}

/* The index of an element by its axes; its rank, 0 if there is no such element. */
static int unravel(const flashc_cli_array *array, int64_t flat, int64_t index[FLASHC_NPY_MAX_RANK])
{
    if (flat < 0)
        return 0;
    for (int axis = array->rank - 1; axis >= 0; axis--) {
        index[axis] = flat % array->shape[axis];
        flat /= array->shape[axis];
    }
    return array->rank;
}

static const char *index_text(const flashc_cli_array *array, int64_t flat, char text[FLASHC_CLI_SHAPE_TEXT])
{
    int64_t index[FLASHC_NPY_MAX_RANK];
    return flashc_cli_shape_text(unravel(array, flat, index), index, text);
}

void flashc_cli_compare_print(const flashc_cli_job *job, const flashc_cli_comparison *comparison, FILE *out)
{
    const flashc_compare_report *report = &comparison->report;
    char text[FLASHC_CLI_SHAPE_TEXT];
    fprintf(out, "compare    %s: %s, %lld of %lld elements differ by more than %g relative + %g absolute\n",
            comparison->reference.name, report->equal ? "equal" : "NOT EQUAL", (long long)report->mismatches,
            (long long)job->o.count, comparison->rtol, comparison->atol);
    if (report->max_abs_index >= 0)
        fprintf(out, "           largest error %.6g at %s\n", report->max_abs_error,
                index_text(&job->o, report->max_abs_index, text));
}

void flashc_cli_compare_json(const flashc_cli_job *job, const flashc_cli_comparison *comparison,
                             flashc_cli_json *json)
{
    const flashc_compare_report *report = &comparison->report;
    int64_t index[FLASHC_NPY_MAX_RANK];
    flashc_cli_json_object(json, "compare");
    flashc_cli_json_string(json, "file", comparison->reference.name);
    flashc_cli_json_bool(json, "equal", report->equal);
    flashc_cli_json_int(json, "mismatches", report->mismatches);
    flashc_cli_json_double(json, "rtol", comparison->rtol);
    flashc_cli_json_double(json, "atol", comparison->atol);
    flashc_cli_json_double(json, "max_abs_error", report->max_abs_error);
    flashc_cli_json_ints(json, "max_abs_index", unravel(&job->o, report->max_abs_index, index), index);
    flashc_cli_json_ints(json, "worst_index", unravel(&job->o, report->worst, index), index);
    flashc_cli_json_end(json, '}');
}

int flashc_cli_compare_verdict(const flashc_cli_job *job, const flashc_cli_comparison *comparison)
{
    const flashc_compare_report *report = &comparison->report;
    char worst[FLASHC_CLI_SHAPE_TEXT];
    if (report->equal)
        return FLASHC_CLI_OK;
    return flashc_cli_error("O differs from %s in %lld of %lld elements; worst at %s: expected %.9g, found %.9g",
                            comparison->reference.name, (long long)report->mismatches, (long long)job->o.count,
                            index_text(&job->o, report->worst, worst),
                            flashc_cli_array_element(&comparison->reference, report->worst),
                            flashc_cli_array_element(&job->o, report->worst));
}

void flashc_cli_compare_close(flashc_cli_comparison *comparison)
{
    flashc_cli_array_free(&comparison->reference);
}
