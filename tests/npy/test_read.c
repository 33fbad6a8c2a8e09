/* Reading arrays: every type, rank, order, byte order and version, from memory, files, pipes and stdin. */
#include "npy/fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char message[FLASHC_NPY_MESSAGE_SIZE];

static const struct {
    const char *descr;
    flashc_npy_type type;
    size_t size;
} types[] = {
    {"f2", FLASHC_NPY_F16, 2}, {"f4", FLASHC_NPY_F32, 4}, {"f8", FLASHC_NPY_F64, 8}, {"b1", FLASHC_NPY_BOOL, 1},
    {"i1", FLASHC_NPY_I8, 1},  {"u1", FLASHC_NPY_U8, 1},  {"i2", FLASHC_NPY_I16, 2}, {"u2", FLASHC_NPY_U16, 2},
    {"i4", FLASHC_NPY_I32, 4}, {"u4", FLASHC_NPY_U32, 4}, {"i8", FLASHC_NPY_I64, 8}, {"u8", FLASHC_NPY_U64, 8},
    {"V2", FLASHC_NPY_V2, 2},
};
enum { TYPES = sizeof types / sizeof types[0] };

static const struct {
    const char *text;
    int rank;
    int64_t shape[4];
} shapes[] = {
    {"()", 0, {0}},          {"(1,)", 1, {1}},          {"(7,)", 1, {7}},
    {"(0,)", 1, {0}},        {"(3, 5)", 2, {3, 5}},     {"(2, 3, 4)", 3, {2, 3, 4}},
    {"(4, 0, 2)", 3, {4, 0, 2}}, {"(2, 3, 1, 5)", 4, {2, 3, 1, 5}},
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

/* The bits of the element whose place in C order is n: all bytes differ, so that a swap shows. */
static uint64_t element(int64_t n)
{
    return (uint64_t)(n + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

/* The place in C order of the element that lies at place n of the file. */
static int64_t c_place(int rank, const int64_t *shape, bool fortran, int64_t n)
{
    int64_t index[4] = {0};
    for (int i = 0; i < rank; i++) {
        int axis = fortran ? i : rank - 1 - i;
        index[axis] = n % shape[axis];
        n /= shape[axis];
    }
    int64_t place = 0;
    for (int axis = 0; axis < rank; axis++)
        place = place * shape[axis] + index[axis];
    return place;
}

static size_t make_file(unsigned char *file, int version, int t, int s, bool big, bool fortran)
{
    char text[192];
    const char order = types[t].size == 1 ? '|' : big ? '>' : '<';
    snprintf(text, sizeof text, "{'descr': '%c%s', 'fortran_order': %s, 'shape': %s, }\n", order, types[t].descr,
             fortran ? "True" : "False", shapes[s].text);
    size_t size = fixture_header(file, version, text);
    int64_t count = 1;
    for (int axis = 0; axis < shapes[s].rank; axis++)
        count *= shapes[s].shape[axis];
    for (int64_t n = 0; n < count; n++) {
        uint64_t bits = element(c_place(shapes[s].rank, shapes[s].shape, fortran, n));
        for (size_t b = 0; b < types[t].size; b++)
            file[size++] = (unsigned char)(bits >> 8 * (big ? types[t].size - 1 - b : b));
    }
    return size;
}

/* Walks the array by its strides and compares each element with what was put there. */
static void check_elements(const flashc_npy *npy, size_t item_size)
{
    const flashc_npy_header *h = &npy->header;
    for (int64_t n = 0; n < h->count; n++) {
        int64_t rest = n;
        int64_t place = 0;
        for (int axis = h->rank - 1; axis >= 0; axis--) {
            place += rest % h->shape[axis] * npy->strides[axis];
            rest /= h->shape[axis];
        }
        uint64_t bits = 0; /* little-endian machine, as everywhere in npy */
        assert_in_range(place, 0, h->count - 1);
        memcpy(&bits, (const char *)npy->data + (size_t)place * item_size, item_size);
        uint64_t expected = element(n) << (64 - 8 * item_size) >> (64 - 8 * item_size);
        if (bits != expected)
            fail_msg("element %lld: %llx, expected %llx", (long long)n, (unsigned long long)bits,
                     (unsigned long long)expected);
    }
}

static void reads_every_type_shape_order_and_version(void **state)
{
    (void)state;
    unsigned char file[1024];
    for (int version = 1; version <= 3; version++)
        for (int t = 0; t < TYPES; t++)
            for (int s = 0; s < SHAPES; s++)
                for (int big = 0; big <= (types[t].size > 1 && types[t].type != FLASHC_NPY_V2); big++)
                    for (int fortran = 0; fortran <= 1; fortran++) {
                        size_t size = make_file(file, version, t, s, big, fortran);
                        flashc_npy npy;
                        guarded g = guarded_copy(file, size);
                        if (!flashc_npy_read_memory(g.bytes, size, "x", &npy, message, sizeof message))
                            fail_msg("%s", message);
                        guarded_free(&g);
                        assert_int_equal(npy.header.type, types[t].type);
                        assert_int_equal(npy.header.rank, shapes[s].rank);
                        assert_int_equal(npy.header.fortran_order, fortran);
                        assert_int_equal(npy.header.big_endian, big);
                        assert_non_null(npy.data);
                        assert_int_equal((uintptr_t)npy.data % 64, 0);
                        for (int axis = 0; axis < shapes[s].rank; axis++)
                            assert_int_equal(npy.header.shape[axis], shapes[s].shape[axis]);
                        check_elements(&npy, types[t].size);
                        flashc_npy_free(&npy);
                        assert_null(npy.data);
                    }
}

static void strides_follow_the_order(void **state)
{
    (void)state;
    unsigned char file[1024];
    flashc_npy npy;
    int s = 5; /* (2, 3, 4) */
    assert_true(flashc_npy_read_memory(file, make_file(file, 1, 1, s, false, false), "x", &npy, message,
                                       sizeof message));
    assert_int_equal(npy.strides[0], 12);
    assert_int_equal(npy.strides[1], 4);
    assert_int_equal(npy.strides[2], 1);
    flashc_npy_free(&npy);
    assert_true(flashc_npy_read_memory(file, make_file(file, 1, 1, s, false, true), "x", &npy, message,
                                       sizeof message));
    assert_int_equal(npy.strides[0], 1);
    assert_int_equal(npy.strides[1], 2);
    assert_int_equal(npy.strides[2], 6);
    flashc_npy_free(&npy);
}

/* A child writes head and then size - head_size zeros (or data) into a pipe; its end is *fd. */
static pid_t feed(const void *bytes, size_t size, size_t step, int *fd)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(ends[0]);
        signal(SIGPIPE, SIG_IGN);
        for (size_t at = 0; at < size; at += step)
            if (write(ends[1], (const char *)bytes + at, size - at < step ? size - at : step) < 0)
                break;
        _exit(0);
    }
    close(ends[1]);
    *fd = ends[0];
    return child;
}

static bool read_pipe(const void *bytes, size_t size, size_t step, flashc_npy *npy)
{
    int fd;
    char path[32];
    pid_t child = feed(bytes, size, step, &fd);
    snprintf(path, sizeof path, "/dev/fd/%d", fd);
    message[0] = 0;
    bool ok = flashc_npy_read(path, npy, message, sizeof message);
    close(fd);
    waitpid(child, NULL, 0);
    return ok;
}

/* 5 MiB and a bit arrive: more than one step of growth, and the last step is a partial one. */
static void reads_a_long_stream(void **state)
{
    (void)state;
    size_t count = 5 * 131072 + 77;
    unsigned char *file = calloc(512 + count * 8, 1); /* more bytes follow the data: they are not taken for it */
    char text[128];
    assert_non_null(file);
    snprintf(text, sizeof text, "{'descr': '<u8', 'fortran_order': False, 'shape': (%zu,), }\n", count);
    size_t offset = fixture_header(file, 1, text);
    for (size_t n = 0; n < count; n++) {
        uint64_t bits = element((int64_t)n);
        memcpy(file + offset + 8 * n, &bits, 8);
    }
    flashc_npy npy;
    if (!read_pipe(file, offset + 8 * count + 100, 3001, &npy))
        fail_msg("%s", message);
    assert_int_equal(npy.header.count, count);
    assert_int_equal((uintptr_t)npy.data % 64, 0);
    assert_memory_equal(npy.data, file + offset, 8 * count);
    flashc_npy_free(&npy);

    assert_false(read_pipe(file, offset + 8 * count - 1, 70000, &npy));
    char wanted[128];
    snprintf(wanted, sizeof wanted, "truncated: header promises %zu bytes of data, the file holds %zu", 8 * count,
             8 * count - 1);
    assert_contains(message, wanted);
    free(file);
}

static void reads_a_small_stream_byte_by_byte(void **state)
{
    (void)state;
    unsigned char file[1024];
    for (int version = 1; version <= 3; version++) {
        size_t size = make_file(file, version, 2, 5, true, true);
        flashc_npy npy;
        if (!read_pipe(file, size, 1, &npy))
            fail_msg("%s", message);
        check_elements(&npy, 8);
        flashc_npy_free(&npy);
    }
}

/* A reader that asked for the promised 2^60 bytes would run out of memory instead of seeing the end. */
static void a_stream_cannot_make_us_allocate(void **state)
{
    (void)state;
    unsigned char file[256] = {0};
    fixture_header(file, 1, "{'descr': '|u1', 'fortran_order': False, 'shape': (1152921504606846976,), }\n");
    flashc_npy npy;
    assert_false(read_pipe(file, sizeof file, 256, &npy));
    assert_contains(message, "truncated: header promises 1152921504606846976 bytes of data, the file holds 170");
    assert_false(flashc_npy_read_memory(file, sizeof file, "m", &npy, message, sizeof message));
    assert_contains(message, "m: truncated: header promises 1152921504606846976 bytes of data, the file holds 170");
}

static void truncated_streams_are_named(void **state)
{
    (void)state;
    unsigned char file[1024];
    size_t size = make_file(file, 2, 1, 5, false, false);
    flashc_npy npy;
    assert_false(read_pipe(file, 0, 1, &npy));
    assert_contains(message, "empty: expected a .npy file");
    for (size_t length = 1; length < size; length += 7) {
        assert_false(read_pipe(file, length, 64, &npy));
        assert_contains(message, "/dev/fd/");
        assert_contains(message, "truncated: header ");
        assert_null(npy.data);
    }
}

static void standard_input_hands_on_one_array_after_another(void **state)
{
    (void)state;
    unsigned char file[2048];
    size_t size = make_file(file, 1, 1, 4, false, false);
    size += make_file(file + size, 1, 8, 5, true, true);
    int saved = dup(STDIN_FILENO);
    int fd;
    pid_t child = feed(file, size, 100, &fd);
    dup2(fd, STDIN_FILENO);
    close(fd);
    flashc_npy first, second, third;
    bool ok = flashc_npy_read("-", &first, message, sizeof message) &&
              flashc_npy_read("-", &second, message, sizeof message);
    bool none = !flashc_npy_read("-", &third, message, sizeof message);
    dup2(saved, STDIN_FILENO);
    close(saved);
    waitpid(child, NULL, 0);
    assert_true(ok);
    check_elements(&first, 4);
    check_elements(&second, 4);
    flashc_npy_free(&first);
    flashc_npy_free(&second);
    assert_true(none);
    assert_string_equal(message, "standard input: empty: expected a .npy file");
}

static void put_file(const char *path, const void *bytes, size_t size)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static void reads_files_and_names_them_in_errors(void **state)
{
    (void)state;
    char directory[] = "/tmp/flashc-npy-XXXXXX";
    unsigned char file[1024];
    char path[64];
    flashc_npy npy;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/q.npy", directory);

    assert_false(flashc_npy_read(path, &npy, message, sizeof message));
    assert_contains(message, "/q.npy: cannot open: No such file or directory");
    assert_false(flashc_npy_read(directory, &npy, message, sizeof message));
    assert_contains(message, ": is a directory, expected a .npy file");

    size_t size = make_file(file, 1, 1, 5, false, true);
    put_file(path, file, size);
    assert_true(flashc_npy_read(path, &npy, message, sizeof message));
    check_elements(&npy, 4);
    flashc_npy_free(&npy);

    memset(file + size, 0xee, 50); /* bytes after the data are ignored */
    put_file(path, file, size + 50);
    assert_true(flashc_npy_read(path, &npy, message, sizeof message));
    check_elements(&npy, 4);
    flashc_npy_free(&npy);

    put_file(path, file, size - 1);
    assert_false(flashc_npy_read(path, &npy, message, sizeof message));
    assert_contains(message, "/q.npy: truncated: header promises 96 bytes of data, the file holds 95");

    put_file(path, "", 0);
    assert_false(flashc_npy_read(path, &npy, message, sizeof message));
    assert_contains(message, "/q.npy: empty: expected a .npy file");

    put_file(path, "1.0 2.0 3.0\n", 12);
    assert_false(flashc_npy_read(path, &npy, message, sizeof message));
    assert_contains(message, "/q.npy: not a .npy file");

    assert_false(flashc_npy_read("/dev/null", &npy, message, sizeof message));
    assert_contains(message, "/dev/null: empty");
    unlink(path);
    rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_type_shape_order_and_version),
        cmocka_unit_test(strides_follow_the_order),
        cmocka_unit_test(reads_a_long_stream),
        cmocka_unit_test(reads_a_small_stream_byte_by_byte),
        cmocka_unit_test(a_stream_cannot_make_us_allocate),
        cmocka_unit_test(truncated_streams_are_named),
        cmocka_unit_test(standard_input_hands_on_one_array_after_another),
        cmocka_unit_test(reads_files_and_names_them_in_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
