/*
 * Attention states in files: `attention --save-state` and `--resume-state`, `merge --states`. The states of all
 * sequences of a call are two arrays, NAME.rows.npy and NAME.keys.npy.
 */
#ifndef FLASHC_CLI_STATES_H
#define FLASHC_CLI_STATES_H

#include "cli/array.h"

#include <flashc.h>

/* Behind acc in a row: row_max and row_sum. */
enum { FLASHC_STATE_BESIDES = 2 };

/* Columns of keys. */
enum { FLASHC_STATE_NEXT_KEY, FLASHC_STATE_NODES, FLASHC_STATE_PIECE, FLASHC_STATE_COLUMNS };

typedef struct flashc_cli_states {
    char *rows_path, *keys_path;
    /* f32 [levels, .., head_dim_v + 2], the axes between those of the queries, in the order of bhsd: of each query, and
     * of each of its partial results, acc, row_max and row_sum. Those beyond a sequence's nodes are of no keys. */
    flashc_cli_array rows;
    flashc_cli_array keys; /* i64 [sequences, 3]: next_key, n_nodes, piece_n */
} flashc_cli_states;

/* Whose states they are. */
typedef struct flashc_cli_states_shape {
    int rank;           /* 1 to 3 */
    int64_t queries[3]; /* the last `rank` of [batch, head, query]; packed queries have no batch axis */
    int64_t head_dim_v, sequences;
} flashc_cli_states_shape;

/* Of a call; rank_q: of its Q. */
flashc_cli_states_shape flashc_cli_states_shape_of(const flashc_attention_params *params, int rank_q);

/* Can files have such a name? FLASHC_CLI_OK, or FLASHC_CLI_USAGE after a message that names the option. */
int flashc_cli_states_check_name(const char *option, const char *name);

/* Functions that return int: FLASHC_CLI_OK, or FLASHC_CLI_FAILED after a message. *states is zeroed before the first of
 * them, and to be freed in any case. */

/* Sets the paths of the files of this name. */
int flashc_cli_states_name(const char *name, flashc_cli_states *states);
/* Reads both files, and sees that they are states. */
int flashc_cli_states_read(const char *name, flashc_cli_states *states);
/* States of no keys. */
int flashc_cli_states_make(const flashc_cli_states_shape *shape, int64_t levels, flashc_cli_states *states);

/* Expects states of this shape; of: the name of what has it. */
int flashc_cli_states_check(const flashc_cli_states *states, const flashc_cli_states_shape *shape, const char *of);

int64_t flashc_cli_states_number(const flashc_cli_states *states, int64_t sequence, int column);

/* The queries first .. first + n - 1 of an element of the batch axis, and the sequence whose keys they have seen. */
typedef struct flashc_cli_states_part {
    int64_t element, first, n, sequence;
} flashc_cli_states_part;

/* Copies these to or from a state whose rows are [head][query], with room for their nodes. */
void flashc_cli_states_load(const flashc_cli_states *states, const flashc_cli_states_part *part,
                            flashc_attention_state *to);
void flashc_cli_states_store(flashc_cli_states *states, const flashc_cli_states_part *part,
                             const flashc_attention_state *from);

/* Leaves out the levels that no sequence has. */
void flashc_cli_states_trim(flashc_cli_states *states);

void flashc_cli_states_free(flashc_cli_states *states);

#endif
