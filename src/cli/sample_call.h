/* A short call of some shape, otherwise like the one whose time is to be predicted: its data, its items, its time. */
#ifndef FLASHC_CLI_SAMPLE_CALL_H
#define FLASHC_CLI_SAMPLE_CALL_H

#include "cli/attention_options.h"
#include "cli/bench_data.h"
#include "cli/job.h"

#include <flashc.h>
#include <stdint.h>

/* What the samples are like. */
typedef struct flashc_sampled_call {
    const flashc_cli_attention_args *args;
    const flashc_attention_params *params;
    const char *kernel;
} flashc_sampled_call;

typedef struct flashc_sample_shape {
    int64_t heads, rows; /* K/V heads, and query rows of each (at most those of the sampled call) */
    int64_t keys;
    int causal; /* 1: the last query at the last key */
} flashc_sample_shape;

typedef struct flashc_sample {
    flashc_cli_job *job; /* large for a frame */
    flashc_bench_rotation rotation;
    int64_t count;
    flashc_item_work *items;
} flashc_sample;

/* Functions that return int: FLASHC_CLI_OK, or the exit code after a message. */

/* One thread. cold: K and V come from memory in every call. To be closed in any case. */
int flashc_sample_open(const flashc_sampled_call *call, const flashc_sample_shape *shape, int cold,
                       flashc_sample *sample);
void flashc_sample_close(flashc_sample *sample);

/* From now on so many threads; count and items are those of that plan. */
int flashc_sample_plan(flashc_sample *sample, int threads);

/* So many calls in a row, *seconds each. */
int flashc_sample_calls(flashc_sample *sample, int64_t calls, double *seconds);

/* Seconds of a call at its best. */
int flashc_sample_time(flashc_sample *sample, double *best);

#endif
