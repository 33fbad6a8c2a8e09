/* The public calls on attention: params -> problem -> plan -> execute. */
#include "attention/execute.h"
#include "attention/plan.h"
#include "attention/problem.h"
#include "attention/scales.h"
#include "attention/threads.h"
#include "cpu.h"

flashc_status flashc_attention_fwd(const flashc_attention_params *params)
{
    flashc_problem problem;
    flashc_plan plan;
    flashc_status status = flashc_problem_init(&problem, params);
    if (status == FLASHC_OK)
        status = flashc_scales_check(&problem);
    if (status == FLASHC_OK)
        status = flashc_plan_init(&plan, &problem, NULL, 0);
    void *workspace = NULL;
    if (status == FLASHC_OK)
        status = flashc_workspace_begin(&problem, &plan, &workspace);
    if (status != FLASHC_OK)
        return status;
    flashc_progress progress = {.total = flashc_execute_items(&problem, &plan)};
    status = flashc_execute(&problem, &plan, workspace, &progress);
    flashc_workspace_end(&problem, workspace);
    return status;
}

flashc_status flashc_attention_workspace_size(const flashc_attention_params *params, size_t *size)
{
    if (!size)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "size: expected a pointer, found NULL");
    flashc_problem problem;
    flashc_plan plan;
    flashc_status status = flashc_problem_init(&problem, params);
    if (status == FLASHC_OK)
        status = flashc_plan_init(&plan, &problem, NULL, 0);
    return status == FLASHC_OK ? flashc_plan_workspace_bound(&plan, &problem, size) : status;
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
