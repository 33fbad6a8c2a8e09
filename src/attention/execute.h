/* Runs a plan: the library's one parallel region. */
#ifndef FLASHC_EXECUTE_H
#define FLASHC_EXECUTE_H

#include "attention/plan.h"
#include "attention/problem.h"

/* The problem's workspace, checked, or one of its own; NULL if there are no items. FLASHC_ERR_WORKSPACE or _MEMORY. */
flashc_status flashc_workspace_begin(const flashc_problem *problem, const flashc_plan *plan, void **workspace);
/* Frees what was its own. */
void flashc_workspace_end(const flashc_problem *problem, void *workspace);

/* workspace: as begun. FLASHC_OK or FLASHC_ERR_CANCELLED. */
flashc_status flashc_execute(const flashc_problem *problem, const flashc_plan *plan, void *workspace);

#endif
