/* The data of a benchmark: random inputs, and copies of K and V that no cache holds. */
#ifndef FLASHC_CLI_BENCH_DATA_H
#define FLASHC_CLI_BENCH_DATA_H

#include "cli/job.h"

#include <stdbool.h>
#include <stdint.h>

/* Fills Q, K and V of a call made of shapes with standard normal numbers; the same for the same seed. */
void flashc_bench_fill(flashc_cli_job *job, uint64_t seed);

enum { FLASHC_BENCH_ROTATING = 4 };

/* K and V and their scales, or copies of them, that calls use in turn. */
typedef struct flashc_bench_rotation {
    char *data[FLASHC_BENCH_ROTATING]; /* what the first call uses, NULL for what is not there; then steps of bytes */
    size_t step[FLASHC_BENCH_ROTATING];
    int64_t count, next;
    void *owned;
} flashc_bench_rotation;

/* K and V themselves; or as many copies as read_buffer_size bytes hold; or these in transparent huge pages. */
typedef enum { FLASHC_BENCH_NO_COPIES, FLASHC_BENCH_COPIES, FLASHC_BENCH_HUGE_PAGES } flashc_bench_copies;

/* False: no memory, or no huge pages. */
bool flashc_bench_rotation_open(const flashc_cli_job *job, flashc_bench_copies copies, int64_t read_buffer_size,
                                flashc_bench_rotation *rotation);
/* Points params to the next copy. */
void flashc_bench_rotate(flashc_bench_rotation *rotation, flashc_attention_params *params);
void flashc_bench_rotation_close(flashc_bench_rotation *rotation);

#endif
