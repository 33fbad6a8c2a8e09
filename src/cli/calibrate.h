/* Measures, on this machine and now, what the work of a call costs: a few short calls of the same kernel, types and
 * dims, with random data. Nothing is kept from one run of the program to the next. */
#ifndef FLASHC_CLI_CALIBRATE_H
#define FLASHC_CLI_CALIBRATE_H

#include "cli/attention_options.h"
#include "cli/costs.h"
#include "cli/makespan.h"

#include <flashc.h>

typedef struct flashc_calibration {
    flashc_costs costs; /* with one thread, K and V in a cache */
    int samples;        /* that they were fitted to */
    double worst;       /* the largest relative error of the fit */
    double team;        /* seconds to start a team of two; it is taken to grow with the logarithm of the team */
    int all_threads;    /* how many the measurements below had */
    flashc_makespan_memory memory;
    double cache_size;  /* bytes of the last level; 0: unknown */
} flashc_calibration;

/* For calls like this one, which flashc_explain() planned so. A second or two. FLASHC_CLI_OK or the exit code after a
 * message. */
int flashc_calibrate(const flashc_cli_attention_args *args, const flashc_attention_params *params,
                     const flashc_explanation *plan, flashc_calibration *out);

/* The makespan of items with such costs. FLASHC_CLI_OK or the exit code after a message. */
int flashc_calibration_simulate(const flashc_calibration *known, int64_t count, const flashc_item_work *work,
                                const flashc_cost_bytes *bytes, int threads, flashc_makespan *out);

#endif
