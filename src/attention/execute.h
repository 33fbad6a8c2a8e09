/* Runs a plan: the library's one parallel region. */
#ifndef FLASHC_EXECUTE_H
#define FLASHC_EXECUTE_H

#include "attention/plan.h"
#include "attention/problem.h"

/* workspace: plan->workspace_size bytes, aligned. FLASHC_OK or FLASHC_ERR_CANCELLED. */
flashc_status flashc_execute(const flashc_problem *problem, const flashc_plan *plan, void *workspace);

#endif
