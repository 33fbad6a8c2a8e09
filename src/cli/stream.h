/* `attention --stream-kv`: K and V from disk in chunks of rows, through attention states, which may be read from files
 * before and written to others afterwards. */
#ifndef FLASHC_CLI_STREAM_H
#define FLASHC_CLI_STREAM_H

#include "cli/job.h"
#include "cli/progress.h"
#include "cli/states.h"

typedef struct flashc_cli_stream_states {
    flashc_cli_states before; /* of --resume-state, or what the keys of a shared prefix leave; rows.data NULL: none */
    flashc_cli_states after;  /* for --save-state; its paths are NULL if that is not given */
} flashc_cli_stream_states;

/* Before the work: can these arguments be streamed at all, and is none there that only streaming takes? */
int flashc_cli_stream_check(const flashc_cli_attention_args *args);

/* Reads the states of --resume-state. Positions of a job whose keys are not the first ones become those among its own
 * keys. */
int flashc_cli_stream_open(const flashc_cli_attention_args *args, flashc_cli_job *job,
                           flashc_cli_stream_states *states);

/* The position of K's first row, by the state before of this sequence if there are any. */
int64_t flashc_cli_stream_first_key(const flashc_cli_attention_args *args, const flashc_cli_stream_states *states,
                                    int64_t sequence);

/* Computes the outputs of a job whose K and V were not read, and which the plan is of. */
int flashc_cli_stream_run(const flashc_cli_attention_args *args, const flashc_cli_job *job, const flashc_cli_plan *plan,
                          flashc_cli_stream_states *states, flashc_cli_progress *progress);

void flashc_cli_stream_close(flashc_cli_stream_states *states);

#endif
