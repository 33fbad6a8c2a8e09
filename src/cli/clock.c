#include "cli/clock.h"

#include <time.h>

static double seconds(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double flashc_cli_now(void)
{
    return seconds(CLOCK_MONOTONIC);
}

double flashc_cli_cpu_seconds(void)
{
    return seconds(CLOCK_PROCESS_CPUTIME_ID);
}
