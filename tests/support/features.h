/* The features of an attention call as factors of a covering design (see cover.h), and the random problem that a row
 * of levels asks for. */
#ifndef FLASHC_TESTS_FEATURES_H
#define FLASHC_TESTS_FEATURES_H

#include "support/form.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum feature {
    FEATURE_Q_TYPE, FEATURE_K_TYPE, FEATURE_V_TYPE, FEATURE_O_TYPE,
    FEATURE_HEADS, FEATURE_DIMS, FEATURE_BATCH, FEATURE_KEYS, FEATURE_THREADS, FEATURE_SCALE, FEATURE_COMPUTE,
    FEATURE_Q_LAYOUT, FEATURE_K_LAYOUT, FEATURE_V_LAYOUT, FEATURE_O_LAYOUT,
    FEATURE_QUERY_FORM, FEATURE_KEY_FORM, FEATURE_SEQLENS_Q, FEATURE_SEQLENS_K, FEATURE_LEFTPAD_K,
    FEATURE_ALIGNMENT, FEATURE_CAUSAL, FEATURE_WINDOW, FEATURE_MASK, FEATURE_BLOCK_MASK,
    FEATURE_SOFTCAP, FEATURE_BIAS, FEATURE_ALIBI, FEATURE_SCORE_MOD, FEATURE_SINKS, FEATURE_PROGRESS,
    FEATURE_LSE, FEATURE_ROW_MAX, FEATURE_SCORES, FEATURE_KEY_MASS,
    FEATURE_CALL, FEATURE_VALUES,
    FEATURES
} feature;

/* Level 0 is what a plain call has. */
typedef struct feature_levels {
    const char *name;
    const char *level[9]; /* NULL ends them */
} feature_levels;

extern const feature_levels feature_table[FEATURES];
int feature_count(feature which);

/* Levels that are refused together: the call fails with a message that begins with this. */
typedef struct forbidden_pair {
    feature a;
    int level_a;
    feature b;
    int level_b;
    const char *message;
} forbidden_pair;

extern const forbidden_pair forbidden_pairs[];
extern const int forbidden_pairs_count;
/* Of features by number, for cover.h. */
bool feature_forbidden(int a, int level_a, int b, int level_b);

/* How the problem is to be called: the levels of FEATURE_CALL. */
typedef enum feature_call { CALL_ONCE, CALL_WITH_WORKSPACE, CALL_IN_CHUNKS, CALL_AND_MERGE } feature_call;

/* The problem of a row, padded, and the form it is to be brought into. rows, keys: seqlen_q * group is at least the
 * first, or at most if few; seqlen_k is. The kernel is not set, and compute is left at its default. */
void features_problem(problem *p, form_kind *kind, const int level[FEATURES], int64_t rows, bool few, int64_t keys,
                      uint64_t seed);

void features_print(FILE *stream, const int level[FEATURES]);

#endif
