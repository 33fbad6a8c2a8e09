/* What a call gives besides O and LSE that needs the scores once more: the scores themselves, softmax weights, and
 * their sum over the queries for each key. A pass of its own after the others, since all of LSE must be known. */
#ifndef FLASHC_SCORE_OUTPUTS_H
#define FLASHC_SCORE_OUTPUTS_H

#include "attention/tiles.h"

/* The pass's work items; 0 if nothing of it is asked for. An item is one tile of keys of one (batch, K/V head) against
 * all its query rows, in order: it owns the tile's columns of the outputs, whatever the threads. */
int64_t flashc_score_outputs_items(const flashc_problem *problem, const flashc_plan *plan);

/* Runs item number index, as flashc_item_run() does. */
void flashc_score_outputs_run(const flashc_problem *problem, const flashc_plan *plan, int64_t index,
                              const flashc_worker *worker);

#endif
