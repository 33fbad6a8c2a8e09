#include "cli/choice.h"

#include <stdlib.h>

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Quartiles and not means: a round that something disturbed counts once, however long it took. */
flashc_choice_verdict flashc_choice_judge(int rounds, const double *chosen, const double *rival)
{
    double speed[FLASHC_MOST_ROUNDS];
    for (int i = 0; i < rounds; i++)
        speed[i] = chosen[i] / rival[i];
    qsort(speed, (size_t)rounds, sizeof *speed, compare_doubles);
    const int quarter = rounds / 4;
    flashc_choice_verdict verdict = {
        .speed = 0.5 * (speed[(rounds - 1) / 2] + speed[rounds / 2]),
        .low = speed[quarter],
        .high = speed[rounds - 1 - quarter],
    };
    verdict.disagrees = verdict.low > 1.0 + FLASHC_CHOICE_MARGIN;
    return verdict;
}
