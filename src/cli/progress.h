/* A progress bar on standard error: only if that is a terminal, and only for work of more than a second. */
#ifndef FLASHC_CLI_PROGRESS_H
#define FLASHC_CLI_PROGRESS_H

#include <flashc.h>

typedef struct flashc_cli_progress {
    double start, last_drawn;
    int drawn;
    int64_t part, parts; /* of several calls alike: which one runs, and how many there are; 0, 1 after begin */
} flashc_cli_progress;

/* Makes the call draw its progress; quiet: never. */
void flashc_cli_progress_begin(flashc_cli_progress *progress, int quiet, flashc_attention_params *params);
/* Takes the bar off the terminal. */
void flashc_cli_progress_end(flashc_cli_progress *progress);

#endif
