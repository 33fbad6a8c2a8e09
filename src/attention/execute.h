/* Runs a plan: the library's one parallel region. */
#ifndef FLASHC_EXECUTE_H
#define FLASHC_EXECUTE_H

#include "attention/plan.h"
#include "attention/problem.h"

/* workspace: plan->workspace_size bytes, aligned. FLASHC_OK or FLASHC_ERR_CANCELLED. */
flashc_status flashc_execute(const flashc_problem *problem, const flashc_plan *plan, void *workspace);

/* The same in memory of its own; nothing if there are no items. FLASHC_ERR_MEMORY if that cannot be had. */
flashc_status flashc_execute_plan(const flashc_problem *problem, const flashc_plan *plan);

#endif
