/*
 * Command-line options from one table per command: the getopt_long arrays and the --help text are
 * both made from it, so that they cannot disagree.
 */
#ifndef FLASHC_CLI_OPTIONS_H
#define FLASHC_CLI_OPTIONS_H

#include <stdint.h>

typedef struct flashc_cli_option {
    int id;               /* > 0, unique in its table */
    const char *name;     /* long name without "--" */
    char short_name;      /* or 0 */
    const char *argument; /* what it takes, as --help shows it, e.g. "FILE"; NULL: nothing */
    const char *help;     /* one sentence or more; wrapped by --help */
    unsigned commands;    /* which commands have it: bits of FLASHC_CLI_FOR_..., see attention_options.h; and once more,
                           * shifted by FLASHC_CLI_NO_EFFECT, which of them only let it pass */
} flashc_cli_option;

/* Where a group of a table's options begins, which --help shows under a title of its own; of groups that a command has
 * no options of, nothing. */
typedef struct flashc_cli_group {
    int first; /* the id of its first option */
    const char *title;
} flashc_cli_group;

/* The commands that a table is for: tables of one command use FLASHC_CLI_FOR_ALL. */
enum {
    FLASHC_CLI_FOR_ATTENTION = 1,
    FLASHC_CLI_FOR_EXPLAIN = 2,
    FLASHC_CLI_FOR_BENCH = 4,
    FLASHC_CLI_FOR_ALL = 7,
    FLASHC_CLI_NO_EFFECT = 3
};

/* How a command is called, and what --help says of it (wrapped to 80 columns). */
typedef struct flashc_cli_syntax {
    const flashc_cli_option *options; /* the last one's name is NULL; --help (-h) is added */
    const flashc_cli_group *groups;   /* in the table's order; the last one's title is NULL. NULL: the table is one */
    unsigned command;                 /* one of FLASHC_CLI_FOR_... */
    int takes_operands;
    const char *usage, *description;
    const char *notes; /* after the options, as they are; may be NULL */
    /* Takes an option, with its argument in value (NULL if it takes none). 0, or FLASHC_CLI_USAGE after a message. */
    int (*take)(int id, const char *value, void *args);
} flashc_cli_syntax;

/* Has all options of argv taken. Returns 1: go on; 0: stop, and return *exit_code (--help was printed, or a usage
 * error). */
int flashc_cli_options_parse(const flashc_cli_syntax *syntax, int argc, char **argv, void *args, int *exit_code);

/* The words that are no options, once these are taken. */
char **flashc_cli_operands(int argc, char **argv, int *count);

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
