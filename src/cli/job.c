#include "cli/job.h"

#include "cli/cli.h"
#include "cli/job_inputs.h"
#include "cli/layout.h"
#include "cli/library_error.h"

#include <stdlib.h>
#include <string.h>

/* NumPy's rule: axes are aligned at the last one; missing ones and those of size 1 repeat. */
static int broadcast(const flashc_cli_array *array, const flashc_attention_params *p, flashc_tensor *tensor)
{
    const int64_t target[4] = {p->cu_seqlens_q ? 1 : p->batch, p->num_heads, p->seqlen_q, p->seqlen_k};
    char found[FLASHC_CLI_SHAPE_TEXT], expected[FLASHC_CLI_SHAPE_TEXT];
    *tensor = (flashc_tensor){.data = array->data, .dtype = array->dtype};
    int fits = array->rank <= 4;
    for (int i = 0; fits && i < array->rank; i++) {
        const int axis = 4 - array->rank + i;
        fits = array->shape[i] == 1 || array->shape[i] == target[axis];
        tensor->stride[axis] = array->shape[i] == 1 ? 0 : array->strides[i];
    }
    if (fits)
        return FLASHC_CLI_OK;
    return flashc_cli_error("%s has shape %s, which does not broadcast to [batch, heads, seqlen_q, seqlen_k] = %s",
                            array->name, flashc_cli_shape_text(array->rank, array->shape, found),
                            flashc_cli_shape_text(4, target, expected));
}

static int read_mask_and_bias(const flashc_cli_attention_args *args, int plan_only, flashc_cli_job *job)
{
    if (args->mask && (flashc_cli_array_read(args->mask, plan_only, &job->mask) ||
                       flashc_cli_array_to_mask(&job->mask) || broadcast(&job->mask, &job->params, &job->params.mask)))
        return FLASHC_CLI_FAILED;
    if (!args->bias)
        return FLASHC_CLI_OK;
    if (flashc_cli_array_read(args->bias, plan_only, &job->bias))
        return FLASHC_CLI_FAILED;
    /* A bias keeps its own type: rounding it to Q's would only lose accuracy. */
    const flashc_npy_type type = job->bias.file_type;
    const int raw = type == FLASHC_NPY_V2 || type == FLASHC_NPY_U16;
    const int dtype = raw ? args->dtype : type == FLASHC_NPY_F64 && args->dtype ? FLASHC_F32 : 0;
    if (flashc_cli_array_to_float(&job->bias, dtype))
        return FLASHC_CLI_FAILED;
    return broadcast(&job->bias, &job->params, &job->params.bias);
}

static int make_outputs(const flashc_cli_attention_args *args, int plan_only, flashc_cli_job *job)
{
    flashc_attention_params *p = &job->params;
    const flashc_cli_array *q = &job->q;
    const flashc_dtype dtype = args->out_dtype ? (flashc_dtype)args->out_dtype : q->dtype;
    int64_t o_shape[4], sizes[4];
    int axes[4];
    memcpy(o_shape, q->shape, sizeof o_shape);
    o_shape[q->rank - 1] = p->head_dim_v;
    if (flashc_cli_array_make("O", dtype, q->rank, o_shape, plan_only, &job->o))
        return FLASHC_CLI_FAILED;
    p->o = flashc_cli_layout_tensor(&job->o, args->bshd, sizes);

    /* LSE is [batch, head, row] in both layouts, with the axes that Q has. */
    flashc_cli_layout_axes(q->rank, 0, axes);
    const int64_t lse_sizes[3] = {p->batch, p->num_heads, p->seqlen_q};
    if (flashc_cli_array_make("LSE", FLASHC_F32, q->rank - 1, lse_sizes + (4 - q->rank), plan_only, &job->lse))
        return FLASHC_CLI_FAILED;
    p->lse = (flashc_tensor){.data = job->lse.data, .dtype = FLASHC_F32};
    for (int i = 0; i < 3; i++)
        p->lse.stride[i] = axes[i] < 0 ? 0 : job->lse.strides[axes[i]];
    return plan_only ? FLASHC_CLI_OK : flashc_cli_extra_outputs_make(args, q->rank, job->k.rank, &job->extra, p);
}

static int set_alignment(const flashc_cli_attention_args *args, flashc_cli_job *job)
{
    flashc_attention_params *p = &job->params;
    p->causal = args->causal;
    p->alignment = args->alignment;
    if (args->alignment != FLASHC_ALIGN_EXPLICIT || p->offsets)
        return FLASHC_CLI_OK;
    job->offsets = calloc((size_t)p->batch + 1, sizeof *job->offsets);
    if (!job->offsets)
        return flashc_cli_error("no memory for the offsets of %lld batch elements", (long long)p->batch);
    for (int64_t b = 0; b < p->batch; b++)
        job->offsets[b] = args->offset;
    p->offsets = job->offsets;
    return FLASHC_CLI_OK;
}

int flashc_cli_job_open(const flashc_cli_attention_args *args, int plan_only, flashc_cli_job *job)
{
    *job = (flashc_cli_job){0};
    flashc_attention_params_init(&job->params, sizeof job->params);
    const int exit_code = flashc_cli_job_inputs(args, plan_only, job);
    if (exit_code)
        return exit_code;
    job->params.softmax_scale = args->scale;
    job->params.num_threads = args->num_threads;
    job->params.kernel = args->kernel;
    job->params.compute = args->compute;
    if ((args->prefix_k && flashc_cli_prefix_open(args, plan_only, &job->prefix, &job->q, &job->params)) ||
        set_alignment(args, job) || read_mask_and_bias(args, plan_only, job) ||
        flashc_cli_score_options_set(args, plan_only, &job->scores, &job->params) || make_outputs(args, plan_only, job))
        return FLASHC_CLI_FAILED;
    return flashc_cli_score_mod_open(args, &job->score_mod, &job->params);
}

int flashc_cli_job_plan(const flashc_cli_job *job, flashc_cli_plan *plan)
{
    flashc_status status;
    *plan = (flashc_cli_plan){.own = {.struct_size = sizeof plan->own}, .prefix = {.struct_size = sizeof plan->prefix}};
    plan->has_prefix = job->prefix.k.data != NULL;
    if (plan->has_prefix)
        status = flashc_explain_shared_prefix(&job->params, &job->prefix.shared, &plan->prefix, &plan->own);
    else
        status = flashc_explain(&job->params, &plan->own);
    return status == FLASHC_OK ? FLASHC_CLI_OK : flashc_cli_library_error();
}

void flashc_cli_job_close(flashc_cli_job *job)
{
    flashc_cli_array *const arrays[] = {&job->q,       &job->k,    &job->v,    &job->k_scale,
                                        &job->v_scale, &job->mask, &job->bias, &job->o, &job->lse};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        flashc_cli_array_free(arrays[i]);
    flashc_cli_sequences_free(&job->sequences);
    flashc_cli_score_options_free(&job->scores);
    flashc_cli_score_mod_close(&job->score_mod);
    flashc_cli_prefix_close(&job->prefix);
    flashc_cli_extra_outputs_free(&job->extra);
    free(job->offsets);
    *job = (flashc_cli_job){0};
}
