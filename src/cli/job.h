/*
 * One attention call made of files or of shapes: what `attention`, `explain` and `bench` have in common.
 */
#ifndef FLASHC_CLI_JOB_H
#define FLASHC_CLI_JOB_H

#include "cli/array.h"
#include "cli/attention_options.h"
#include "cli/extra_outputs.h"
#include "cli/json.h"
#include "cli/prefix.h"
#include "cli/score_mod.h"
#include "cli/score_options.h"
#include "cli/sequences.h"

#include <flashc.h>
#include <stdio.h>

typedef struct flashc_cli_job {
    flashc_attention_params params; /* ready for flashc_attention_fwd() */
    flashc_cli_array q, k, v, k_scale, v_scale, mask, bias; /* data NULL: none */
    flashc_cli_array o, lse;        /* packed, in Q's rank and layout; always there */
    flashc_cli_prefix prefix;
    flashc_cli_extra_outputs extra;         /* further outputs */
    flashc_cli_sequences sequences; /* what params' lengths and tables point to */
    flashc_cli_score_options scores;       /* what params' slopes, sinks and block mask point to */
    flashc_cli_score_mod score_mod; /* what params.score_mod is in */
    int64_t *offsets;               /* what params.offsets points to */
} flashc_cli_job;

/* Makes the call that args describe: from args->q, k, v if given, otherwise from the shapes (then Q, K
 * and V hold zeros, for the caller to fill). mask and bias are files in both cases. plan_only: no element
 * is read and no memory is taken, for flashc_explain() alone. Returns FLASHC_CLI_OK or the exit code,
 * after a message; *job is to be closed in any case. */
int flashc_cli_job_open(const flashc_cli_attention_args *args, int plan_only, flashc_cli_job *job);
void flashc_cli_job_close(flashc_cli_job *job);

/* Prints Q, K, V and the other arrays' shapes and types: as text, or as members of the open JSON object. */
void flashc_cli_job_print_shapes(const flashc_cli_job *job, FILE *out);
void flashc_cli_job_json_shapes(const flashc_cli_job *job, flashc_cli_json *json);

/* What a job runs: on K and V, and on the prefix where there is one. */
typedef struct flashc_cli_plan {
    flashc_explanation own, prefix;
    int has_prefix;
} flashc_cli_plan;

/* Returns FLASHC_CLI_OK, or FLASHC_CLI_FAILED after a message. */
int flashc_cli_job_plan(const flashc_cli_job *job, flashc_cli_plan *plan);

/* "f32" or "bf16" */
const char *flashc_cli_compute_name(flashc_compute compute);

/* Prints kernel, tiles, threads and workspace, or adds them to the open JSON object: of one call, and of a job. */
void flashc_cli_print_explanation(const flashc_explanation *explanation, FILE *out);
void flashc_cli_json_explanation(const flashc_explanation *explanation, flashc_cli_json *json);
void flashc_cli_print_plan(const flashc_cli_plan *plan, FILE *out);
void flashc_cli_json_plan(const flashc_cli_plan *plan, flashc_cli_json *json);

/* The lines above the two parts of a plan with a prefix. */
extern const char flashc_cli_own_title[], flashc_cli_prefix_title[];

/* What `explain` and `attention --dry-run` print; returns the exit code. */
int flashc_cli_explain(const flashc_cli_attention_args *args);

#endif
