/* The public calls on attention: params -> problem -> plan -> execute. */
#include "attention/execute.h"
#include "attention/outputs.h"
#include "attention/plan.h"
#include "attention/problem.h"
#include "attention/threads.h"
#include "attention/work.h"
#include "cpu.h"

#include <inttypes.h>
#include <string.h>

flashc_status flashc_attention_fwd(const flashc_attention_params *params)
{
    flashc_problem problem;
    flashc_plan plan;
    /* The default scale is rounded to nearest, whatever mode the caller is in. */
    const unsigned float_mode = flashc_cpu_default_float_mode();
    flashc_status status = flashc_problem_init(&problem, params);
    flashc_cpu_restore_float_mode(float_mode);
    if (status == FLASHC_OK)
        status = flashc_scales_check(&problem);
    if (status == FLASHC_OK)
        status = flashc_plan_init(&plan, &problem, NULL, 0);
    if (status != FLASHC_OK || (plan.num_items == 0 && flashc_outputs_items(&problem, &plan) == 0))
        return status;

    if (problem.workspace) {
        if ((uintptr_t)problem.workspace % FLASHC_ALIGNMENT != 0)
            return flashc_fail(FLASHC_ERR_WORKSPACE, "workspace: expected an address aligned to %d bytes, found %p",
                               FLASHC_ALIGNMENT, problem.workspace);
        if (problem.workspace_size < plan.workspace_size)
            return flashc_fail(FLASHC_ERR_WORKSPACE, "workspace_size: expected at least %zu bytes, found %zu",
                               plan.workspace_size, problem.workspace_size);
        return flashc_execute(&problem, &plan, problem.workspace);
    }
    return flashc_execute_plan(&problem, &plan);
}

/* Resolves params as flashc_attention_fwd() would without a workspace of the caller's. */
static flashc_status make_plan(const flashc_attention_params *params, flashc_problem *problem, flashc_plan *plan,
                               char *refused, size_t refused_size)
{
    flashc_status status = flashc_problem_init(problem, params);
    return status == FLASHC_OK ? flashc_plan_init(plan, problem, refused, refused_size) : status;
}

flashc_status flashc_attention_workspace_size(const flashc_attention_params *params, size_t *size)
{
    if (!size)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "size: expected a pointer, found NULL");
    flashc_problem problem;
    flashc_plan plan;
    flashc_status status = make_plan(params, &problem, &plan, NULL, 0);
    if (status == FLASHC_OK)
        *size = plan.workspace_size;
    return status;
}

flashc_status flashc_explain(const flashc_attention_params *params, flashc_explanation *out)
{
    if (!out)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "out: expected a pointer, found NULL");
    if (out->struct_size != sizeof *out)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "out->struct_size: expected %zu, found %zu", sizeof *out,
                           out->struct_size);
    flashc_problem problem;
    flashc_plan plan;
    char refused[sizeof out->refused] = "";
    flashc_status status = make_plan(params, &problem, &plan, refused, sizeof refused);
    if (status != FLASHC_OK)
        return status;
    *out = (flashc_explanation){
        .struct_size = sizeof *out,
        .kernel = plan.kernel->name,
        .compute = plan.kernel->bf16 ? FLASHC_COMPUTE_BF16 : FLASHC_COMPUTE_F32,
        .gemm = flashc_kernel_gemm_name(plan.kernel),
        .block_m = plan.block.block_m,
        .block_n = plan.block.block_n,
        .rows_per_item = plan.blocks_per_item * plan.block.block_m,
        .piece_n = plan.longest_piece,
        .num_items = plan.num_items,
        .num_threads = plan.num_threads,
        .workspace_size = plan.workspace_size,
        .flops = plan.flops,
    };
    memcpy(out->refused, refused, sizeof refused);
    return FLASHC_OK;
}

flashc_status flashc_explain_items(const flashc_attention_params *params, int64_t first, int64_t count,
                                   flashc_item_work *items)
{
    flashc_problem problem;
    flashc_plan plan;
    flashc_status status = make_plan(params, &problem, &plan, NULL, 0);
    if (status != FLASHC_OK)
        return status;
    if (first < 0 || first > plan.num_items)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "first: expected 0 to %" PRId64 ", the number of items, found %" PRId64,
                           plan.num_items, first);
    if (count < 0 || count > plan.num_items - first)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "count: expected 0 to %" PRId64 ", the number of items from %" PRId64 " on, found %" PRId64,
                           plan.num_items - first, first, count);
    if (!items && count > 0)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "items: expected a pointer, found NULL");
    for (int64_t i = 0; i < count; i++)
        items[i] = flashc_work_of_item(&problem, &plan, first + i);
    return FLASHC_OK;
}

int flashc_kernel_count(void)
{
    return flashc_kernel_rows();
}

flashc_status flashc_kernel_get(int index, flashc_kernel *out)
{
    if (!out)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "out: expected a pointer, found NULL");
    if (index < 0 || index >= flashc_kernel_rows())
        return flashc_fail(FLASHC_ERR_ARGUMENT, "index: expected 0 to %d, found %d", flashc_kernel_rows() - 1, index);
    const flashc_kernel_row *row = flashc_kernel_row_at(index);
    *out = (flashc_kernel){.name = row->name,
                           .description = row->description,
                           .unavailable = flashc_kernel_unavailable(row)};
    return FLASHC_OK;
}

flashc_status flashc_system_get(flashc_system_info *out)
{
    if (!out)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "out: expected a pointer, found NULL");
    if (out->struct_size != sizeof *out)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "out->struct_size: expected %zu, found %zu", sizeof *out,
                           out->struct_size);
    *out = (flashc_system_info){
        .struct_size = sizeof *out,
        .version = flashc_version(),
        .cpu_features = flashc_cpu_feature_names(),
        .blas = flashc_kernel_blas_name(),
        .openmp = flashc_has_openmp(),
        .default_threads = flashc_default_threads(),
    };
    return FLASHC_OK;
}
