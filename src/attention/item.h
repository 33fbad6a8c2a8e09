/* One unit of work: a span of query rows of one (batch, K/V head) against all keys they can see. */
#ifndef FLASHC_ITEM_H
#define FLASHC_ITEM_H

#include "attention/plan.h"
#include "attention/problem.h"

/* Asked between key tiles; false ends the item. */
typedef bool (*flashc_keep_going_fn)(void *context);

/* Computes item number index and writes its rows of o and lse. slot is this thread's scratch. An item
 * that was told to end writes nothing. */
void flashc_item_run(const flashc_problem *problem, const flashc_plan *plan, int64_t index, char *slot,
                     flashc_keep_going_fn keep_going, void *context);

#endif
