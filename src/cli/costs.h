/*
 * What work costs: seconds for each unit of work that flashc_explain_items() counts. Pure; cli/calibrate.h measures.
 */
#ifndef FLASHC_CLI_COSTS_H
#define FLASHC_CLI_COSTS_H

#include "cli/makespan.h"

#include <flashc.h>

/* The units. */
typedef enum flashc_cost {
    FLASHC_COST_CALL,       /* one call                                                                 */
    FLASHC_COST_ITEM,       /* one item                                                                 */
    FLASHC_COST_ROW,        /* a query row of an item: loaded, finished, stored                         */
    FLASHC_COST_PIECE_ROW,  /* a query row of a further piece of the keys: a partial result, merged     */
    FLASHC_COST_KEY,        /* a key of an item: found or converted, for all rows                       */
    FLASHC_COST_SCORE,      /* an element of a tile: Q K^T, softmax, P V                                */
    FLASHC_COST_EDGE_TILE,  /* a tile of which position hides a part                                    */
    FLASHC_COSTS
} flashc_cost;

typedef struct flashc_costs {
    double seconds[FLASHC_COSTS]; /* per unit, >= 0 */
} flashc_costs;

/* "item", "row", ... */
const char *flashc_cost_name(flashc_cost cost);

/* Adds the units of an item's work, calls none. */
void flashc_costs_count(const flashc_item_work *work, double units[FLASHC_COSTS]);

double flashc_costs_sum(const flashc_costs *costs, const double units[FLASHC_COSTS]);

/* Work with one thread, and how long it took. */
typedef struct flashc_cost_sample {
    double units[FLASHC_COSTS];
    double seconds; /* > 0 */
} flashc_cost_sample;

/* The costs, none negative, whose sums are nearest to the samples' seconds: least squares of the relative errors. */
void flashc_costs_fit(int n, const flashc_cost_sample *samples, flashc_costs *out);

/* What is read and written: bytes of K and V for a key of a head, of q and o for a query row. */
typedef struct flashc_cost_bytes {
    double key, row;
} flashc_cost_bytes;

flashc_cost_bytes flashc_costs_bytes(const flashc_attention_params *params);

/* Items as the simulation takes them. K and V of a head come from memory once, a share for each item that reads them,
 * if they fit in half of the cache; otherwise every item reads them from memory. */
void flashc_costs_of_items(const flashc_costs *costs, int64_t count, const flashc_item_work *work,
                           const flashc_cost_bytes *bytes, double cache_size, flashc_makespan_item *out);

#endif
