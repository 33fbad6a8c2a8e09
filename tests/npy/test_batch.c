/* Several files that appear together or not at all, and what becomes of their temporary files. */
#include "npy/outputs.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

static void a_batch_appears_together(void **state)
{
    (void)state;
    put("b.npy", "old");
    flashc_npy_batch *batch = begin();
    assert_true(flashc_npy_reserve(batch, "a.npy", message, sizeof message));
    assert_true(flashc_npy_reserve(batch, "dropped.npy", message, sizeof message));
    assert_true(stage_values(batch, "a.npy"));
    assert_true(stage_values(batch, "b.npy"));
    assert_int_equal(access("a.npy", F_OK), -1);
    assert_holds("b.npy", "old");
    assert_true(flashc_npy_commit(batch, message, sizeof message));
    assert_holds_values("a.npy");
    assert_holds_values("b.npy");
    assert_int_equal(entries(), 2);

    batch = begin();
    assert_true(stage_values(batch, "c.npy"));
    assert_true(flashc_npy_reserve(batch, "d.npy", message, sizeof message));
    flashc_npy_abort(batch);
    flashc_npy_abort(NULL);
    assert_int_equal(entries(), 2);
}

/* The last of four renames fails: a directory has taken its place. */
static void a_failed_commit_leaves_everything_as_it_was(void **state)
{
    (void)state;
    put("old1.npy", "one");
    put("old2.npy", "two");
    assert_int_equal(chmod("old1.npy", 0640), 0);
    flashc_npy_batch *batch = begin();
    assert_true(stage_values(batch, "old1.npy"));
    assert_true(stage_values(batch, "new.npy"));
    assert_true(stage_values(batch, "old2.npy"));
    assert_true(stage_values(batch, "last.npy"));
    assert_int_equal(mkdir("last.npy", 0755), 0);
    assert_false(flashc_npy_commit(batch, message, sizeof message));
    assert_string_equal(message, "last.npy: cannot write: Is a directory");
    assert_int_equal(entries(), 3);
    assert_holds("old1.npy", "one");
    assert_holds("old2.npy", "two");
    assert_int_equal(mode_of("old1.npy"), 0640);

    /* The same at the first rename: the directory is not swapped for the file. */
    batch = begin();
    assert_true(stage_values(batch, "first.npy"));
    assert_true(stage_values(batch, "old2.npy"));
    assert_int_equal(mkdir("first.npy", 0755), 0);
    assert_false(flashc_npy_commit(batch, message, sizeof message));
    assert_string_equal(message, "first.npy: cannot write: Is a directory");
    assert_int_equal(rmdir("first.npy"), 0);
    assert_holds("old2.npy", "two");
    assert_int_equal(entries(), 3);

    /* A device fails before any rename. */
    batch = begin();
    assert_true(stage_values(batch, "old1.npy"));
    assert_true(stage_values(batch, "/dev/full"));
    assert_true(stage_values(batch, "/dev/null"));
    assert_true(stage_values(batch, "/dev/null"));
    assert_false(flashc_npy_commit(batch, message, sizeof message));
    assert_contains(message, "/dev/full: cannot write");
    assert_holds("old1.npy", "one");
    assert_int_equal(entries(), 3);
}

static void a_file_is_not_written_twice(void **state)
{
    (void)state;
    put("a.npy", "old");
    assert_int_equal(symlink("a.npy", "link.npy"), 0);
    static const char *const again[][2] = {
        {"a.npy", "a.npy"},     {"a.npy", "./a.npy"},     {"a.npy", "link.npy"},
        {"new.npy", "new.npy"}, {"new.npy", "./new.npy"}};
    for (size_t i = 0; i < sizeof again / sizeof again[0]; i++) {
        flashc_npy_batch *batch = begin();
        assert_true(stage_values(batch, again[i][0]));
        assert_false(stage_values(batch, again[i][1]));
        assert_contains(message, ": named as output twice");
        assert_contains(message, again[i][1]);
        flashc_npy_abort(batch);
    }
    flashc_npy_batch *batch = begin();
    for (int i = 0; i < FLASHC_NPY_MAX_OUTPUTS; i++)
        assert_true(flashc_npy_reserve(batch, "/dev/null", message, sizeof message));
    assert_false(flashc_npy_reserve(batch, "/dev/null", message, sizeof message));
    assert_contains(message, "more than 16 outputs");
    flashc_npy_abort(batch);
    assert_holds("a.npy", "old");
    assert_int_equal(entries(), 2);
}

/* More temporary files than slots: an error, and slots come back. */
static void temporary_files_are_counted(void **state)
{
    (void)state;
    flashc_npy_batch *many = begin();
    flashc_npy_batch *more = begin();
    char name[32];
    for (int i = 0; i < FLASHC_NPY_MAX_OUTPUTS; i++) {
        snprintf(name, sizeof name, "%d.npy", i);
        assert_true(flashc_npy_reserve(many, name, message, sizeof message));
    }
    assert_false(flashc_npy_reserve(more, "one-more.npy", message, sizeof message));
    assert_contains(message, "one-more.npy: cannot write");
    flashc_npy_abort(more);
    flashc_npy_abort(many);
    assert_int_equal(entries(), 0);
    for (int i = 0; i < 3 * FLASHC_NPY_MAX_OUTPUTS; i++)
        assert_true(write_values("x.npy"));
    assert_int_equal(entries(), 1);
}

static void clean_up_and_die(int number)
{
    (void)number;
    flashc_npy_remove_temporaries();
    _exit(130);
}

static void a_signal_handler_removes_temporaries(void **state)
{
    (void)state;
    put("old.npy", "old");
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        flashc_npy_batch *batch = begin();
        signal(SIGTERM, clean_up_and_die);
        bool ok = stage_values(batch, "old.npy") && flashc_npy_reserve(batch, "new.npy", message, sizeof message) &&
                  entries() == 3 && write(ready[1], "x", 1) == 1;
        while (ok)
            pause();
        _exit(1);
    }
    char byte;
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(entries(), 3); /* they are there until the signal */
    assert_int_equal(kill(child, SIGTERM), 0);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 130);
    close(ready[0]);
    assert_holds("old.npy", "old");
    assert_int_equal(entries(), 1);
}

/* Flush writes devices and pipes once, and no file; commit does not write them again. */
static void flush_leaves_only_the_files_to_commit(void **state)
{
    (void)state;
    char bytes[4096];
    assert_int_equal(mkfifo("fifo", 0600), 0);
    const int reader = open("fifo", O_RDONLY | O_NONBLOCK);
    assert_true(reader >= 0);
    flashc_npy_batch *batch = begin();
    assert_true(stage_values(batch, "new.npy"));
    assert_true(stage_values(batch, "fifo"));
    assert_true(flashc_npy_flush(batch, message, sizeof message));
    assert_int_equal(access("new.npy", F_OK), -1);
    assert_true(read(reader, bytes, sizeof bytes) > 0);
    assert_true(flashc_npy_commit(batch, message, sizeof message));
    assert_int_equal(access("new.npy", F_OK), 0);
    assert_int_equal(read(reader, bytes, sizeof bytes), 0);
    close(reader);

    batch = begin();
    assert_true(stage_values(batch, "other.npy"));
    assert_true(stage_values(batch, "/dev/full"));
    assert_false(flashc_npy_flush(batch, message, sizeof message));
    assert_contains(message, "/dev/full: cannot write");
    flashc_npy_abort(batch);
    assert_int_equal(access("other.npy", F_OK), -1);
    assert_int_equal(entries(), 2);
}

/* After that the batch can only fail, and leaves nothing behind. */
static void removed_temporaries_cannot_be_committed(void **state)
{
    (void)state;
    put("old.npy", "old");
    flashc_npy_batch *batch = begin();
    assert_true(stage_values(batch, "old.npy"));
    assert_true(stage_values(batch, "new.npy"));
    flashc_npy_remove_temporaries();
    assert_false(flashc_npy_commit(batch, message, sizeof message));
    assert_contains(message, "old.npy: cannot write: No such file or directory");
    assert_holds("old.npy", "old");
    assert_int_equal(entries(), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_EMPTY_DIRECTORY(a_batch_appears_together),
        IN_EMPTY_DIRECTORY(a_failed_commit_leaves_everything_as_it_was),
        IN_EMPTY_DIRECTORY(a_file_is_not_written_twice),
        IN_EMPTY_DIRECTORY(temporary_files_are_counted),
        IN_EMPTY_DIRECTORY(flush_leaves_only_the_files_to_commit),
        IN_EMPTY_DIRECTORY(a_signal_handler_removes_temporaries),
        IN_EMPTY_DIRECTORY(removed_temporaries_cannot_be_committed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
