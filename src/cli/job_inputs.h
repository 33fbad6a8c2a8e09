/* Q, K and V of a job, their scales and lengths: from files or of given shapes. */
#ifndef FLASHC_CLI_JOB_INPUTS_H
#define FLASHC_CLI_JOB_INPUTS_H

#include "cli/job.h"

/* Fills these of a job whose params are the defaults, and the sizes and tensors of params. Returns FLASHC_CLI_OK or the
 * exit code, after a message. */
int flashc_cli_job_inputs(const flashc_cli_attention_args *args, int plan_only, flashc_cli_job *job);

#endif
