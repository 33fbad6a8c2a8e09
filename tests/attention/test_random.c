/* Random problems on every kernel that this machine can run, against the float64 oracle and the
 * error bound of flashc.h. FLASHC_TEST_SEED and FLASHC_TEST_COUNT (problems per kernel) vary it. */
#include "support/cmocka.h"
#include "support/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* About 23 ms each: with ten kernels about 23 s on one core. The long suite takes 5,000. */
static const int64_t DEFAULT_COUNT = 100;
static const uint64_t DEFAULT_SEED = 1;

static int64_t from_environment(const char *name, int64_t otherwise)
{
    const char *text = getenv(name);
    return text != NULL && text[0] != '\0' ? strtoll(text, NULL, 0) : otherwise;
}

static void test_random_problems(void **state)
{
    (void)state;
    const char *names[MAX_KERNELS];
    int kernels = runnable_kernels(names);
    int64_t count = from_environment("FLASHC_TEST_COUNT", DEFAULT_COUNT);
    uint64_t seed = (uint64_t)from_environment("FLASHC_TEST_SEED", (int64_t)DEFAULT_SEED);
    for (int k = 0; k < kernels; k++) {
        int64_t typical = 0, split = 0, codes = 0;
        for (int64_t i = 0; i < count; i++) {
            problem p;
            problem_random(&p, seed + (uint64_t)i, names[k]);
            codes += is_of_codes(p.params.k.dtype) || is_of_codes(p.params.v.dtype);
            run_and_check(&p);
            const flashc_explanation plan = plan_of(&p);
            typical += p.params.seqlen_q > plan.block_m && p.params.seqlen_k > 2 * plan.block_n;
            split += plan.piece_n > 0;
            problem_free(&p);
        }
        printf("%s: %lld problems, %lld of them with at least two query blocks and three key tiles, %lld with split "
               "keys, %lld with K or V of codes\n",
               names[k], (long long)count, (long long)typical, (long long)split, (long long)codes);
        if (count >= DEFAULT_COUNT && (split == 0 || codes == 0))
            fail_msg("%s: no problem had split keys, or none had codes", names[k]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_problems)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
