/*
 * Command-line options from one table per command: the getopt_long arrays and the --help text are
 * both made from it, so that they cannot disagree.
 */
#ifndef FLASHC_CLI_OPTIONS_H
#define FLASHC_CLI_OPTIONS_H

#include <stdint.h>

typedef struct flashc_cli_option {
    int id;               /* what flashc_cli_options_next() returns: > 0, unique in its table */
    const char *name;     /* long name without "--" */
    char short_name;      /* or 0 */
    const char *argument; /* what it takes, as --help shows it, e.g. "FILE"; NULL: nothing */
    const char *help;     /* one sentence or more; wrapped by --help */
    unsigned commands;    /* which commands have it: bits of FLASHC_CLI_FOR_..., see attention_options.h */
} flashc_cli_option;

/* The commands that a table is for: tables of one command use FLASHC_CLI_FOR_ALL. */
enum {
    FLASHC_CLI_FOR_ATTENTION = 1,
    FLASHC_CLI_FOR_EXPLAIN = 2,
    FLASHC_CLI_FOR_BENCH = 4,
    FLASHC_CLI_FOR_ALL = 7
};

/* Values of flashc_cli_options_next() that are no option's id. */
enum { FLASHC_CLI_OPTIONS_END = 0, FLASHC_CLI_OPTIONS_HELP = -1, FLASHC_CLI_OPTIONS_ERROR = -2 };

/* Reads the next option of argv. The table ends with an entry whose name is NULL; --help (-h) is
 * added to every table. Returns the option's id with its argument in *value (NULL if it takes none);
 * _HELP for --help; _END after the last one: argv[optind] .. argv[argc - 1] are the operands;
 * _ERROR after a message was printed: the command returns FLASHC_CLI_USAGE. */
int flashc_cli_options_next(const flashc_cli_option *table, unsigned command, int argc, char **argv,
                            const char **value);

/* The first word that is no option, NULL if there is none (valid after _END). */
const char *flashc_cli_first_operand(int argc, char **argv);
/* All of them. */
char **flashc_cli_operands(int argc, char **argv, int *count);

/* Prints usage line, description and the table's options to stdout, wrapped to 80 columns. notes (may be
 * NULL) follow the options as they are. Returns what the command returns. */
int flashc_cli_print_help(const flashc_cli_option *table, unsigned command, const char *usage,
                          const char *description, const char *notes);

/* Strict numbers: the whole text, no blanks, in range. 0, or FLASHC_CLI_USAGE after a message that names
 * the option ("--threads") and what was found. */
int flashc_cli_parse_int(const char *option, const char *text, int64_t min, int64_t max, int64_t *out);
/* A finite decimal number in [min, max]. */
int flashc_cli_parse_double(const char *option, const char *text, double min, double max, double *out);
int flashc_cli_parse_float(const char *option, const char *text, float min, float max, float *out);
/* Two whole numbers with a comma between them, each at least `least`. */
int flashc_cli_parse_pair(const char *option, const char *text, int64_t least, int64_t pair[2]);
/* One of the words, which end with NULL: its index. expected: the words as the message says them. */
int flashc_cli_parse_word(const char *option, const char *text, const char *const *words, const char *expected,
                          int *index);
/* f32, f16 or bf16. */
int flashc_cli_parse_dtype(const char *option, const char *text, int *out);
int flashc_cli_parse_cache_dtype(const char *option, const char *text, int *out); /* also the types of caches */
/* --layout bhsd or bshd. */
int flashc_cli_parse_layout(const char *text, int *bshd);

#endif
