/* Which rows and keys an item takes: the plan's cut, item by item. */
#ifndef FLASHC_SPAN_H
#define FLASHC_SPAN_H

#include "attention/mask.h"
#include "attention/plan.h"
#include "attention/problem.h"

typedef struct flashc_span {
    int64_t batch, head_k;
    int64_t first_block, n_blocks; /* of the head's row blocks; at most FLASHC_MAX_BLOCKS_PER_ITEM */
    int64_t run;                   /* of the row item's runs */
} flashc_span;

flashc_span flashc_span_of(const flashc_problem *problem, const flashc_plan *plan, int64_t index);

/* Row block i of the span. */
flashc_row_block flashc_span_block(const flashc_problem *problem, const flashc_plan *plan, const flashc_span *span,
                                   int64_t i);

/* Keys begin .. end; none if they are equal. */
typedef struct flashc_key_range {
    int64_t begin, end;
} flashc_key_range;

/* The keys of the span's run that some row of its blocks sees by position. It begins where a piece does. */
flashc_key_range flashc_span_keys(const flashc_plan *plan, const flashc_span *span, const flashc_row_block *blocks);

#endif
