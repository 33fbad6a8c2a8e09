/* A short call of some shape, otherwise like the one whose time is to be predicted: its data, its items, its time. */
#ifndef FLASHC_CLI_PROBE_H
#define FLASHC_CLI_PROBE_H

#include "cli/attention_options.h"
#include "cli/bench_data.h"
#include "cli/job.h"

#include <flashc.h>
#include <stdint.h>

/* What the probes are like. */
typedef struct flashc_probed_call {
    const flashc_cli_attention_args *args;
    const flashc_attention_params *params;
    const char *kernel;
} flashc_probed_call;

typedef struct flashc_probe_shape {
    int64_t heads, rows; /* K/V heads, and query rows of each (at most those of the probed call) */
    int64_t keys;
    int causal; /* 1: the last query at the last key */
} flashc_probe_shape;

typedef struct flashc_probe {
    flashc_cli_job *job; /* large for a frame */
    flashc_bench_rotation rotation;
    int64_t count;
    flashc_item_work *items;
} flashc_probe;

/* Functions that return int: FLASHC_CLI_OK, or the exit code after a message. */

/* One thread. cold: K and V come from memory in every call. To be closed in any case. */
int flashc_probe_open(const flashc_probed_call *call, const flashc_probe_shape *shape, int cold, flashc_probe *probe);
void flashc_probe_close(flashc_probe *probe);

/* From now on so many threads; count and items are those of that plan. */
int flashc_probe_plan(flashc_probe *probe, int threads);

/* So many calls in a row, *seconds each. */
int flashc_probe_calls(flashc_probe *probe, int64_t calls, double *seconds);

/* Seconds of a call at its best. */
int flashc_probe_time(flashc_probe *probe, double *best);

#endif
