/* What is printed about a call and its plan. */
#include "cli/cli.h"
#include "cli/job.h"

#include <stddef.h>

/* The arrays of a call whose shapes are shown, in this order: their names in text and in JSON. */
static const struct {
    const char *label, *key;
    size_t offset; /* in flashc_cli_job */
} arrays[] = {
    {"Q", "q", offsetof(flashc_cli_job, q)},
    {"K", "k", offsetof(flashc_cli_job, k)},
    {"V", "v", offsetof(flashc_cli_job, v)},
    {"K scale", "k_scale", offsetof(flashc_cli_job, k_scale)},
    {"V scale", "v_scale", offsetof(flashc_cli_job, v_scale)},
    {"K prefix", "prefix_k", offsetof(flashc_cli_job, prefix.k)},
    {"its scale", "prefix_k_scale", offsetof(flashc_cli_job, prefix.k_scale)},
    {"V prefix", "prefix_v", offsetof(flashc_cli_job, prefix.v)},
    {"its scale", "prefix_v_scale", offsetof(flashc_cli_job, prefix.v_scale)},
    {"mask", "mask", offsetof(flashc_cli_job, mask)},
    {"bias", "bias", offsetof(flashc_cli_job, bias)},
    {"alibi", "alibi", offsetof(flashc_cli_job, scores.alibi)},
    {"sinks", "sinks", offsetof(flashc_cli_job, scores.sinks)},
    {"block mask", "block_mask", offsetof(flashc_cli_job, scores.block_mask)},
    {"O", "o", offsetof(flashc_cli_job, o)},
};
enum { NUM_ARRAYS = sizeof arrays / sizeof arrays[0] };

/* NULL if the call has none. */
static const flashc_cli_array *array_of(const flashc_cli_job *job, int i)
{
    const flashc_cli_array *array = (const void *)((const char *)job + arrays[i].offset);
    return array->data ? array : NULL;
}

void flashc_cli_job_print_shapes(const flashc_cli_job *job, FILE *out)
{
    char text[FLASHC_CLI_SHAPE_TEXT];
    for (int i = 0; i < NUM_ARRAYS; i++) {
        const flashc_cli_array *array = array_of(job, i);
        if (array)
            fprintf(out, "%-10s %s %s\n", arrays[i].label, flashc_cli_shape_text(array->rank, array->shape, text),
                    flashc_dtype_name(array->dtype));
    }
    flashc_cli_score_mod_print(&job->score_mod, out);
}

void flashc_cli_job_json_shapes(const flashc_cli_job *job, flashc_cli_json *json)
{
    for (int i = 0; i < NUM_ARRAYS; i++) {
        const flashc_cli_array *array = array_of(job, i);
        if (!array)
            continue;
        flashc_cli_json_object(json, arrays[i].key);
        flashc_cli_json_ints(json, "shape", array->rank, array->shape);
        flashc_cli_json_string(json, "dtype", flashc_dtype_name(array->dtype));
        flashc_cli_json_end(json, '}');
    }
    flashc_cli_score_mod_json(&job->score_mod, json);
}

const char *flashc_cli_compute_name(flashc_compute compute)
{
    return compute == FLASHC_COMPUTE_BF16 ? "bf16" : "f32";
}

const char flashc_cli_own_title[] = "on the own keys:\n", flashc_cli_prefix_title[] = "on the prefix:\n";

void flashc_cli_print_explanation(const flashc_explanation *explanation, FILE *out)
{
    fprintf(out, "kernel     %s\n", explanation->kernel);
    fprintf(out, "compute    %s\n", flashc_cli_compute_name(explanation->compute));
    fprintf(out, "gemm       %s\n", explanation->gemm);
    fprintf(out, "tiles      %lld queries x %lld keys\n", (long long)explanation->block_m,
            (long long)explanation->block_n);
    fprintf(out, "items      %lld of up to %lld query rows\n", (long long)explanation->num_items,
            (long long)explanation->rows_per_item);
    if (explanation->piece_n > 0)
        fprintf(out, "pieces     of %lld keys, merged in a fixed tree\n", (long long)explanation->piece_n);
    fprintf(out, "threads    %lld\n", (long long)explanation->num_threads);
    fprintf(out, "workspace  %zu bytes\n", explanation->workspace_size);
    fprintf(out, "flops      %.6g\n", explanation->flops);
    const char *line = explanation->refused;
    while (*line) {
        int length = 0;
        while (line[length] && line[length] != '\n')
            length++;
        fprintf(out, "refused    %.*s\n", length, line);
        line += length + (line[length] == '\n');
    }
}

void flashc_cli_json_explanation(const flashc_explanation *explanation, flashc_cli_json *json)
{
    flashc_cli_json_string(json, "kernel", explanation->kernel);
    flashc_cli_json_string(json, "compute", flashc_cli_compute_name(explanation->compute));
    flashc_cli_json_string(json, "gemm", explanation->gemm);
    flashc_cli_json_int(json, "block_m", explanation->block_m);
    flashc_cli_json_int(json, "block_n", explanation->block_n);
    flashc_cli_json_int(json, "rows_per_item", explanation->rows_per_item);
    flashc_cli_json_int(json, "piece_n", explanation->piece_n);
    flashc_cli_json_int(json, "items", explanation->num_items);
    flashc_cli_json_int(json, "threads", explanation->num_threads);
    flashc_cli_json_int(json, "workspace_bytes", (int64_t)explanation->workspace_size);
    flashc_cli_json_double(json, "flops", explanation->flops);
    flashc_cli_json_string(json, "refused", explanation->refused);
}

void flashc_cli_print_plan(const flashc_cli_plan *plan, FILE *out)
{
    if (plan->has_prefix)
        fprintf(out, "%s", flashc_cli_own_title);
    flashc_cli_print_explanation(&plan->own, out);
    if (!plan->has_prefix)
        return;
    fprintf(out, "%s", flashc_cli_prefix_title);
    flashc_cli_print_explanation(&plan->prefix, out);
}

void flashc_cli_json_plan(const flashc_cli_plan *plan, flashc_cli_json *json)
{
    flashc_cli_json_explanation(&plan->own, json);
    if (!plan->has_prefix)
        return;
    flashc_cli_json_object(json, "on_prefix");
    flashc_cli_json_explanation(&plan->prefix, json);
    flashc_cli_json_end(json, '}');
}
