/* Writing: the bytes, the permissions, all or nothing, and everything that can be wrong with a path. */
#include "npy/fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char message[FLASHC_NPY_MESSAGE_SIZE];
static const float values[6] = {1, 2, 3, 4, 5, 6};
static const int64_t shape[2] = {2, 3};

/* Every test runs in an empty directory of its own, which must be empty again but for the names it expects. */
static char directory[64];

static int enter(void **state)
{
    (void)state;
    strcpy(directory, "/tmp/flashc-npy-XXXXXX");
    return mkdtemp(directory) == NULL || chmod(directory, 0755) != 0 || chdir(directory) != 0;
}

static int leave(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    return chdir("/") != 0 || system(command) != 0;
}

static int entries(void)
{
    int count = -2; /* . and .. */
    DIR *d = opendir(".");
    assert_non_null(d);
    while (readdir(d) != NULL)
        count++;
    closedir(d);
    return count;
}

static bool write_values(const char *path)
{
    message[0] = 0;
    return flashc_npy_write(path, FLASHC_NPY_F32, 2, shape, values, message, sizeof message);
}

static bool stage_values(flashc_npy_batch *batch, const char *path)
{
    message[0] = 0;
    return flashc_npy_stage(batch, path, FLASHC_NPY_F32, 2, shape, values, message, sizeof message);
}

static flashc_npy_batch *begin(void)
{
    flashc_npy_batch *batch = flashc_npy_begin(message, sizeof message);
    assert_non_null(batch);
    return batch;
}

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static size_t get(const char *path, char *buffer, size_t size)
{
    FILE *f = fopen(path, "r");
    if (f == NULL)
        fail_msg("%s: %s", path, strerror(errno));
    size_t got = fread(buffer, 1, size - 1, f);
    fclose(f);
    buffer[got] = 0;
    return got;
}

static void assert_holds(const char *path, const char *text)
{
    char found[64];
    get(path, found, sizeof found);
    assert_string_equal(found, text);
}

static void assert_holds_values(const char *path)
{
    flashc_npy npy;
    if (!flashc_npy_read(path, &npy, message, sizeof message))
        fail_msg("%s", message);
    assert_int_equal(npy.header.count, 6);
    assert_memory_equal(npy.data, values, sizeof values);
    flashc_npy_free(&npy);
}

static mode_t mode_of(const char *path)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    return info.st_mode & 07777;
}

static void writes_these_very_bytes(void **state)
{
    (void)state;
    char file[256];
    assert_true(write_values("x.npy"));
    assert_int_equal(get("x.npy", file, sizeof file), 128 + 24);
    static const char head[] = "\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
    assert_memory_equal(file, head, sizeof head - 1);
    for (size_t i = sizeof head - 1; i < 127; i++)
        assert_int_equal(file[i], ' ');
    assert_int_equal(file[127], '\n');
    assert_memory_equal(file + 128, values, sizeof values);
    assert_int_equal(entries(), 1);
}

/* Every type and every rank comes back; the data lies at a multiple of 64. */
static void round_trips_every_type_and_rank(void **state)
{
    (void)state;
    int64_t axes[FLASHC_NPY_MAX_RANK];
    uint64_t data[8];
    for (int i = 0; i < 8; i++)
        data[i] = (uint64_t)(i + 1) * UINT64_C(0x0123456789abcdef);
    for (int type = FLASHC_NPY_F16; type <= FLASHC_NPY_V2; type++) {
        /* All ranks for one type; each write waits for the disk. */
        for (int rank = 0; rank <= FLASHC_NPY_MAX_RANK; rank += type == FLASHC_NPY_F16 ? 1 : 8) {
            for (int i = 0; i < FLASHC_NPY_MAX_RANK; i++)
                axes[i] = i == rank / 2 ? 4 : i == rank / 3 ? 2 : 1;
            flashc_npy npy;
            assert_true(flashc_npy_write("r.npy", (flashc_npy_type)type, rank, axes, data, message, sizeof message));
            if (!flashc_npy_read("r.npy", &npy, message, sizeof message))
                fail_msg("%s", message);
            assert_int_equal(npy.header.type, type);
            assert_int_equal(npy.header.rank, rank);
            assert_int_equal(npy.header.data_offset % 64, 0);
            assert_false(npy.header.fortran_order || npy.header.big_endian);
            for (int i = 0; i < rank; i++)
                assert_int_equal(npy.header.shape[i], axes[i]);
            assert_memory_equal(npy.data, data, (size_t)npy.header.count * npy.header.item_size);
            flashc_npy_free(&npy);
        }
    }
    /* No elements, and still an axis as long as can be. */
    assert_true(flashc_npy_write("z.npy", FLASHC_NPY_F32, 3, (int64_t[]){0, INT64_MAX / 4, 1}, NULL, message,
                                 sizeof message));
    flashc_npy npy;
    assert_true(flashc_npy_read("z.npy", &npy, message, sizeof message));
    assert_int_equal(npy.header.count, 0);
    flashc_npy_free(&npy);
}

static void refuses_shapes_that_cannot_be(void **state)
{
    (void)state;
    int64_t axes[FLASHC_NPY_MAX_RANK + 1] = {2, -1, 3};
    assert_false(flashc_npy_write("x.npy", FLASHC_NPY_F32, 3, axes, values, message, sizeof message));
    assert_string_equal(message, "x.npy: cannot write a shape whose axis 1 is -1");
    assert_false(flashc_npy_write("x.npy", FLASHC_NPY_F32, 33, axes, values, message, sizeof message));
    assert_contains(message, "at most 32 axes");
    assert_false(flashc_npy_write("x.npy", FLASHC_NPY_F32, -1, axes, values, message, sizeof message));
    assert_false(flashc_npy_write("x.npy", (flashc_npy_type)99, 1, axes, values, message, sizeof message));
    axes[0] = INT64_MAX / 2;
    assert_false(flashc_npy_write("x.npy", FLASHC_NPY_F32, 1, axes, values, message, sizeof message));
    assert_contains(message, "2^63 bytes");
    assert_int_equal(entries(), 0);
}

static void permissions_are_the_umasks_or_the_old_ones(void **state)
{
    (void)state;
    mode_t old = umask(027);
    assert_true(write_values("new.npy"));
    put("old.npy", "old");
    assert_int_equal(chmod("old.npy", 0666), 0);
    put("secret.npy", "old");
    assert_int_equal(chmod("secret.npy", 0600), 0);
    umask(0);
    assert_true(write_values("secret.npy"));
    umask(027);
    assert_true(write_values("old.npy"));
    umask(old);
    assert_int_equal(mode_of("new.npy"), 0640);
    assert_int_equal(mode_of("old.npy"), 0666);
    assert_int_equal(mode_of("secret.npy"), 0600);
    assert_int_equal(entries(), 3);
}

static void replaces_through_symbolic_links(void **state)
{
    (void)state;
    assert_int_equal(mkdir("there", 0755), 0);
    put("there/target.npy", "old");
    assert_int_equal(symlink("there/target.npy", "link.npy"), 0);
    assert_true(write_values("link.npy"));
    struct stat info;
    assert_int_equal(lstat("link.npy", &info), 0);
    assert_true(S_ISLNK(info.st_mode));
    assert_holds_values("there/target.npy");

    assert_int_equal(symlink("nowhere/x.npy", "dangling.npy"), 0);
    assert_false(write_values("dangling.npy"));
    assert_string_equal(message, "dangling.npy: cannot write: a symbolic link to a file that does not exist");
    assert_int_equal(symlink("loop", "loop"), 0);
    assert_false(write_values("loop"));
    assert_contains(message, "loop: cannot write: Too many levels of symbolic links");
    assert_int_equal(entries(), 4);
}

static void names_what_is_wrong_with_a_path(void **state)
{
    (void)state;
    put("file", "text");
    assert_int_equal(mkdir("dir", 0755), 0);
    char longname[300];
    memset(longname, 'x', sizeof longname - 1);
    longname[sizeof longname - 1] = 0;
    const struct {
        const char *path, *wanted;
    } cases[] = {
        {"dir", "dir: cannot write: is a directory"},
        {"dir/", "dir/: cannot write: is a directory"},
        {"missing/x.npy", "missing/x.npy: cannot write: directory 'missing/': No such file or directory"},
        {"missing/", "'missing/': cannot write: expected the name of a file"},
        {"", "'': cannot write: expected the name of a file"},
        {"file/x.npy", "file/x.npy: cannot write: Not a directory"},
        {longname, "cannot write: File name too long"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_false(write_values(cases[i].path));
        assert_contains(message, cases[i].wanted);
        flashc_npy_batch *batch = begin();
        assert_false(flashc_npy_reserve(batch, cases[i].path, message, sizeof message));
        assert_contains(message, cases[i].wanted);
        flashc_npy_abort(batch);
    }
    assert_holds("file", "text");
    assert_int_equal(entries(), 2);
}

/* Root may write anywhere, so root tries it as nobody. */
static void respects_read_only_files_and_directories(void **state)
{
    (void)state;
    put("file.npy", "old");
    assert_int_equal(chmod("file.npy", 0444), 0);
    assert_int_equal(mkdir("dir", 0555), 0);
    bool root = geteuid() == 0;
    assert_int_equal(root ? chmod(".", 0777) | seteuid(65534) : 0, 0);
    bool file = write_values("file.npy");
    char first[FLASHC_NPY_MESSAGE_SIZE];
    strcpy(first, message);
    bool dir = write_values("dir/x.npy");
    assert_int_equal(root ? seteuid(0) : 0, 0);
    assert_false(file);
    assert_string_equal(first, "file.npy: cannot write: Permission denied");
    assert_false(dir);
    assert_contains(message, "dir/x.npy: cannot write: no temporary file in '");
    assert_contains(message, "/dir': Permission denied");
    assert_holds("file.npy", "old");
    assert_int_equal(entries(), 2);
}

static void a_full_device_is_an_error(void **state)
{
    (void)state;
    assert_false(write_values("/dev/full"));
    assert_string_equal(message, "/dev/full: cannot write: No space left on device");
    assert_true(write_values("/dev/null"));
    struct stat info;
    assert_int_equal(stat("/dev/full", &info), 0);
    assert_true(S_ISCHR(info.st_mode));

    /* A regular file that cannot grow: what was there stays. The limit cuts inside the data. */
    put("x.npy", "old");
    struct rlimit limit, saved;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &saved), 0);
    limit = (struct rlimit){.rlim_cur = 140, .rlim_max = saved.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    bool old = write_values("x.npy");
    bool new = write_values("y.npy");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &saved), 0);
    signal(SIGXFSZ, SIG_DFL);
    assert_false(old || new);
    assert_string_equal(message, "y.npy: cannot write: File too large");
    assert_holds("x.npy", "old");
    assert_int_equal(entries(), 1);
}

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

/* Standard output into a file, then closed by its reader, then on a full device. */
static void writes_to_standard_output(void **state)
{
    (void)state;
    int saved = dup(STDOUT_FILENO);
    int fd = open("out", O_WRONLY | O_CREAT, 0600);
    fflush(stdout);
    dup2(fd, STDOUT_FILENO);
    close(fd);
    bool written = write_values("-");
    int ends[2];
    bool piped = pipe(ends) == 0 && dup2(ends[1], STDOUT_FILENO) >= 0;
    close(ends[0]);
    close(ends[1]);
    signal(SIGPIPE, SIG_IGN);
    bool broken = write_values("-");
    signal(SIGPIPE, SIG_DFL);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    assert_true(written && piped);
    assert_holds_values("out");
    assert_false(broken);
    assert_string_equal(message, "standard output: cannot write: Broken pipe");
    flashc_npy_batch *batch = begin();
    if (!isatty(STDOUT_FILENO)) {
        assert_true(stage_values(batch, "-"));
        assert_false(stage_values(batch, "-"));
        assert_string_equal(message, "standard output: named as output twice");
    }
    flashc_npy_abort(batch);
    assert_int_equal(entries(), 1);
}

static void writes_into_a_fifo(void **state)
{
    (void)state;
    assert_int_equal(mkfifo("fifo", 0600), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(write_values("fifo") ? 0 : 1);
    assert_holds_values("fifo");
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    struct stat info;
    assert_int_equal(stat("fifo", &info), 0);
    assert_true(S_ISFIFO(info.st_mode));
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
#define IN_EMPTY_DIRECTORY(test) cmocka_unit_test_setup_teardown(test, enter, leave)
    const struct CMUnitTest tests[] = {
        IN_EMPTY_DIRECTORY(writes_these_very_bytes),
        IN_EMPTY_DIRECTORY(round_trips_every_type_and_rank),
        IN_EMPTY_DIRECTORY(refuses_shapes_that_cannot_be),
        IN_EMPTY_DIRECTORY(permissions_are_the_umasks_or_the_old_ones),
        IN_EMPTY_DIRECTORY(replaces_through_symbolic_links),
        IN_EMPTY_DIRECTORY(names_what_is_wrong_with_a_path),
        IN_EMPTY_DIRECTORY(respects_read_only_files_and_directories),
        IN_EMPTY_DIRECTORY(a_full_device_is_an_error),
        IN_EMPTY_DIRECTORY(a_batch_appears_together),
        IN_EMPTY_DIRECTORY(a_failed_commit_leaves_everything_as_it_was),
        IN_EMPTY_DIRECTORY(a_file_is_not_written_twice),
        IN_EMPTY_DIRECTORY(temporary_files_are_counted),
        IN_EMPTY_DIRECTORY(writes_to_standard_output),
        IN_EMPTY_DIRECTORY(writes_into_a_fifo),
        IN_EMPTY_DIRECTORY(flush_leaves_only_the_files_to_commit),
        IN_EMPTY_DIRECTORY(a_signal_handler_removes_temporaries),
        IN_EMPTY_DIRECTORY(removed_temporaries_cannot_be_committed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
