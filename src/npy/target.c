/* Which file an output path stands for, and whether it can be written. */
#include "npy/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool fail_write(const char *path, char *message, size_t message_size)
{
    return flashc_npy_fail(message, message_size, "%s: cannot write: %s", path, strerror(errno));
}

/* The resolved directory of a file that does not exist yet, and the file's name. */
static bool resolve_new(const char *path, char **target, char *message, size_t message_size)
{
    struct stat info;
    if (lstat(path, &info) == 0)
        return flashc_npy_fail(message, message_size, "%s: cannot write: a symbolic link to a file that does not exist",
                               path);
    const char *slash = strrchr(path, '/');
    const char *base = slash != NULL ? slash + 1 : path;
    if (*base == 0)
        return flashc_npy_fail(message, message_size, "'%s': cannot write: expected the name of a file", path);
    /* The slash belongs to the directory, so that "/x" lies in "/". */
    char *directory = slash != NULL ? strndup(path, (size_t)(base - path)) : strdup(".");
    char *resolved = directory != NULL ? realpath(directory, NULL) : NULL;
    if (resolved == NULL)
        flashc_npy_fail(message, message_size, "%s: cannot write: directory '%s': %s", path,
                        directory != NULL ? directory : "?", strerror(errno));
    else if (asprintf(target, "%s/%s", strcmp(resolved, "/") == 0 ? "" : resolved, base) < 0) {
        *target = NULL;
        flashc_npy_fail(message, message_size, "%s: cannot write: no memory for its name", path);
    }
    free(resolved);
    free(directory);
    return *target != NULL;
}

bool flashc_npy_resolve_target(const char *path, char **target, mode_t *mode, char *message, size_t message_size)
{
    *target = NULL;
    *mode = 0;
    if (strcmp(path, "-") == 0)
        return !isatty(STDOUT_FILENO) ||
               flashc_npy_fail(message, message_size,
                               "standard output: is a terminal, expected a file or a pipe for .npy data");
    struct stat info;
    if (stat(path, &info) != 0)
        return errno == ENOENT ? resolve_new(path, target, message, message_size)
                               : fail_write(path, message, message_size);
    if (S_ISDIR(info.st_mode))
        return flashc_npy_fail(message, message_size, "%s: cannot write: is a directory", path);
    if (faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) != 0)
        return fail_write(path, message, message_size);
    if (!S_ISREG(info.st_mode))
        return true;
    *mode = info.st_mode;
    *target = realpath(path, NULL);
    return *target != NULL || fail_write(path, message, message_size);
}
