/* flashc-run: finds the command and runs it. */
#include "cli/cli.h"
#include "cli/interrupt.h"

#include <errno.h>
#include <flashc.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const flashc_cli_command commands[] = {
    {"attention", "attention of the arrays in .npy files", flashc_cmd_attention},
    {"explain", "how an attention call would run: kernel, tiles, threads, memory", flashc_cmd_explain},
    {"bench", "how fast attention is on this machine", flashc_cmd_bench},
    {"append", "new rows of K and V into a cache, with rotary embedding", flashc_cmd_append},
    {"softmax", "softmax over the last axis, whole or in pieces that are merged", flashc_cmd_softmax},
    {"merge", "exact attention from partial results or saved states", flashc_cmd_merge},
    {"trace", "the online softmax recurrence, step by step", flashc_cmd_trace},
    {"info", "version, CPU, kernels, OpenBLAS build", flashc_cmd_info},
};
enum { NUM_COMMANDS = sizeof commands / sizeof commands[0] };

/* The running command, for the hint of a usage error. */
static const char *current_command;

int flashc_cli_error(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("flashc-run: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return FLASHC_CLI_FAILED;
}

int flashc_cli_usage_error(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("flashc-run: ", stderr);
    vfprintf(stderr, format, args);
    fprintf(stderr, " (see flashc-run %s%s--help)\n", current_command ? current_command : "",
            current_command ? " " : "");
    va_end(args);
    return FLASHC_CLI_USAGE;
}

int flashc_cli_finish_stdout(int exit_code)
{
    errno = 0;
    if (fflush(stdout) != 0 || ferror(stdout))
        return flashc_cli_error("cannot write to standard output: %s", errno ? strerror(errno) : "write error");
    return exit_code;
}

static const flashc_cli_command *find_command(const char *name)
{
    for (int i = 0; i < NUM_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static void print_help(void)
{
    printf("Usage: flashc-run COMMAND [options]\n\n"
           "Exact attention on CPUs, on arrays in .npy files.\n\n"
           "Commands:\n");
    for (int i = 0; i < NUM_COMMANDS; i++)
        printf("  %-10s  %s\n", commands[i].name, commands[i].summary);
    printf("\n"
           "  flashc-run COMMAND --help    the options of a command (or: flashc-run help COMMAND)\n"
           "  flashc-run --version         version of the library\n\n"
           "Exit code: 0 done; 1 an error, or a --compare that found a difference; 2 a wrong command line;\n"
           "130 or 143 interrupted by SIGINT or SIGTERM.\n");
}

static int run_command(const flashc_cli_command *command, int argc, char **argv)
{
    current_command = command->name;
    return command->run(argc, argv);
}

static int is_help_option(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

int main(int argc, char **argv)
{
    flashc_cli_interrupt_install();
    if (argc < 2)
        return flashc_cli_usage_error("a command is missing");
    const char *word = argv[1];
    const int is_help = strcmp(word, "help") == 0;
    if (is_help_option(word) || (is_help && (argc == 2 || is_help_option(argv[2])))) {
        print_help();
        return flashc_cli_finish_stdout(FLASHC_CLI_OK);
    }
    if (strcmp(word, "--version") == 0) {
        printf("flashc-run %s\n", flashc_version());
        return flashc_cli_finish_stdout(FLASHC_CLI_OK);
    }
    if (is_help && argc > 3)
        return flashc_cli_usage_error("help takes one command, found %d words", argc - 2);
    const char *name = is_help ? argv[2] : word;
    const flashc_cli_command *command = find_command(name);
    if (!command)
        return flashc_cli_usage_error("'%s' is not a command of flashc-run", name);
    if (is_help) {
        char help_option[] = "--help";
        char *help_argv[] = {argv[2], help_option, NULL};
        return run_command(command, 2, help_argv);
    }
    return run_command(command, argc - 1, argv + 1);
}
