#include "support/score_mod.h"

#include <math.h>

void test_score_mod_apply(void *user_data, const flashc_score_block *block)
{
    const test_score_mod *mod = user_data;
    for (int64_t i = 0; i < block->n_queries; i++) {
        for (int64_t j = 0; j < block->n_keys; j++) {
            float *score = &block->scores[i * block->query_stride + j * block->key_stride];
            double added = mod->added(mod, block->batch, block->head, block->first_query + i, block->first_key + j);
            *score = added == -(double)INFINITY ? -INFINITY : (float)((double)*score + added);
        }
    }
}

double test_score_mod_wave(const test_score_mod *mod, int64_t b, int64_t h, int64_t i, int64_t j)
{
    return (double)(mod->seed % 5) * sin((double)(i - 2 * j + 3 * h + 5 * b));
}

double test_score_mod_documents(const test_score_mod *mod, int64_t b, int64_t h, int64_t i, int64_t j)
{
    (void)b;
    (void)h;
    const int64_t length = 20 + (int64_t)(mod->seed % 200);
    return i / length == j / length ? 0.0 : -(double)INFINITY;
}
