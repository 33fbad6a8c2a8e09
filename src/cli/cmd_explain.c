#include "cli/cli.h"
#include "cli/job.h"

int flashc_cmd_explain(int argc, char **argv)
{
    static const flashc_cli_syntax words = {
        .command = FLASHC_CLI_FOR_EXPLAIN,
        .usage = "flashc-run explain [-q FILE -k FILE -v FILE | shapes] [options]",
        .description =
            "Shows how attention would run, and why faster kernels were refused, without computing it. Of files only "
            "the headers are read; without files the shapes say what to explain.",
    };
    flashc_cli_attention_args args;
    int exit_code;
    if (!flashc_cli_attention_parse(&words, argc, argv, &args, &exit_code))
        return exit_code;
    exit_code = flashc_cli_prefix_check(&args);
    return exit_code ? exit_code : flashc_cli_explain(&args);
}
