/* One append call made of files: what `append` reads, and the call that it becomes. */
#ifndef FLASHC_CLI_APPEND_JOB_H
#define FLASHC_CLI_APPEND_JOB_H

#include "cli/array.h"
#include "cli/integers.h"

#include <flashc.h>

enum {
    APPEND_K, APPEND_V, APPEND_Q, APPEND_CACHE_K,
    APPEND_CACHE_V, APPEND_COS, APPEND_SIN, APPEND_SCALE_K,
    APPEND_SCALE_V, APPEND_ARRAYS
};
enum {
    APPEND_POSITIONS, APPEND_SEQLENS, APPEND_CU_SEQLENS,
    APPEND_BLOCK_TABLE, APPEND_BLOCK_TABLE_V, APPEND_ROTARY_POSITIONS,
    APPEND_INTEGERS
};

typedef struct flashc_cli_append_job {
    const char *array_path[APPEND_ARRAYS], *integers_path[APPEND_INTEGERS]; /* NULL: not given */
    int interleaved, bshd, dtype, cache_dtype;
    int out_dtype; /* of the rotated queries; 0: Q's, which they then replace */
    /* What is changed, or written elsewhere: in C order. */
    flashc_cli_array array[APPEND_ARRAYS];
    flashc_cli_array q_out; /* the rotated queries where they are of another type */
    flashc_cli_integers integers[APPEND_INTEGERS];
    flashc_append_params params;
} flashc_cli_append_job;

/* Reads the files that the first two lines name and fills the rest. Returns FLASHC_CLI_OK or the exit code, after a
 * message; *job is to be closed in any case. */
int flashc_cli_append_open(flashc_cli_append_job *job);
/* Where the rotated queries are. */
const flashc_cli_array *flashc_cli_append_rotated(const flashc_cli_append_job *job);
void flashc_cli_append_close(flashc_cli_append_job *job);

#endif
