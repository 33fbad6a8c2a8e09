/* Which rows and keys an item takes: the plan's cut, item by item. */
#ifndef FLASHC_SPAN_H
#define FLASHC_SPAN_H

#include "attention/block.h"
#include "attention/plan.h"
#include "attention/problem.h"

/* Items stand on the rectangle of batch elements and rows: one of them may have fewer row blocks than it has room
 * for, or none, and fewer runs than there are numbers for. */
typedef struct flashc_span {
    int64_t batch, head_k;
    flashc_sequence sequence;
    int64_t first_block, n_blocks; /* of the head's row blocks; at most FLASHC_MAX_BLOCKS_PER_ITEM */
    int64_t piece_keys;            /* of the sequence */
    int64_t run, n_runs;           /* which of the row item's runs, and how many there are: at least 1 */
    int64_t first_run;             /* run 0 of the row item's, counted from key 0 */
    flashc_key_range keys;         /* of this run that some row sees by position: from the beginning of a tile; none
                                      if the ends are equal */
} flashc_span;

flashc_span flashc_span_of(const flashc_problem *problem, const flashc_plan *plan, int64_t index);

/* Row block i of the span. */
flashc_row_block flashc_span_block(const flashc_problem *problem, const flashc_plan *plan, const flashc_span *span,
                                   int64_t i);

#endif
