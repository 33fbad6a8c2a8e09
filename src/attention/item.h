/* One unit of work: a span of query rows of one (batch, K/V head) against a run of the keys they can see. */
#ifndef FLASHC_ITEM_H
#define FLASHC_ITEM_H

#include "attention/tiles.h"

/* Makes ready what items share in the workspace. */
void flashc_items_prepare(const flashc_plan *plan, char *workspace);

/* Computes item number index on this thread. Writes its rows of o and lse, or, of several
 * runs over the same rows, leaves that to the one that ends last. An item that was told to end writes nothing. */
void flashc_item_run(const flashc_problem *problem, const flashc_plan *plan, int64_t index,
                     const flashc_worker *worker);

#endif
