/* What `merge` does: partial results over disjoint keys become one, be they pairs of O and LSE or attention states. */
#ifndef FLASHC_CLI_MERGE_H
#define FLASHC_CLI_MERGE_H

#include "cli/states.h"

typedef struct flashc_cli_merged {
    flashc_cli_array o, lse;  /* f32, in C order; LSE is [B,H,L] in both layouts */
    flashc_cli_states states; /* of states only: the union's, one partial result of each query */
} flashc_cli_merged;

/* Both read and merge in the order of the names. FLASHC_CLI_OK, or FLASHC_CLI_FAILED after a message; *out is to be
 * freed in any case, and the paths of its states are left alone. */

/* Pairs of files, O and LSE; dtype: what O is converted to first, or 0. */
int flashc_cli_merge_parts(int count, char **paths, int bshd, int dtype, flashc_cli_merged *out);
/* States of these names; bshd: the layout that O is to have; sinks: a file of them for O and LSE, or NULL. */
int flashc_cli_merge_states(int count, char **names, int bshd, const char *sinks, flashc_cli_merged *out);

void flashc_cli_merged_free(flashc_cli_merged *merged);

#endif
