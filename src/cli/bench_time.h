/* The timing of flashc-run bench. */
#ifndef FLASHC_CLI_BENCH_TIME_H
#define FLASHC_CLI_BENCH_TIME_H

#include "cli/bench.h"
#include "cli/bench_data.h"

/* Warms up, then times the call, with other copies of K and V each time if the rotation has them, and fills the run's
 * repeats (to be freed) and peak_rss_growth. repeats: how many; < 1: as many as are worth it. FLASHC_CLI_OK, or the
 * exit code after a message. */
int flashc_bench_time(flashc_attention_params *params, flashc_bench_rotation *rotation, int repeats,
                      flashc_bench_run *run);

#endif
