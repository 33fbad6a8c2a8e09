/* The identities that hold between the steps of an online softmax and those of the standard one. */
#ifndef FLASHC_CLI_TRACE_CHECKS_H
#define FLASHC_CLI_TRACE_CHECKS_H

#include <flashc.h>
#include <stdbool.h>

/* One identity: the largest relative difference between its sides. */
typedef struct flashc_cli_trace_check {
    const char *name;
    double difference;
    int64_t index;     /* where; -1 if nothing could be compared */
    int64_t skipped;   /* steps where a side is outside the range of normal doubles */
    double tolerance;
    bool pass;
} flashc_cli_trace_check;

enum { FLASHC_CLI_TRACE_CHECKS = 3 };

/* Checks each identity on the trace of n values. */
void flashc_cli_trace_checks(int64_t n, const double *x, const flashc_trace_step *steps,
                             flashc_cli_trace_check checks[FLASHC_CLI_TRACE_CHECKS]);

#endif
