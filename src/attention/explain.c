/* The public calls on plans. */
#include "attention/explain.h"

#include "attention/plan.h"
#include "attention/work.h"
#include "cpu.h"

#include <inttypes.h>
#include <string.h>

flashc_status flashc_explanation_check(const char *name, const flashc_explanation *out)
{
    if (!out)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s: expected a pointer, found NULL", name);
    if (out->struct_size != sizeof *out)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s->struct_size: expected %zu, found %zu", name, sizeof *out,
                           out->struct_size);
    return FLASHC_OK;
}

flashc_status flashc_explain_problem(const flashc_problem *problem, flashc_explanation *out)
{
    flashc_plan plan;
    char refused[sizeof out->refused] = "";
    FLASHC_IN_DEFAULT_FLOAT_MODE; /* for counts beyond 2^53 */
    size_t workspace_size;
    flashc_status status = flashc_plan_init(&plan, problem, refused, sizeof refused);
    if (status == FLASHC_OK)
        status = flashc_plan_workspace_bound(&plan, problem, &workspace_size);
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
        .workspace_size = workspace_size,
        .flops = plan.flops,
    };
    memcpy(out->refused, refused, sizeof refused);
    return FLASHC_OK;
}

flashc_status flashc_explain(const flashc_attention_params *params, flashc_explanation *out)
{
    flashc_problem problem;
    flashc_status status = flashc_explanation_check("out", out);
    if (status == FLASHC_OK)
        status = flashc_problem_init(&problem, params);
    return status == FLASHC_OK ? flashc_explain_problem(&problem, out) : status;
}

flashc_status flashc_explain_items(const flashc_attention_params *params, int64_t first, int64_t count,
                                   flashc_item_work *items)
{
    flashc_problem problem;
    flashc_plan plan;
    FLASHC_IN_DEFAULT_FLOAT_MODE; /* for counts beyond 2^53 */
    flashc_status status = flashc_problem_init(&problem, params);
    if (status == FLASHC_OK)
        status = flashc_plan_init(&plan, &problem, NULL, 0);
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
