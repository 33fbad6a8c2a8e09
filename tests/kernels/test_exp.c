/* exp of every kernel, through its softmax step: each f32 from -0 down to where it must be exactly zero, or every
 * FLASHC_TEST_EXP_STEP-th. The bound is flashc.h's: 3 u + 0.03 u |x| relative, u = 2^-24. */
#include "cpu.h"
#include "kernels/kernel.h"
#include "numerics.h"
#include "support/cmocka.h"
#include "support/values.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define U 0x1p-24
#define FIRST 0x80000000u /* -0 */
#define LAST 0xc2b00000u  /* -88 */

enum { LANES = 48, KEYS = 128, SCORES = LANES * KEYS };

/* Largest error as a share of the bound. */
static double check_tile(const flashc_kernel_row *kernel, const float *x, const float *p, int count)
{
    double worst = 0;
    for (int i = 0; i < count; i++) {
        const double exact = exp((double)x[i]), error = fabs((double)p[i] - exact) / exact;
        const double share = error / (U * (3 + 0.03 * fabs((double)x[i])));
        if (x[i] < FLASHC_EXP_MIN ? p[i] != 0.0f : !(share <= 1))
            fail_msg("%s: exp(%.9g) is %.9g, exactly %.9g: an error of %.3g u", kernel->name, (double)x[i],
                     (double)p[i], exact, error / U);
        if (x[i] >= FLASHC_EXP_MIN)
            worst = fmax(worst, share);
    }
    return worst;
}

static void check_kernel(const flashc_kernel_row *kernel, uint32_t step)
{
    static float x[SCORES], p[SCORES];
    double worst = 0;
    uint64_t checked = 0;
    for (uint64_t bits = FIRST; bits <= LAST;) {
        int count = 0;
        for (; count < SCORES && bits <= LAST; bits += step)
            x[count++] = flashc_f32_from_bits((uint32_t)bits);
        memcpy(p, x, sizeof p);
        float row_max[LANES] = {0}, row_sum[LANES] = {0}, correction[LANES];
        kernel->vector->softmax(p, LANES, KEYS, LANES, row_max, row_sum, correction);
        worst = fmax(worst, check_tile(kernel, x, p, count));
        checked += (uint64_t)count;
    }
    print_message("%s: %llu values, largest error %.3f of the bound\n", kernel->name, (unsigned long long)checked,
                  worst);
}

static void test_exp(void **state)
{
    (void)state;
    const char *given = getenv("FLASHC_TEST_EXP_STEP");
    const uint32_t step = given != NULL ? (uint32_t)strtoul(given, NULL, 10) : 1009;
    assert_true(step > 0);
    const flashc_vector_ops *before = NULL;
    for (int i = 0; i < flashc_kernel_rows(); i++) {
        const flashc_kernel_row *kernel = flashc_kernel_row_at(i);
        /* Rows along and bf16 share exp with the row lanes across in f32; OpenBLAS rows the whole step. */
        if (kernel->vector->rows_along || kernel->bf16 || kernel->vector == before)
            continue;
        before = kernel->vector;
        const char *missing = flashc_cpu_missing(kernel->cpu_features);
        if (missing)
            print_message("not run: %s: %s\n", kernel->name, missing);
        else
            check_kernel(kernel, step);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_exp)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
