/* --prefix-k and --prefix-v of `attention` and `explain`: keys that all batch elements share, in front of each
 * one's own. */
#ifndef FLASHC_CLI_PREFIX_H
#define FLASHC_CLI_PREFIX_H

#include "cli/array.h"
#include "cli/attention_options.h"

#include <flashc.h>

typedef struct flashc_cli_prefix {
    flashc_cli_array k, v, k_scale, v_scale; /* data NULL: none */
    flashc_shared_prefix shared;             /* views of these */
} flashc_cli_prefix;

/* Before anything is read: do the options go with a prefix? */
int flashc_cli_prefix_check(const flashc_cli_attention_args *args);

/* Reads the prefix of a call whose sizes are set, or, plan_only, its headers. Q's rows are rearranged if they do not
 * lie as the library wants. */
int flashc_cli_prefix_open(const flashc_cli_attention_args *args, int plan_only, flashc_cli_prefix *prefix,
                           flashc_cli_array *q, flashc_attention_params *params);

void flashc_cli_prefix_close(flashc_cli_prefix *prefix);

#endif
