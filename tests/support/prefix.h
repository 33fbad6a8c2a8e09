/* A whole problem as a shared prefix and the keys behind it. */
#ifndef FLASHC_TESTS_PREFIX_H
#define FLASHC_TESTS_PREFIX_H

#include "support/problem.h"

/* Makes the first `prefix` keys of every batch element those of element 0. */
void test_prefix_share(problem *p, int64_t prefix);

/* The prefix as it lies in a whole problem, whose own keys then are the rest. */
flashc_shared_prefix test_prefix_split(const flashc_attention_params *whole, int64_t prefix,
                                       flashc_attention_params *own);

#endif
