/* What the two halves of problem_random() share. */
#ifndef FLASHC_TESTS_PROBLEM_RANDOM_H
#define FLASHC_TESTS_PROBLEM_RANDOM_H

#include "support/problem.h"

int64_t random_pick(test_rng *rng, const int64_t *values, size_t count);
flashc_dtype random_dtype(test_rng *rng);

/* Chooses strides and makes the memory. broadcast: percent of axes with stride 0. */
void random_layout(problem *p, problem_tensor which, flashc_dtype dtype, int broadcast, test_rng *rng);

/* Draws everything but sizes, scale, q, k, v and outputs. pattern_n: the span that patterns of hidden keys go by. */
void random_features(problem *p, int64_t pattern_n, int64_t block_m, int64_t block_n, test_rng *rng);

/* lse in most, and now and then row_max, key_mass and scores. */
void random_outputs(problem *p, test_rng *rng);

#endif
