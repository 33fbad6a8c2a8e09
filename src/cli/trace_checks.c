#include "cli/trace_checks.h"

#include <float.h>
#include <math.h>

/* Beyond this exp() is 0 in double, so larger distances add no rounding. */
#define LARGEST_EXPONENT 745.0

/*
 * Both sides are sums of n positive terms. With u = 2^-53, R = the distance from the maximum (rounding the
 * argument of exp costs R u; each side holds two such chains), 2 u per exp, n u per sum, and on the online side an
 * exp, a product and a sum per step: together at most u (4 R + 5 n + 8) of the value.
 */
static double tolerance_of(int64_t n, const double *x)
{
    double low = x[0], high = x[0];
    for (int64_t i = 1; i < n; i++) {
        low = fmin(low, x[i]);
        high = fmax(high, x[i]);
    }
    return 0x1p-53 * (4.0 * fmin(high - low, LARGEST_EXPONENT) + 5.0 * (double)n + 8.0);
}

static void check_pair(flashc_cli_trace_check *check, int64_t index, double a, double b)
{
    const double difference = fabs(a - b) / fmax(fabs(a), fabs(b));
    if (!(difference <= check->difference) || check->index < 0) {
        check->difference = difference;
        check->index = index;
    }
}

static flashc_cli_trace_check check_every_step(int64_t n, const flashc_trace_step *steps, double tolerance)
{
    flashc_cli_trace_check check = {
        .name = "d'_i = d_i * exp(m_N - m_i) at every step", .index = -1, .tolerance = tolerance};
    for (int64_t i = 0; i < n; i++) {
        /* Far below the final maximum d_i fades out and the factor overflows: the online form is
         * there because of this, and nothing can be compared. */
        if (steps[i].denom_standard < DBL_MIN || isinf(steps[i].scale))
            check.skipped++;
        else
            check_pair(&check, i, steps[i].denom_online, steps[i].denom_standard * steps[i].scale);
    }
    return check;
}

static flashc_cli_trace_check check_last(int64_t n, const flashc_trace_step *steps, double tolerance)
{
    flashc_cli_trace_check check = {.name = "d_N = d'_N at the last step", .index = -1, .tolerance = tolerance};
    check_pair(&check, n - 1, steps[n - 1].denom_online, steps[n - 1].denom_standard);
    return check;
}

static flashc_cli_trace_check check_probabilities(int64_t n, const flashc_trace_step *steps, double tolerance)
{
    flashc_cli_trace_check check = {
        .name = "probabilities are the same both ways", .index = -1, .tolerance = 2.0 * tolerance};
    for (int64_t i = 0; i < n; i++) {
        if (steps[i].p_standard < DBL_MIN || steps[i].p_online < DBL_MIN)
            check.skipped++;
        else
            check_pair(&check, i, steps[i].p_online, steps[i].p_standard);
    }
    return check;
}

void flashc_cli_trace_checks(int64_t n, const double *x, const flashc_trace_step *steps,
                             flashc_cli_trace_check checks[FLASHC_CLI_TRACE_CHECKS])
{
    const double tolerance = tolerance_of(n, x);
    checks[0] = check_every_step(n, steps, tolerance);
    checks[1] = check_last(n, steps, tolerance);
    checks[2] = check_probabilities(n, steps, tolerance);
    for (int c = 0; c < FLASHC_CLI_TRACE_CHECKS; c++)
        checks[c].pass = checks[c].difference <= checks[c].tolerance;
}
