#include "cpu.h"
#include "softmax/check.h"

#include <inttypes.h>
#include <math.h>

static flashc_status check_trace(int64_t n, const double *x, const flashc_trace_step *steps)
{
    flashc_status status = flashc_check_size("n", n);
    if (status == FLASHC_OK)
        status = flashc_check_input("x", x, 1, n, n, sizeof *x);
    if (status == FLASHC_OK)
        status = flashc_check_output("steps", steps, 1, n, n, sizeof *steps);
    for (int64_t i = 0; i < n && status == FLASHC_OK; i++) {
        if (!isfinite(x[i]))
            status = flashc_fail(FLASHC_ERR_ARGUMENT, "x[%" PRId64 "]: expected a finite value, found %g", i, x[i]);
    }
    return status;
}

static void fill(int64_t n, const double *x, flashc_trace_step *steps)
{
    /* The online pass: each step knows only what came before. */
    for (int64_t i = 0; i < n; i++) {
        flashc_trace_step *step = &steps[i];
        step->x = x[i];
        step->row_max = i == 0 ? x[0] : fmax(steps[i - 1].row_max, x[i]);
        step->correction = i == 0 ? 0.0 : exp(steps[i - 1].row_max - step->row_max);
        double carried = i == 0 ? 0.0 : steps[i - 1].denom_online * step->correction;
        step->denom_online = carried + exp(x[i] - step->row_max);
    }

    /* The standard way needs the final max first. */
    double final_max = steps[n - 1].row_max;
    double denom = 0.0;
    for (int64_t i = 0; i < n; i++) {
        denom += exp(x[i] - final_max);
        steps[i].denom_standard = denom;
        steps[i].scale = exp(final_max - steps[i].row_max);
    }
    for (int64_t i = 0; i < n; i++) {
        flashc_trace_step *step = &steps[i];
        step->p_standard = exp(x[i] - final_max) / denom;
        step->p_online = exp(x[i] - step->row_max) * exp(step->row_max - final_max) / steps[n - 1].denom_online;
    }
}

flashc_status flashc_softmax_trace(int64_t n, const double *x, flashc_trace_step *steps)
{
    flashc_status status = check_trace(n, x, steps);
    if (status != FLASHC_OK || n == 0)
        return status;
    FLASHC_IN_DEFAULT_FLOAT_MODE;
    fill(n, x, steps);
    return FLASHC_OK;
}
