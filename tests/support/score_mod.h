/* Score mods for tests: what is added to a score, said once for the oracle and for the callback. */
#ifndef FLASHC_TESTS_SCORE_MOD_H
#define FLASHC_TESTS_SCORE_MOD_H

#include "flashc.h"

typedef struct test_score_mod test_score_mod;

struct test_score_mod {
    /* To the score of query i and key j (from the first real key): finite, or -inf to hide it. */
    double (*added)(const test_score_mod *mod, int64_t b, int64_t h, int64_t i, int64_t j);
    uint64_t seed;
};

/* A flashc_score_mod_fn; user_data is a const test_score_mod. */
void test_score_mod_apply(void *user_data, const flashc_score_block *block);

/* Some values of added: a bounded function of all coordinates; a document mask of runs of tokens. */
double test_score_mod_wave(const test_score_mod *mod, int64_t b, int64_t h, int64_t i, int64_t j);
double test_score_mod_documents(const test_score_mod *mod, int64_t b, int64_t h, int64_t i, int64_t j);

#endif
