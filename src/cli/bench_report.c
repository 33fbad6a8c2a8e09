#include "cli/bench.h"

#include "cli/json.h"
#include "cli/proc.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void print_bytes(const char *name, double bytes)
{
    if (isnan(bytes))
        printf("%s unknown", name);
    else if (bytes < 1024.0 * 1024.0)
        printf("%s %.1f KiB", name, bytes / 1024.0);
    else
        printf("%s %.1f MiB", name, bytes / (1024.0 * 1024.0));
}

static void print_time(const char *name, double seconds)
{
    if (seconds < 1e-3)
        printf("%s %.3f us", name, 1e6 * seconds);
    else
        printf("%s %.3f ms", name, 1e3 * seconds);
}

void flashc_bench_print_text(const flashc_bench_run *run, const flashc_bench_limits *one_thread)
{
    const flashc_bench_numbers median = flashc_bench_statistics(run, FLASHC_BENCH_MEDIAN);
    const flashc_bench_numbers low = flashc_bench_statistics(run, FLASHC_BENCH_MIN);
    const flashc_bench_numbers high = flashc_bench_statistics(run, FLASHC_BENCH_MAX);
    const flashc_bench_limits *limits = &run->limits;

    printf("%s\n", run->name);
    print_time("  time       median", median.real_time);
    print_time(", min", low.real_time);
    printf(", spread %.1f %% ((max - min) / median), %d repeats of %lld calls\n",
           100.0 * (high.real_time - low.real_time) / median.real_time, run->num_repeats,
           (long long)run->repeats[0].iterations);
    printf("  work       %.1f GFLOP/s", median.gflops);
    if (one_thread != NULL)
        printf(", %.1f %% of the %s peak: %.1f GFLOP/s with %d thread%s (%s), %.1f with one",
               100.0 * median.share_of_fma_peak, run->plan.compute == FLASHC_COMPUTE_BF16 ? "bf16" : "FMA",
               flashc_bench_peak(run, limits), limits->fma.threads, limits->fma.threads == 1 ? "" : "s",
               limits->fma.isa, flashc_bench_peak(run, one_thread));
    printf("\n  K and V    %.1f GB/s", median.kv_gbytes_per_second);
    if (one_thread != NULL && limits->read.gbytes_per_second > 0.0)
        printf(", %.1f %% of the read bandwidth: %.1f GB/s with %d thread%s, %.1f with one",
               100.0 * median.share_of_read_bandwidth, limits->read.gbytes_per_second, limits->read.threads,
               limits->read.threads == 1 ? "" : "s", one_thread->read.gbytes_per_second);
    print_bytes("\n  memory     workspace", median.workspace_bytes);
    print_bytes(", peak growth beyond the tensors", median.peak_rss_growth_bytes);
    putchar('\n');
}

/* The caches of the first CPU, as Google Benchmark lists them. */
static void write_caches(flashc_cli_json *json)
{
    flashc_cli_json_array(json, "caches");
    for (int index = 0; index < 16; index++) {
        static const char directory[] = "/sys/devices/system/cpu/cpu0/cache/index";
        char path[128], text[128];
        snprintf(path, sizeof path, "%s%d/type", directory, index);
        if (flashc_proc_line(path, text, sizeof text)[0] == '\0')
            break;
        flashc_cli_json_object(json, NULL);
        flashc_cli_json_string(json, "type", text);
        snprintf(path, sizeof path, "%s%d/level", directory, index);
        flashc_cli_json_int(json, "level", strtoll(flashc_proc_line(path, text, sizeof text), NULL, 10));
        snprintf(path, sizeof path, "%s%d/size", directory, index); /* "48K" */
        flashc_cli_json_int(json, "size", 1024 * strtoll(flashc_proc_line(path, text, sizeof text), NULL, 10));
        snprintf(path, sizeof path, "%s%d/shared_cpu_map", directory, index); /* hexadecimal bits */
        int sharing = 0;
        for (const char *c = flashc_proc_line(path, text, sizeof text); *c != '\0'; c++) {
            const char digit[2] = {*c, '\0'};
            sharing += __builtin_popcountl((unsigned long)strtol(digit, NULL, 16));
        }
        flashc_cli_json_int(json, "num_sharing", sharing);
        flashc_cli_json_end(json, '}');
    }
    flashc_cli_json_end(json, ']');
}

static double clock_mhz(void)
{
    char line[256];
    const double khz =
        strtod(flashc_proc_line("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", line, sizeof line), NULL);
    if (khz > 0.0)
        return khz / 1000.0;
    FILE *file = fopen("/proc/cpuinfo", "re");
    double mhz = 0.0;
    while (file != NULL && mhz == 0.0 && fgets(line, sizeof line, file) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "cpu MHz", 7) == 0 && colon != NULL)
            mhz = strtod(colon + 1, NULL);
    }
    if (file != NULL)
        fclose(file);
    return mhz;
}

static void write_limits(flashc_cli_json *json, const flashc_bench_limits *limits)
{
    flashc_cli_json_object(json, NULL);
    flashc_cli_json_int(json, "threads", limits->threads);
    flashc_cli_json_string(json, "fma_isa", limits->fma.isa);
    flashc_cli_json_double(json, "fma_gflops", limits->fma.gflops);
    flashc_cli_json_double(json, "avx2_gflops", limits->fma.avx2_gflops > 0.0 ? limits->fma.avx2_gflops : (double)NAN);
    flashc_cli_json_double(json, "bf16_gflops", limits->fma.bf16_gflops > 0.0 ? limits->fma.bf16_gflops : (double)NAN);
    flashc_cli_json_double(json, "read_gbytes_per_second",
                           limits->read.gbytes_per_second > 0.0 ? limits->read.gbytes_per_second : (double)NAN);
    flashc_cli_json_int(json, "read_buffer_bytes", limits->read.buffer_size);
    flashc_cli_json_end(json, '}');
}

static void write_context(flashc_cli_json *json, int num_runs, const flashc_bench_run *runs,
                          const flashc_bench_limits *one_thread)
{
    char date[64];
    const time_t seconds = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S+00:00", gmtime_r(&seconds, &utc));
    flashc_system_info system = {.struct_size = sizeof system};
    double load[3] = {0};
    const int num_loads = getloadavg(load, 3);

    flashc_cli_json_object(json, "context");
    flashc_cli_json_string(json, "date", date);
    flashc_cli_json_string(json, "executable", program_invocation_name);
    flashc_cli_json_int(json, "num_cpus", sysconf(_SC_NPROCESSORS_ONLN));
    flashc_cli_json_int(json, "mhz_per_cpu", (int64_t)lround(clock_mhz()));
    write_caches(json);
    flashc_cli_json_doubles(json, "load_avg", num_loads > 0 ? num_loads : 0, load);
#if defined(NDEBUG)
    flashc_cli_json_string(json, "library_build_type", "release");
#else
    flashc_cli_json_string(json, "library_build_type", "debug");
#endif
    flashc_cli_json_string(json, "library_version", flashc_version());
    if (flashc_system_get(&system) == FLASHC_OK) {
        flashc_cli_json_string(json, "cpu_features", system.cpu_features);
        flashc_cli_json_string(json, "blas", system.blas);
    }
    flashc_cli_json_array(json, "limits");
    if (one_thread != NULL)
        write_limits(json, one_thread);
    for (int i = 0; one_thread != NULL && i < num_runs; i++) {
        if (runs[i].limits.threads != (i == 0 ? one_thread->threads : runs[i - 1].limits.threads))
            write_limits(json, &runs[i].limits);
    }
    flashc_cli_json_end(json, ']');
    flashc_cli_json_end(json, '}');
}

/* cv is a ratio in every number, times included; the others have the units of the keys. */
static void write_numbers(flashc_cli_json *json, const flashc_bench_numbers *numbers, double time_factor)
{
    flashc_cli_json_double(json, "real_time", time_factor * numbers->real_time);
    flashc_cli_json_double(json, "cpu_time", time_factor * numbers->cpu_time);
    flashc_cli_json_string(json, "time_unit", "us");
    flashc_cli_json_double(json, "gflops", numbers->gflops);
    flashc_cli_json_double(json, "share_of_fma_peak", numbers->share_of_fma_peak);
    flashc_cli_json_double(json, "kv_gbytes_per_second", numbers->kv_gbytes_per_second);
    flashc_cli_json_double(json, "share_of_read_bandwidth", numbers->share_of_read_bandwidth);
    flashc_cli_json_double(json, "workspace_bytes", numbers->workspace_bytes);
    flashc_cli_json_double(json, "peak_rss_growth_bytes", numbers->peak_rss_growth_bytes);
}

static void write_identity(flashc_cli_json *json, const flashc_bench_run *run, int family, const char *aggregate)
{
    char name[sizeof run->name + 16];
    snprintf(name, sizeof name, "%s%s%s", run->name, aggregate != NULL ? "_" : "", aggregate != NULL ? aggregate : "");
    flashc_cli_json_string(json, "name", name);
    flashc_cli_json_int(json, "family_index", family);
    flashc_cli_json_int(json, "per_family_instance_index", 0);
    flashc_cli_json_string(json, "run_name", run->name);
    flashc_cli_json_string(json, "run_type", aggregate != NULL ? "aggregate" : "iteration");
    flashc_cli_json_int(json, "repetitions", run->num_repeats);
}

static void write_run(flashc_cli_json *json, const flashc_bench_run *run, int family)
{
    static const struct {
        const char *name, *unit;
        flashc_bench_statistic statistic;
    } aggregates[] = {
        {"mean", "time", FLASHC_BENCH_MEAN},
        {"median", "time", FLASHC_BENCH_MEDIAN},
        {"stddev", "time", FLASHC_BENCH_STDDEV},
        {"cv", "percentage", FLASHC_BENCH_CV},
    };
    for (int i = 0; i < run->num_repeats; i++) {
        const flashc_bench_numbers numbers = flashc_bench_repeat_numbers(run, i);
        flashc_cli_json_object(json, NULL);
        write_identity(json, run, family, NULL);
        flashc_cli_json_int(json, "repetition_index", i);
        flashc_cli_json_int(json, "threads", run->plan.num_threads);
        flashc_cli_json_int(json, "iterations", run->repeats[i].iterations);
        write_numbers(json, &numbers, 1e6);
        flashc_cli_json_end(json, '}');
    }
    for (size_t a = 0; a < sizeof aggregates / sizeof aggregates[0]; a++) {
        const flashc_bench_numbers numbers = flashc_bench_statistics(run, aggregates[a].statistic);
        flashc_cli_json_object(json, NULL);
        write_identity(json, run, family, aggregates[a].name);
        flashc_cli_json_int(json, "threads", run->plan.num_threads);
        flashc_cli_json_string(json, "aggregate_name", aggregates[a].name);
        flashc_cli_json_string(json, "aggregate_unit", aggregates[a].unit);
        flashc_cli_json_int(json, "iterations", run->num_repeats);
        write_numbers(json, &numbers, aggregates[a].statistic == FLASHC_BENCH_CV ? 1.0 : 1e6);
        flashc_cli_json_end(json, '}');
    }
}

void flashc_bench_print_json(int num_runs, const flashc_bench_run *runs, const flashc_bench_limits *one_thread)
{
    flashc_cli_json json;
    flashc_cli_json_begin(&json, stdout);
    flashc_cli_json_object(&json, NULL);
    write_context(&json, num_runs, runs, one_thread);
    flashc_cli_json_array(&json, "benchmarks");
    for (int i = 0; i < num_runs; i++)
        write_run(&json, &runs[i], i);
    flashc_cli_json_end(&json, ']');
    flashc_cli_json_end(&json, '}');
}
