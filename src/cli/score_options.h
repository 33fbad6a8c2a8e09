/*
 * What a call does to scores and hides of them beside mask and bias: window, softcap, ALiBi, sinks, block mask.
 */
#ifndef FLASHC_CLI_SCORE_OPTIONS_H
#define FLASHC_CLI_SCORE_OPTIONS_H

#include "cli/array.h"
#include "cli/attention_options.h"

typedef struct flashc_cli_score_options {
    flashc_cli_array alibi, sinks, block_mask;
} flashc_cli_score_options;

/* Reads numbers of heads as f32, in C order: [heads], or [batch, heads] where batch is not negative. FLASHC_CLI_OK, or
 * FLASHC_CLI_FAILED after a message; *array is to be freed in any case. */
int flashc_cli_per_head_read(const char *path, int64_t heads, int64_t batch, flashc_cli_array *array);

/* Reads the files that args name and sets all of it in *p, whose sizes are set. plan_only: of the block mask the header
 * only. Returns FLASHC_CLI_OK, or FLASHC_CLI_FAILED after a message; *scores is to be freed in any case. */
int flashc_cli_score_options_set(const flashc_cli_attention_args *args, int plan_only,
                                 flashc_cli_score_options *scores, flashc_attention_params *p);
void flashc_cli_score_options_free(flashc_cli_score_options *scores);

#endif
