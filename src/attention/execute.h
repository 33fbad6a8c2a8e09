/* Runs a plan: the library's one parallel region. */
#ifndef FLASHC_EXECUTE_H
#define FLASHC_EXECUTE_H

#include "attention/plan.h"
#include "attention/problem.h"

/* The problem's workspace, checked, or one of its own; NULL if there are no items. FLASHC_ERR_WORKSPACE or _MEMORY. */
flashc_status flashc_workspace_begin(const flashc_problem *problem, const flashc_plan *plan, void **workspace);
/* Frees what was its own. */
void flashc_workspace_end(const flashc_problem *problem, void *workspace);

/* Items that a run of the plan has. */
int64_t flashc_execute_items(const flashc_problem *problem, const flashc_plan *plan);

/* Items done so far, and in all, of a call that may run its plan several times: what the callback hears. */
typedef struct flashc_progress {
    int64_t done, total;
} flashc_progress;

/* workspace: as begun. FLASHC_OK or FLASHC_ERR_CANCELLED. */
flashc_status flashc_execute(const flashc_problem *problem, const flashc_plan *plan, void *workspace,
                             flashc_progress *progress);

#endif
