/* `--compare`: O against a reference file. */
#ifndef FLASHC_CLI_COMPARE_H
#define FLASHC_CLI_COMPARE_H

#include "cli/job.h"

typedef struct flashc_cli_comparison {
    flashc_cli_array reference;
    double rtol, atol;
    flashc_compare_report report;
} flashc_cli_comparison;

/* Reads the reference, which must have O's shape, and settles the tolerances: before the work. */
int flashc_cli_compare_open(const flashc_cli_attention_args *args, const flashc_cli_job *job,
                            flashc_cli_comparison *comparison);
/* Compares: FLASHC_CLI_OK also if they differ. */
int flashc_cli_compare_run(const flashc_cli_job *job, flashc_cli_comparison *comparison);

void flashc_cli_compare_print(const flashc_cli_job *job, const flashc_cli_comparison *comparison, FILE *out);
void flashc_cli_compare_json(const flashc_cli_job *job, const flashc_cli_comparison *comparison,
                             flashc_cli_json *json);
/* FLASHC_CLI_OK if they are equal, else the exit code after a message. */
int flashc_cli_compare_verdict(const flashc_cli_job *job, const flashc_cli_comparison *comparison);

void flashc_cli_compare_close(flashc_cli_comparison *comparison);

/* The notes on tolerances for --help. */
extern const char flashc_cli_compare_notes[];

#endif
