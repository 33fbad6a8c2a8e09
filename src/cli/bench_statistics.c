#include "cli/bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* NaN if the limit was not measured. */
static double share_of(double value, double limit)
{
    return limit > 0.0 ? value / limit : (double)NAN;
}

double flashc_bench_peak(const flashc_bench_run *run, const flashc_bench_limits *limits)
{
    return run->plan.compute == FLASHC_COMPUTE_BF16 ? limits->fma.bf16_gflops : limits->fma.gflops;
}

flashc_bench_numbers flashc_bench_repeat_numbers(const flashc_bench_run *run, int repeat)
{
    const flashc_bench_repeat *times = &run->repeats[repeat];
    flashc_bench_numbers numbers = {
        .real_time = times->real_time,
        .cpu_time = times->cpu_time,
        .gflops = 1e-9 * run->plan.flops / times->real_time,
        .kv_gbytes_per_second = 1e-9 * run->kv_bytes / times->real_time,
        .workspace_bytes = (double)run->plan.workspace_size,
        .peak_rss_growth_bytes = run->peak_rss_growth < 0 ? (double)NAN : (double)run->peak_rss_growth,
    };
    numbers.share_of_fma_peak = share_of(numbers.gflops, flashc_bench_peak(run, &run->limits));
    numbers.share_of_read_bandwidth =
        share_of(numbers.kv_gbytes_per_second, run->limits.read.gbytes_per_second);
    return numbers;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double flashc_bench_statistic_of(int n, double *values, flashc_bench_statistic statistic)
{
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    double mean = 0.0, squares = 0.0;
    for (int i = 0; i < n; i++)
        mean += values[i] / n;
    for (int i = 0; i < n; i++)
        squares += (values[i] - mean) * (values[i] - mean);
    const double stddev = n > 1 ? sqrt(squares / (n - 1)) : 0.0;
    switch (statistic) {
    case FLASHC_BENCH_MEAN: return mean;
    case FLASHC_BENCH_MEDIAN: return 0.5 * (values[(n - 1) / 2] + values[n / 2]);
    case FLASHC_BENCH_STDDEV: return stddev;
    case FLASHC_BENCH_CV: return mean != 0.0 ? stddev / mean : 0.0;
    case FLASHC_BENCH_MIN: return values[0];
    case FLASHC_BENCH_MAX: return values[n - 1];
    }
    return (double)NAN;
}

flashc_bench_numbers flashc_bench_statistics(const flashc_bench_run *run, flashc_bench_statistic statistic)
{
    flashc_bench_numbers result = {0};
    double result_array[FLASHC_BENCH_NUM_NUMBERS];
    double *values = malloc((size_t)run->num_repeats * sizeof *values);
    if (values == NULL)
        return result;
    for (int number = 0; number < FLASHC_BENCH_NUM_NUMBERS; number++) {
        for (int i = 0; i < run->num_repeats; i++) {
            const flashc_bench_numbers repeat = flashc_bench_repeat_numbers(run, i);
            memcpy(&values[i], (const char *)&repeat + (size_t)number * sizeof(double), sizeof(double));
        }
        result_array[number] = flashc_bench_statistic_of(run->num_repeats, values, statistic);
    }
    memcpy(&result, result_array, sizeof result);
    free(values);
    return result;
}
