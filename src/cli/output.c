#include "cli/output.h"

#include "cli/cli.h"
#include "cli/interrupt.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int flashc_cli_outputs_reserve(int n, const flashc_cli_output *outputs, flashc_npy_batch **batch)
{
    char message[FLASHC_NPY_MESSAGE_SIZE];
    *batch = flashc_npy_begin(message, sizeof message);
    if (!*batch)
        return flashc_cli_error("%s", message);
    for (int i = 0; i < n; i++)
        if (outputs[i].path && !flashc_npy_reserve(*batch, outputs[i].path, message, sizeof message)) {
            flashc_npy_abort(*batch);
            *batch = NULL;
            return flashc_cli_error("%s", message);
        }
    return FLASHC_CLI_OK;
}

int flashc_cli_outputs_write(int n, const flashc_cli_output *outputs, flashc_npy_batch *batch)
{
    char message[FLASHC_NPY_MESSAGE_SIZE];
    for (int i = 0; i < n; i++) {
        const flashc_cli_array *array = outputs[i].array;
        if (!outputs[i].path)
            continue;
        const flashc_npy_type type = array->dtype ? flashc_cli_npy_type(array->dtype) : array->file_type;
        if (!flashc_npy_stage(batch, outputs[i].path, type, array->rank, array->shape, array->data, message,
                              sizeof message)) {
            flashc_npy_abort(batch);
            return flashc_cli_error("%s", message);
        }
    }
    /* A pipe may take for ever; renames do not, and no signal may come between them. */
    if (!flashc_npy_flush(batch, message, sizeof message)) {
        flashc_npy_abort(batch);
        return flashc_cli_error("%s", message);
    }
    flashc_cli_interrupt_hold();
    const int done = flashc_npy_commit(batch, message, sizeof message);
    flashc_cli_interrupt_release();
    return done ? FLASHC_CLI_OK : flashc_cli_error("%s", message);
}

/* By another name, such as /dev/stdout. Devices (/dev/null) may well be both. */
static int is_stdout(const char *path)
{
    struct stat named, standard;
    return stat(path, &named) == 0 && fstat(STDOUT_FILENO, &standard) == 0 && !S_ISCHR(named.st_mode) &&
           named.st_dev == standard.st_dev && named.st_ino == standard.st_ino;
}

FILE *flashc_cli_outputs_words(int n, const flashc_cli_output *outputs, int json)
{
    int used = 0;
    for (int i = 0; i < n; i++)
        used |= outputs[i].path && (strcmp(outputs[i].path, "-") == 0 || is_stdout(outputs[i].path));
    if (used && json)
        flashc_cli_usage_error("--json and an output '-' both want standard output");
    return !used ? stdout : json ? NULL : stderr;
}
