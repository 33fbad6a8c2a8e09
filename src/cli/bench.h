/* What flashc-run bench measures, and how it is printed. */
#ifndef FLASHC_CLI_BENCH_H
#define FLASHC_CLI_BENCH_H

#include "cli/peak.h"

#include <flashc.h>
#include <stdbool.h>
#include <stdint.h>

/* One repeat: `iterations` calls in a row, timed together. */
typedef struct flashc_bench_repeat {
    int64_t iterations;
    double real_time, cpu_time; /* seconds per call; cpu_time is that of all threads together */
} flashc_bench_repeat;

/* The limits of the machine for one number of threads; zeroed: not measured. */
typedef struct flashc_bench_limits {
    int threads;
    flashc_fma_peak fma;
    flashc_read_bandwidth read;
} flashc_bench_limits;

/* One problem on one kernel. */
typedef struct flashc_bench_run {
    char name[256];
    flashc_explanation plan;
    bool work_is_known;      /* no mask, bias or score_mod, which may hide some of the plan's operations */
    double kv_bytes;         /* of K and V that some query sees, each byte once */
    int64_t peak_rss_growth; /* bytes beyond the tensors during the first call; -1: the system does not say */
    int num_repeats;
    flashc_bench_repeat *repeats;
    flashc_bench_limits limits; /* with as many threads as ran */
} flashc_bench_run;

/* The numbers of one repeat, or of one statistic over the repeats; the JSON keys are their names. */
typedef struct flashc_bench_numbers {
    double real_time, cpu_time; /* seconds */
    double gflops, share_of_fma_peak;
    double kv_gbytes_per_second, share_of_read_bandwidth;
    double workspace_bytes, peak_rss_growth_bytes;
} flashc_bench_numbers;

enum { FLASHC_BENCH_NUM_NUMBERS = sizeof(flashc_bench_numbers) / sizeof(double) };

typedef enum flashc_bench_statistic {
    FLASHC_BENCH_MEAN,
    FLASHC_BENCH_MEDIAN,
    FLASHC_BENCH_STDDEV,
    FLASHC_BENCH_CV,
    FLASHC_BENCH_MIN,
    FLASHC_BENCH_MAX
} flashc_bench_statistic;

flashc_bench_numbers flashc_bench_repeat_numbers(const flashc_bench_run *run, int repeat);
/* Each number's own statistic, as Google Benchmark does it for its counters. */
flashc_bench_numbers flashc_bench_statistics(const flashc_bench_run *run, flashc_bench_statistic statistic);
/* One statistic of n > 0 values; sorts them. */
double flashc_bench_statistic_of(int n, double *values, flashc_bench_statistic statistic);

/* GFLOP/s that the arithmetic units could do of what the run's kernel computes in: its limits, or those of so many
 * threads. */
double flashc_bench_peak(const flashc_bench_run *run, const flashc_bench_limits *limits);

/* one_thread: NULL if the limits were not measured. */
void flashc_bench_print_text(const flashc_bench_run *run, const flashc_bench_limits *one_thread);
/* Google Benchmark's layout: one object with "context" and "benchmarks". */
void flashc_bench_print_json(int num_runs, const flashc_bench_run *runs, const flashc_bench_limits *one_thread);

#endif
