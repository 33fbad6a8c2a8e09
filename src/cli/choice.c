#include "cli/choice.h"
#include "cli/bench.h"

/* Quartiles and not means: a round that something disturbed counts once, however long it took. */
flashc_choice_verdict flashc_choice_judge(int rounds, const double *chosen, const double *rival)
{
    double speed[FLASHC_MOST_ROUNDS];
    for (int i = 0; i < rounds; i++)
        speed[i] = chosen[i] / rival[i];
    const double median = flashc_bench_statistic_of(rounds, speed, FLASHC_BENCH_MEDIAN); /* and speed is sorted */
    const int quarter = rounds / 4;
    flashc_choice_verdict verdict = {
        .speed = median,
        .low = speed[quarter],
        .high = speed[rounds - 1 - quarter],
    };
    verdict.disagrees = verdict.low > 1.0 + FLASHC_CHOICE_MARGIN;
    return verdict;
}
