/* Lengths, positions and page numbers from .npy files. */
#ifndef FLASHC_CLI_INTEGERS_H
#define FLASHC_CLI_INTEGERS_H

#include <stdint.h>

typedef struct flashc_cli_integers {
    const char *name; /* of the file, for messages */
    int64_t shape[2]; /* of rank 1: [n, 1] */
    int64_t *values;  /* in C order; NULL: not read */
    int32_t *narrow;  /* the same, if asked for */
} flashc_cli_integers;

/* Reads a file of i32 or i64 and of this rank, 1 or 2. FLASHC_CLI_OK, or FLASHC_CLI_FAILED after a message. */
int flashc_cli_integers_read(const char *path, int rank, flashc_cli_integers *out);

/* Fills narrow: page numbers. */
int flashc_cli_integers_narrow(flashc_cli_integers *integers);

/* They must be so many. */
int flashc_cli_integers_check_count(const flashc_cli_integers *integers, int64_t count, const char *what);

void flashc_cli_integers_free(flashc_cli_integers *integers);

#endif
