#include "cli/bench_time.h"

#include "cli/cli.h"
#include "cli/clock.h"
#include "cli/library_error.h"
#include "cli/proc.h"

#include <math.h>
#include <stdlib.h>

/* Ten repeats of 0.05 s let the median settle within a percent or so on a quiet machine; calls that
 * take longer than a second are steady, and five will do. */
#define WARM_UP_SECONDS 0.05
#define REPEAT_SECONDS 0.05
#define SLOW_CALL_SECONDS 1.0
enum { DEFAULT_REPEATS = 10, SLOW_REPEATS = 5 };

/* Makes n calls. */
static flashc_status call(flashc_attention_params *params, flashc_bench_rotation *rotation, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        flashc_bench_rotate(rotation, params);
        const flashc_status status = flashc_attention_fwd(params);
        if (status != FLASHC_OK)
            return status;
    }
    return FLASHC_OK;
}

/* Warms up; *seconds: how long a call takes, about. */
static flashc_status warm_up(flashc_attention_params *params, flashc_bench_rotation *rotation, flashc_bench_run *run,
                             double *seconds)
{
    /* The very first call makes the threads and their buffers: what it adds is what a program pays. */
    const int64_t mark = flashc_proc_peak_start();
    double start = flashc_cli_now();
    flashc_status status = call(params, rotation, 1);
    run->peak_rss_growth = flashc_proc_peak_since(mark);
    *seconds = flashc_cli_now() - start;
    double total = *seconds;
    for (int64_t n = 1; status == FLASHC_OK && total < WARM_UP_SECONDS; n *= 2) {
        start = flashc_cli_now();
        status = call(params, rotation, n);
        const double elapsed = flashc_cli_now() - start;
        *seconds = elapsed / (double)n;
        total += elapsed;
    }
    return status;
}

/* run->num_repeats of them, of calls that take about so many seconds each. */
static flashc_status time_repeats(flashc_attention_params *params, flashc_bench_rotation *rotation, double seconds,
                                  flashc_bench_run *run)
{
    const int64_t iterations = seconds < REPEAT_SECONDS ? (int64_t)ceil(REPEAT_SECONDS / fmax(seconds, 1e-8)) : 1;
    for (int i = 0; i < run->num_repeats; i++) {
        const double cpu = flashc_cli_cpu_seconds(), start = flashc_cli_now();
        const flashc_status status = call(params, rotation, iterations);
        if (status != FLASHC_OK)
            return status;
        run->repeats[i] = (flashc_bench_repeat){
            .iterations = iterations,
            .real_time = (flashc_cli_now() - start) / (double)iterations,
            .cpu_time = (flashc_cli_cpu_seconds() - cpu) / (double)iterations,
        };
    }
    return FLASHC_OK;
}

int flashc_bench_time(flashc_attention_params *params, flashc_bench_rotation *rotation, int repeats,
                      flashc_bench_run *run)
{
    double seconds = 0.0;
    flashc_status status = warm_up(params, rotation, run, &seconds);
    if (status != FLASHC_OK)
        return flashc_cli_library_error();
    run->num_repeats = repeats > 0 ? repeats : seconds > SLOW_CALL_SECONDS ? SLOW_REPEATS : DEFAULT_REPEATS;
    run->repeats = calloc((size_t)run->num_repeats, sizeof *run->repeats);
    if (run->repeats == NULL)
        return flashc_cli_error("no memory for %d repeats", run->num_repeats);
    status = time_repeats(params, rotation, seconds, run);
    return status == FLASHC_OK ? FLASHC_CLI_OK : flashc_cli_library_error();
}
