#include "cli/cli.h"

int flashc_cmd_trace(int argc, char **argv)
{
    (void)argc;
    return flashc_cli_error("%s: not written yet", argv[0]);
}
