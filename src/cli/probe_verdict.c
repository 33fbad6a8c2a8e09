#include "cli/bench.h"
#include "cli/probe.h"

/* Quartiles and not means: a round that something disturbed counts once, however long it took. */
flashc_probe_verdict flashc_probe_judge(int rounds, const double *chosen, const double *rival)
{
    double speed[FLASHC_MOST_ROUNDS];
    for (int i = 0; i < rounds; i++)
        speed[i] = chosen[i] / rival[i];
    const double median = flashc_bench_statistic_of(rounds, speed, FLASHC_BENCH_MEDIAN); /* and speed is sorted */
    const int quarter = rounds / 4;
    flashc_probe_verdict verdict = {
        .speed = median,
        .low = speed[quarter],
        .high = speed[rounds - 1 - quarter],
    };
    verdict.disagrees = verdict.low > 1.0 + FLASHC_PROBE_MARGIN;
    return verdict;
}
