/* What `explain --probe` adds: is the kernel that was chosen, by the table and without any timing, the fastest here? */
#ifndef FLASHC_CLI_PROBE_H
#define FLASHC_CLI_PROBE_H

#include "cli/attention_options.h"
#include "cli/json.h"

#include <stdbool.h>
#include <stdio.h>

enum { FLASHC_MOST_RIVALS = 8, FLASHC_MOST_ROUNDS = 15 };

/* The share by which a kernel must be faster than the chosen one to speak against it; so much faster or slower than
 * the best is what the table of kernels calls equal. */
#define FLASHC_PROBE_MARGIN 0.03

/* How fast a rival is, the chosen kernel being 1: the median of the rounds, and the quartiles of them. */
typedef struct flashc_probe_verdict {
    double speed, low, high;
    bool disagrees; /* three of four rounds and more were faster by more than the margin */
} flashc_probe_verdict;

/* Of 1 to FLASHC_MOST_ROUNDS rounds, in each of which both were timed, one right after the other: seconds of the chosen
 * kernel and of the rival. A pure function. */
flashc_probe_verdict flashc_probe_judge(int rounds, const double *chosen, const double *rival);

typedef struct flashc_probe_rival {
    const char *name;
    flashc_probe_verdict verdict;
} flashc_probe_rival;

typedef struct flashc_probe {
    const char *chosen;
    int rounds, count;
    flashc_probe_rival rivals[FLASHC_MOST_RIVALS]; /* in the table's order; not those that take twice as long */
} flashc_probe;

/* Times the plan's kernel and every other one that could run the call with products of the same type, with one thread
 * on a short call of its kind, by turns, in less than a second. FLASHC_CLI_OK or the exit code after a message. */
int flashc_probe_run(const flashc_cli_attention_args *args, const flashc_attention_params *params,
                     const flashc_explanation *plan, flashc_probe *out);

/* A line for each rival; the fastest that disagrees also gets a warning on standard error. */
void flashc_probe_print(const flashc_probe *probe, FILE *out);
/* As a member of the open JSON object, with the same warning. */
void flashc_probe_json(const flashc_probe *probe, flashc_cli_json *json);

#endif
