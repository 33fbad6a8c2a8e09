/* What an item has to do, counted without doing it; the loops are those of item.c. */
#ifndef FLASHC_WORK_H
#define FLASHC_WORK_H

#include "attention/plan.h"
#include "attention/problem.h"

flashc_item_work flashc_work_of_item(const flashc_problem *problem, const flashc_plan *plan, int64_t index);

#endif
