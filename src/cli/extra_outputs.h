/* What `attention` writes besides O and LSE, if asked for: scores, the softmax mass of each key, row max. */
#ifndef FLASHC_CLI_EXTRA_OUTPUTS_H
#define FLASHC_CLI_EXTRA_OUTPUTS_H

#include "cli/array.h"
#include "cli/attention_options.h"

typedef struct flashc_cli_extra_outputs {
    flashc_cli_array scores, key_mass, row_max; /* data NULL: not asked for */
} flashc_cli_extra_outputs;

/* Makes them for a call whose sizes are set, and params' views of them; rank_q, rank_k: of Q and K. */
int flashc_cli_extra_outputs_make(const flashc_cli_attention_args *args, int rank_q, int rank_k,
                                  flashc_cli_extra_outputs *extra, flashc_attention_params *params);

void flashc_cli_extra_outputs_free(flashc_cli_extra_outputs *extra);

#endif
