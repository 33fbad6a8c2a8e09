/* `attention --stream-kv`: K and V from disk in chunks of rows, through an attention state. */
#ifndef FLASHC_CLI_STREAM_H
#define FLASHC_CLI_STREAM_H

#include "cli/job.h"
#include "cli/progress.h"

/* Before the work: can these arguments be streamed at all? */
int flashc_cli_stream_check(const flashc_cli_attention_args *args);

/* Computes O and LSE of a job whose K and V were not read, and which flashc_explain() has checked; kernel: the name of
 * what it found. */
int flashc_cli_stream_run(const flashc_cli_attention_args *args, const flashc_cli_job *job, const char *kernel,
                          flashc_cli_progress *progress);

#endif
