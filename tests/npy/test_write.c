/* Writing one file: the bytes, the permissions, and everything that can be wrong with a path. */
#include "npy/outputs.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

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
    put("run.npy", "old"); /* with bits that no new file has */
    assert_int_equal(chmod("run.npy", 0751), 0);
    umask(0);
    assert_true(write_values("secret.npy"));
    umask(027);
    assert_true(write_values("old.npy"));
    assert_true(write_values("run.npy"));
    umask(old);
    assert_int_equal(mode_of("new.npy"), 0640);
    assert_int_equal(mode_of("old.npy"), 0666);
    assert_int_equal(mode_of("secret.npy"), 0600);
    assert_int_equal(mode_of("run.npy"), 0751);
    assert_int_equal(entries(), 4);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_EMPTY_DIRECTORY(writes_these_very_bytes),
        IN_EMPTY_DIRECTORY(round_trips_every_type_and_rank),
        IN_EMPTY_DIRECTORY(refuses_shapes_that_cannot_be),
        IN_EMPTY_DIRECTORY(permissions_are_the_umasks_or_the_old_ones),
        IN_EMPTY_DIRECTORY(replaces_through_symbolic_links),
        IN_EMPTY_DIRECTORY(names_what_is_wrong_with_a_path),
        IN_EMPTY_DIRECTORY(respects_read_only_files_and_directories),
        IN_EMPTY_DIRECTORY(a_full_device_is_an_error),
        IN_EMPTY_DIRECTORY(writes_to_standard_output),
        IN_EMPTY_DIRECTORY(writes_into_a_fifo),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
