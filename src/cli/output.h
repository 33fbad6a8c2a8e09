/* The files that a command writes: all of them, or none. */
#ifndef FLASHC_CLI_OUTPUT_H
#define FLASHC_CLI_OUTPUT_H

#include "cli/array.h"

#include <stdio.h>

typedef struct flashc_cli_output {
    const char *path;              /* NULL: not asked for; "-": standard output */
    const flashc_cli_array *array; /* in C order */
} flashc_cli_output;

/* Before the work: sees that the files can be written. *batch is NULL after an error. */
int flashc_cli_outputs_reserve(int n, const flashc_cli_output *outputs, flashc_npy_batch **batch);

/* After the work: writes the files. Frees the batch, also after an error. */
int flashc_cli_outputs_write(int n, const flashc_cli_output *outputs, flashc_npy_batch *batch);

/* Where words go: to standard error where one of the outputs is standard output. NULL, after a message about the usage,
 * if json is to go there too. To be asked before they are written: a file that standard output was redirected to is
 * another one afterwards. */
FILE *flashc_cli_outputs_words(int n, const flashc_cli_output *outputs, int json);

#endif
