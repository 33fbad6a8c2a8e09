/*
 * What the commands of flashc-run share: the table of commands, exit codes, messages.
 * Standard output carries results only; errors, warnings and progress go to standard error.
 */
#ifndef FLASHC_CLI_H
#define FLASHC_CLI_H

/* 128 + signal number is added to these when a signal ended the work. */
enum { FLASHC_CLI_OK = 0, FLASHC_CLI_FAILED = 1, FLASHC_CLI_USAGE = 2 };

typedef struct flashc_cli_command {
    const char *name;
    const char *summary;                /* one line, for `flashc-run --help` */
    int (*run)(int argc, char **argv);  /* argv[0] is the command's name; returns the exit code */
} flashc_cli_command;

int flashc_cmd_attention(int argc, char **argv);
int flashc_cmd_explain(int argc, char **argv);
int flashc_cmd_bench(int argc, char **argv);
int flashc_cmd_append(int argc, char **argv);
int flashc_cmd_softmax(int argc, char **argv);
int flashc_cmd_merge(int argc, char **argv);
int flashc_cmd_trace(int argc, char **argv);
int flashc_cmd_info(int argc, char **argv);

/* Prints "flashc-run: MESSAGE\n" to stderr and returns FLASHC_CLI_FAILED: `return flashc_cli_error(...)`. */
int flashc_cli_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same for a wrong command line: adds where help is to be found; returns FLASHC_CLI_USAGE. */
int flashc_cli_usage_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Flushes stdout and turns a failed write (a full disk, a closed pipe) into an error. Every command
 * that printed returns through this: returns exit_code, or FLASHC_CLI_FAILED with a message. */
int flashc_cli_finish_stdout(int exit_code);

#endif
