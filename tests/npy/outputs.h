/* Tests that write files: each in an empty directory of its own, and what they write and look for. */
#ifndef FLASHC_TESTS_NPY_OUTPUTS_H
#define FLASHC_TESTS_NPY_OUTPUTS_H

#include "npy/fixture.h"

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

static char message[FLASHC_NPY_MESSAGE_SIZE];
static const float values[6] = {1, 2, 3, 4, 5, 6};
static const int64_t shape[2] = {2, 3};

/* Every test runs in an empty directory of its own, which must be empty again but for the names it expects. */
static char directory[64];

static inline int enter(void **state)
{
    (void)state;
    strcpy(directory, "/tmp/flashc-npy-XXXXXX");
    return mkdtemp(directory) == NULL || chmod(directory, 0755) != 0 || chdir(directory) != 0;
}

static inline int leave(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    return chdir("/") != 0 || system(command) != 0;
}

static inline int entries(void)
{
    int count = -2; /* . and .. */
    DIR *d = opendir(".");
    assert_non_null(d);
    while (readdir(d) != NULL)
        count++;
    closedir(d);
    return count;
}

static inline bool write_values(const char *path)
{
    message[0] = 0;
    return flashc_npy_write(path, FLASHC_NPY_F32, 2, shape, values, message, sizeof message);
}

static inline bool stage_values(flashc_npy_batch *batch, const char *path)
{
    message[0] = 0;
    return flashc_npy_stage(batch, path, FLASHC_NPY_F32, 2, shape, values, message, sizeof message);
}

static inline flashc_npy_batch *begin(void)
{
    flashc_npy_batch *batch = flashc_npy_begin(message, sizeof message);
    assert_non_null(batch);
    return batch;
}

static inline void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static inline size_t get(const char *path, char *buffer, size_t size)
{
    FILE *f = fopen(path, "r");
    if (f == NULL)
        fail_msg("%s: %s", path, strerror(errno));
    size_t got = fread(buffer, 1, size - 1, f);
    fclose(f);
    buffer[got] = 0;
    return got;
}

static inline void assert_holds(const char *path, const char *text)
{
    char found[64];
    get(path, found, sizeof found);
    assert_string_equal(found, text);
}

static inline void assert_holds_values(const char *path)
{
    flashc_npy npy;
    if (!flashc_npy_read(path, &npy, message, sizeof message))
        fail_msg("%s", message);
    assert_int_equal(npy.header.count, 6);
    assert_memory_equal(npy.data, values, sizeof values);
    flashc_npy_free(&npy);
}

static inline mode_t mode_of(const char *path)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    return info.st_mode & 07777;
}

#define IN_EMPTY_DIRECTORY(test) cmocka_unit_test_setup_teardown(test, enter, leave)

#endif
