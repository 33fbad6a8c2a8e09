/* How a plan's memory lies. */
#ifndef FLASHC_SCRATCH_H
#define FLASHC_SCRATCH_H

#include "attention/plan.h"

/* Sets plan->scratch, a thread's slot, of a plan whose blocks, items and partial_floats are known. */
void flashc_scratch_lay_out(flashc_plan *plan, const flashc_problem *problem);

/* The workspace: each thread's slot, then what the runs of split_items row items share. FLASHC_ERR_MEMORY if it is
 * beyond any address space. */
flashc_status flashc_scratch_size_workspace(flashc_plan *plan, int64_t split_items, int64_t most_runs);

#endif
