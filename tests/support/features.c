#include "support/features.h"

#include <math.h>
#include <string.h>

const feature_levels feature_table[FEATURES] = {
    [FEATURE_Q_TYPE] = {"q", {"f32", "f16", "bf16"}},
    [FEATURE_K_TYPE] = {"k", {"f32", "f16", "bf16", "i8, a scale a row", "f8_e4m3, a scale a head", "f8_e5m2", "q8_0"}},
    [FEATURE_V_TYPE] = {"v", {"f32", "f16", "bf16", "i8, a scale a head", "f8_e4m3", "f8_e5m2, a scale a row", "q8_0"}},
    [FEATURE_O_TYPE] = {"o", {"f32", "f16", "bf16"}},
    [FEATURE_HEADS] = {"heads", {"1", "2", "4 on 2", "3 on 1"}},
    [FEATURE_DIMS] = {"head_dim", {"64", "64, v 96", "96, v 64", "37, v 21"}},
    [FEATURE_BATCH] = {"batch", {"1", "3"}},
    [FEATURE_KEYS] = {"keys", {"one piece", "several pieces"}},
    [FEATURE_THREADS] = {"threads", {"1", "3"}},
    [FEATURE_SCALE] = {"softmax_scale", {"default", "negative", "zero"}},
    [FEATURE_COMPUTE] = {"compute", {"default", "f32", "bf16"}},
    [FEATURE_Q_LAYOUT] = {"layout of q", {"bhsd", "bshd", "columns", "reversed", "shared"}},
    [FEATURE_K_LAYOUT] = {"layout of k", {"bhsd", "bshd", "columns", "reversed", "shared"}},
    [FEATURE_V_LAYOUT] = {"layout of v", {"bhsd", "bshd", "columns", "reversed", "shared"}},
    [FEATURE_O_LAYOUT] = {"layout of o", {"bhsd", "bshd", "columns", "reversed"}},
    [FEATURE_QUERY_FORM] = {"queries", {"padded", "packed"}},
    [FEATURE_KEY_FORM] = {"keys", {"padded", "packed", "pages of 1", "pages of 16", "pages of 256",
                                   "pages of 48, of v 20"}},
    [FEATURE_SEQLENS_Q] = {"seqlens_q", {"none", "given"}},
    [FEATURE_SEQLENS_K] = {"seqlens_k", {"none", "given"}},
    [FEATURE_LEFTPAD_K] = {"leftpad_k", {"none", "given"}},
    [FEATURE_ALIGNMENT] = {"alignment", {"unset", "top_left", "bottom_right", "explicit"}},
    [FEATURE_CAUSAL] = {"causal", {"no", "yes"}},
    [FEATURE_WINDOW] = {"window", {"none", "left", "right", "both"}},
    [FEATURE_MASK] = {"mask", {"none", "full", "broadcast"}},
    [FEATURE_BLOCK_MASK] = {"block mask", {"none", "64 x 64", "7 x 13"}},
    [FEATURE_SOFTCAP] = {"softcap", {"none", "given"}},
    [FEATURE_BIAS] = {"bias", {"none", "f32", "bf16 with -inf", "f16, broadcast"}},
    [FEATURE_ALIBI] = {"ALiBi", {"none", "a head", "a batch element and head"}},
    [FEATURE_SCORE_MOD] = {"score_mod", {"none", "wave", "documents"}},
    [FEATURE_SINKS] = {"sinks", {"none", "given", "-inf in some"}},
    [FEATURE_PROGRESS] = {"progress", {"none", "given"}},
    [FEATURE_LSE] = {"lse", {"given", "none"}},
    [FEATURE_ROW_MAX] = {"row_max", {"none", "given"}},
    [FEATURE_SCORES] = {"scores", {"none", "scaled", "capped, f16", "masked, bf16", "weights"}},
    [FEATURE_KEY_MASS] = {"key_mass", {"none", "given"}},
    [FEATURE_CALL] = {"call", {"one", "with a workspace", "in chunks", "merged from parts"}},
    [FEATURE_VALUES] = {"values", {"normal", "large logits", "NaN and infinity"}},
};

static const char BOTH_LENGTHS_Q[] = "seqlens_q: expected NULL beside cu_seqlens_q";
static const char BOTH_LENGTHS_K[] = "seqlens_k: expected NULL beside cu_seqlens_k";
static const char NO_ALIGNMENT[] = "alignment: ";
static const char NO_LSE[] = "lse: expected an output beside ";
static const char NO_SCORES[] = "scores of FLASHC_SCORES_WEIGHTS: expected NULL with a state";
static const char NO_MASS[] = "key_mass: expected NULL with a state";
static const char BLOCKS_K[] = "k: expected rows of whole blocks of 32 columns for q8_0";
static const char BLOCKS_V[] = "v: expected rows of whole blocks of 32 columns for q8_0";
static const char ROWS_K[] = "k.stride[3]: expected 1 for q8_0";
static const char ROWS_V[] = "v.stride[3]: expected 1 for q8_0";

const forbidden_pair forbidden_pairs[] = {
    {FEATURE_ALIGNMENT, 0, FEATURE_CAUSAL, 1, NO_ALIGNMENT},
    {FEATURE_ALIGNMENT, 0, FEATURE_WINDOW, 1, NO_ALIGNMENT},
    {FEATURE_ALIGNMENT, 0, FEATURE_WINDOW, 2, NO_ALIGNMENT},
    {FEATURE_ALIGNMENT, 0, FEATURE_WINDOW, 3, NO_ALIGNMENT},
    {FEATURE_ALIGNMENT, 0, FEATURE_ALIBI, 1, NO_ALIGNMENT},
    {FEATURE_ALIGNMENT, 0, FEATURE_ALIBI, 2, NO_ALIGNMENT},
    {FEATURE_QUERY_FORM, 1, FEATURE_SEQLENS_Q, 1, BOTH_LENGTHS_Q},
    {FEATURE_KEY_FORM, 1, FEATURE_SEQLENS_K, 1, BOTH_LENGTHS_K},
    {FEATURE_LSE, 1, FEATURE_SCORES, 4, NO_LSE},
    {FEATURE_LSE, 1, FEATURE_KEY_MASS, 1, NO_LSE},
    {FEATURE_K_TYPE, 6, FEATURE_DIMS, 3, BLOCKS_K},
    {FEATURE_V_TYPE, 6, FEATURE_DIMS, 3, BLOCKS_V},
    {FEATURE_K_TYPE, 6, FEATURE_K_LAYOUT, LAYOUT_COLUMNS, ROWS_K},
    {FEATURE_V_TYPE, 6, FEATURE_V_LAYOUT, LAYOUT_COLUMNS, ROWS_V},
    {FEATURE_SCORES, 4, FEATURE_CALL, CALL_IN_CHUNKS, NO_SCORES},
    {FEATURE_SCORES, 4, FEATURE_CALL, CALL_AND_MERGE, NO_SCORES},
    {FEATURE_KEY_MASS, 1, FEATURE_CALL, CALL_IN_CHUNKS, NO_MASS},
    {FEATURE_KEY_MASS, 1, FEATURE_CALL, CALL_AND_MERGE, NO_MASS},
};
const int forbidden_pairs_count = sizeof forbidden_pairs / sizeof forbidden_pairs[0];

int feature_count(feature which)
{
    int n = 0;
    while (n < (int)(sizeof feature_table[which].level / sizeof feature_table[which].level[0]) &&
           feature_table[which].level[n] != NULL)
        n++;
    return n;
}

bool feature_forbidden(int a, int level_a, int b, int level_b)
{
    for (int n = 0; n < forbidden_pairs_count; n++) {
        const forbidden_pair *pair = &forbidden_pairs[n];
        const int first[2] = {(int)pair->a, pair->level_a}, second[2] = {(int)pair->b, pair->level_b};
        if ((first[0] == a && first[1] == level_a && second[0] == b && second[1] == level_b) ||
            (first[0] == b && first[1] == level_b && second[0] == a && second[1] == level_a))
            return true;
    }
    return false;
}

void features_print(FILE *stream, const int level[FEATURES])
{
    for (feature f = 0; f < FEATURES; f++)
        if (level[f] != 0)
            fprintf(stream, "  %s: %s\n", feature_table[f].name, feature_table[f].level[level[f]]);
}
