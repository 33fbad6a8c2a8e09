/* The header parser: what it accepts, what it refuses and with which words, and that it stays in its bytes. */
#include "npy/fixture.h"

#define UNKNOWN FLASHC_NPY_SIZE_UNKNOWN

static unsigned char file[32768];
static char message[FLASHC_NPY_MESSAGE_SIZE];

static bool parse(int version, const char *text, uint64_t file_size, flashc_npy_header *h)
{
    size_t size = fixture_header(file, version, text);
    guarded g = guarded_copy(file, size);
    message[0] = 0;
    bool ok = flashc_npy_parse_header(g.bytes, size, file_size, h, message, sizeof message);
    guarded_free(&g);
    return ok;
}

static void accepts_what_python_accepts(void **state)
{
    (void)state;
    static const char *const same[] = {
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}          \n",
        "{\"descr\":\"<f4\",\"fortran_order\":False,\"shape\":(2,3,)}\n",
        "{'shape': (2, 3), 'fortran_order': False, 'descr': '<f4'}\n",
        "{'fortran_order': False, 'shape': (2, 3), 'descr': \"<f4\",}\n",
        " { 'descr' : '<f4' ,\t'fortran_order' : False ,\n 'shape' : ( 2 , 3 , ) , } \n\n",
    };
    for (int version = 1; version <= 3; version++) {
        for (size_t i = 0; i < sizeof same / sizeof same[0]; i++) {
            flashc_npy_header h;
            if (!parse(version, same[i], UNKNOWN, &h))
                fail_msg("version %d, %s: %s", version, same[i], message);
            assert_int_equal(h.type, FLASHC_NPY_F32);
            assert_false(h.big_endian);
            assert_false(h.fortran_order);
            assert_int_equal(h.rank, 2);
            assert_int_equal(h.shape[0], 2);
            assert_int_equal(h.shape[1], 3);
            assert_int_equal(h.count, 6);
            assert_int_equal(h.item_size, 4);
            assert_int_equal(h.data_offset, strlen(same[i]) + (version == 1 ? 10 : 12));
        }
    }
}

static void reads_shapes(void **state)
{
    (void)state;
    static const struct {
        const char *shape;
        int rank;
        int64_t first;
        int64_t count;
    } cases[] = {
        {"()", 0, 0, 1},         {"(7,)", 1, 7, 7},        {"(0,)", 1, 0, 0},
        {"(00,)", 1, 0, 0},      {"(5, 0, 3)", 3, 5, 0},   {"(1,1,1,1,1)", 5, 1, 1},
        {"(3L, 4L)", 2, 3, 12},  {"(3L,)", 1, 3, 3},
        {"(2305843009213693951,)", 1, 2305843009213693951, 2305843009213693951}, /* times 4: just below 2^63 */
        {"(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2)", 32, 1, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256];
        flashc_npy_header h;
        snprintf(text, sizeof text, "{'descr': '<f4', 'fortran_order': True, 'shape': %s}\n", cases[i].shape);
        if (!parse(1, text, UNKNOWN, &h))
            fail_msg("%s: %s", cases[i].shape, message);
        assert_true(h.fortran_order);
        assert_int_equal(h.rank, cases[i].rank);
        assert_int_equal(h.shape[0], cases[i].first);
        assert_int_equal(h.count, cases[i].count);
    }
}

static void reads_dtypes(void **state)
{
    (void)state;
    static const struct {
        const char *descr;
        flashc_npy_type type;
        bool big_endian;
        size_t size;
    } cases[] = {
        {"<f2", FLASHC_NPY_F16, false, 2}, {">f2", FLASHC_NPY_F16, true, 2},   {"<f4", FLASHC_NPY_F32, false, 4},
        {">f4", FLASHC_NPY_F32, true, 4},  {"<f8", FLASHC_NPY_F64, false, 8},  {">f8", FLASHC_NPY_F64, true, 8},
        {"|b1", FLASHC_NPY_BOOL, false, 1}, {"|i1", FLASHC_NPY_I8, false, 1},  {"|u1", FLASHC_NPY_U8, false, 1},
        {"<u1", FLASHC_NPY_U8, false, 1},  {">u1", FLASHC_NPY_U8, false, 1},   {"<i2", FLASHC_NPY_I16, false, 2},
        {">u2", FLASHC_NPY_U16, true, 2},  {"<i4", FLASHC_NPY_I32, false, 4},  {">u4", FLASHC_NPY_U32, true, 4},
        {"<i8", FLASHC_NPY_I64, false, 8}, {">u8", FLASHC_NPY_U64, true, 8},   {"<V2", FLASHC_NPY_V2, false, 2},
        {"|V2", FLASHC_NPY_V2, false, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[128];
        flashc_npy_header h;
        snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': (3,), }\n", cases[i].descr);
        if (!parse(1, text, UNKNOWN, &h))
            fail_msg("%s: %s", cases[i].descr, message);
        assert_int_equal(h.type, cases[i].type);
        assert_int_equal(h.big_endian, cases[i].big_endian);
        assert_int_equal(h.item_size, cases[i].size);
        assert_int_equal(flashc_npy_type_size(h.type), cases[i].size);
    }
    assert_string_equal(flashc_npy_type_name(FLASHC_NPY_F16), "f16");
    assert_string_equal(flashc_npy_type_name((flashc_npy_type)99), "?");
    assert_int_equal(flashc_npy_type_size((flashc_npy_type)99), 0);
}

/* In each: descr, shape and order as given, NULL for the ordinary ones. */
static void refuses_values_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *descr, *order, *shape, *wanted;
    } cases[] = {
        {"'|O'", NULL, NULL, "dtype '|O' (pickled Python objects)"},
        {"'<U5'", NULL, NULL, "dtype '<U5' (Unicode text)"},
        {"'|S5'", NULL, NULL, "dtype '|S5' (byte strings)"},
        {"'<c8'", NULL, NULL, "complex numbers"},
        {"'<M8[ns]'", NULL, NULL, "dates"},
        {"'<m8[s]'", NULL, NULL, "time spans"},
        {"'|V16'", NULL, NULL, "raw or structured data"},
        {"'<f16'", NULL, NULL, "dtype '<f16' (unknown)"},
        {"'<f'", NULL, NULL, "dtype '<f'"},
        {"'<f44'", NULL, NULL, "dtype '<f44'"},
        {"''", NULL, NULL, "dtype ''"},
        {"'<'", NULL, NULL, "dtype '<'"},
        {"'f4'", NULL, NULL, "dtype 'f4' has no usable byte order: expected '<f4'"},
        {"'=f4'", NULL, NULL, "no usable byte order"},
        {"'|f4'", NULL, NULL, "no usable byte order"},
        {"'b1'", NULL, NULL, "expected '|b1'"},
        {"'>V2'", NULL, NULL, "dtype '>V2' has no usable byte order: expected '<V2'"},
        {"'<\x01\xff'", NULL, NULL, "dtype '<?\?'"},
        {"[('a', '<f4')]", NULL, NULL, "structured dtype"},
        {"('<f4', (2,))", NULL, NULL, "structured dtype"},
        {"f4", NULL, NULL, "expected a quoted dtype at character 10, found 'f'"},
        {"'<f4", NULL, NULL, "dtype '<f4, ' (unknown)"}, /* the next quote closes it */
        {"'\\x3cf4'", NULL, NULL, "expected the closing quote"},
        {NULL, "true", NULL, "expected True or False"},
        {NULL, "1", NULL, "expected True or False"},
        {NULL, "'False'", NULL, "expected True or False"},
        {NULL, "Falsey", NULL, "expected ',' or '}'"},
        {NULL, NULL, "(3)", "the shape (3) is not a tuple: expected (3,)"},
        {NULL, NULL, "3", "expected '(' of the shape"},
        {NULL, NULL, "[3]", "expected '(' of the shape"},
        {NULL, NULL, "(,)", "expected an integer of the shape"},
        {NULL, NULL, "(3,,4)", "expected an integer of the shape"},
        {NULL, NULL, "(3 4)", "expected ',' or ')' in the shape"},
        {NULL, NULL, "(-3,)", "axis 0 of the shape is negative"},
        {NULL, NULL, "(2, -9223372036854775808)", "axis 1 of the shape is negative"},
        {NULL, NULL, "(+3,)", "expected an integer"},
        {NULL, NULL, "(03,)", "integer without leading zeros"},
        {NULL, NULL, "(3.0,)", "expected ',' or ')' in the shape"},
        {NULL, NULL, "(1e3,)", "expected ',' or ')' in the shape"},
        {NULL, NULL, "(0x10,)", "expected ',' or ')' in the shape"},
        {NULL, NULL, "(1_0,)", "expected ',' or ')' in the shape"},
        {NULL, NULL, "(3LL,)", "expected ',' or ')' in the shape"},
        {NULL, NULL, "(True,)", "expected an integer"},
        {NULL, NULL, "(None,)", "expected an integer"},
        {NULL, NULL, "(9223372036854775808,)", "axis 0 of the shape is 2^63 or more"},
        {NULL, NULL, "(99999999999999999999999999999999,)", "axis 0 of the shape is 2^63 or more"},
        {NULL, NULL, "(2305843009213693952,)", "2^63 bytes or more"}, /* times 4 */
        {NULL, NULL, "(4294967296, 4294967296)", "2^63 bytes or more"},
        {NULL, NULL, "(0, 4294967296, 4294967296)", "2^63 bytes or more"},
        {NULL, NULL, "(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1)", "more than 32 axes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256];
        flashc_npy_header h;
        snprintf(text, sizeof text, "{'descr': %s, 'fortran_order': %s, 'shape': %s, }\n",
                 cases[i].descr ? cases[i].descr : "'<f4'", cases[i].order ? cases[i].order : "False",
                 cases[i].shape ? cases[i].shape : "(2, 3)");
        if (parse(1, text, UNKNOWN, &h))
            fail_msg("accepted %s", text);
        assert_contains(message, cases[i].wanted);
        assert_null(strpbrk(message, "\n\x01\xff"));
    }
}

static void refuses_malformed_dicts(void **state)
{
    (void)state;
    static const struct {
        const char *text, *wanted;
    } cases[] = {
        {"", "expected a newline as its last character"},
        {"\n", "expected '{', found its end"},
        {"{}\n", "key 'descr' is missing"},
        {"{,}\n", "expected a quoted key"},
        {"{'descr': '<f4', 'shape': (3,)}\n", "key 'fortran_order' is missing"},
        {"{'descr': '<f4', 'fortran_order': False}\n", "key 'shape' is missing"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'x': 1}\n", "unknown key 'x'"},
        {"{'Descr': '<f4', 'fortran_order': False, 'shape': (3,)}\n", "unknown key 'Descr'"},
        {"{'descr ': '<f4', 'fortran_order': False, 'shape': (3,)}\n", "unknown key 'descr '"},
        {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (3,)}\n", "key 'descr' twice"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'shape': (3,)}\n", "key 'shape' twice"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", "expected a newline as its last character"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)\n", "expected ',' or '}', found its end"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)} x\n", "expected nothing after '}'"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}}\n", "expected nothing after '}'"},
        {"{'descr': '<f4',, 'fortran_order': False, 'shape': (3,)}\n", "expected a quoted key"},
        {"{'descr': '<f4' 'fortran_order': False, 'shape': (3,)}\n", "expected ',' or '}'"},
        {"{'descr' '<f4', 'fortran_order': False, 'shape': (3,)}\n", "expected ':'"},
        {"{descr: '<f4', 'fortran_order': False, 'shape': (3,)}\n", "expected a quoted key"},
        {"{'descr\": '<f4', 'fortran_order': False, 'shape': (3,)}\n", "unknown key 'descr\": '"},
        {"{u'descr': '<f4', 'fortran_order': False, 'shape': (3,)}\n", "expected a quoted key"},
        {"['descr', '<f4', 'fortran_order', False, 'shape', (3,)]\n", "expected '{'"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,\n", "expected an integer of the shape, found its end"},
        {"{'descr': '<f4', 'fortran_order': Fal\n", "expected True or False"},
        {"{'descr': '<f4\n", "expected the closing quote"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        flashc_npy_header h;
        if (parse(1, cases[i].text, UNKNOWN, &h))
            fail_msg("accepted %s", cases[i].text);
        assert_contains(message, cases[i].wanted);
    }
    flashc_npy_header h;
    assert_false(parse(3, "{'descr': '<f4', 'fortran_order': False, 'shape': (3L,)}\n", UNKNOWN, &h));
}

static void refuses_foreign_preambles(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        const char *wanted;
    } cases[] = {
        {"", 0, "truncated: header needs 10 bytes, the file holds 0"},
        {"hello world, this is text", 25, "not a .npy file: byte 0 is 0x68, expected 0x93"},
        {"\x93NUMPX\x01\x00\x02\x00{}", 12, "byte 5 is 0x58"},
        {"\x93NUM", 4, "truncated: header needs 10 bytes, the file holds 4"},
        {"PK\x03\x04", 4, "0x93 of \"\\x93NUMPY\" (a zip archive, as .npz files are: take the .npy files out of it)"},
        {"\x93NUMPY\x00\x00\x02\x00{}", 12, "version 0.0: expected 1.0, 2.0 or 3.0"},
        {"\x93NUMPY\x04\x00\x02\x00{}", 12, "version 4.0"},
        {"\x93NUMPY\x01\x01\x02\x00{}", 12, "version 1.1"},
        {"\x93NUMPY\xff\xff\x02\x00{}", 12, "version 255.255"},
        {"\x93NUMPY\x01\x00\x11\x27{}", 12, "header of 10001 bytes: expected at most 10000"},
        {"\x93NUMPY\x01\x00\x10\x27{}", 12, "truncated: header needs 10010 bytes, the file holds 12"},
        {"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", 14, "header of 4294967295 bytes"},
        {"\x93NUMPY\x02\x00\x00\x00\x01\x00{}", 14, "header of 65536 bytes"},
        {"\x93NUMPY\x03\x00\x00\x00", 10, "truncated: header needs 12 bytes, the file holds 10"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        flashc_npy_header h;
        guarded g = guarded_copy(cases[i].bytes, cases[i].size);
        assert_false(flashc_npy_parse_header(g.bytes, cases[i].size, cases[i].size, &h, message, sizeof message));
        assert_contains(message, cases[i].wanted);
        guarded_free(&g);
    }
}

/* Exactly 10,000 bytes of header are NumPy's limit; one more is refused above. */
static void accepts_the_longest_header(void **state)
{
    (void)state;
    static char text[FLASHC_NPY_MAX_HEADER + 1];
    flashc_npy_header h;
    memset(text, ' ', sizeof text);
    static const char dict[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
    memcpy(text, dict, sizeof dict - 1);
    text[FLASHC_NPY_MAX_HEADER - 1] = '\n';
    text[FLASHC_NPY_MAX_HEADER] = 0;
    for (int version = 1; version <= 3; version++)
        assert_true(parse(version, text, UNKNOWN, &h));
}

/* The promise is compared with the file's size; no memory is asked for. */
static void compares_the_promise_with_the_file(void **state)
{
    (void)state;
    static const char huge[] = "{'descr': '<f8', 'fortran_order': False, 'shape': (1152921504606846975,), }\n";
    static const char small[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (32, 32)}\n";
    flashc_npy_header h;
    assert_false(parse(1, huge, 128, &h));
    assert_contains(message, "truncated: header promises 9223372036854775800 bytes of data, the file holds 42");
    uint64_t offset = 10 + strlen(small);
    assert_false(parse(1, small, offset + 100, &h));
    assert_string_equal(message, "truncated: header promises 4096 bytes of data, the file holds 100");
    assert_false(parse(1, small, offset + 4095, &h));
    assert_true(parse(1, small, offset + 4096, &h));
    assert_true(parse(1, small, offset + 4097, &h)); /* bytes after the data are ignored */
    assert_true(parse(1, small, UNKNOWN, &h));
    assert_false(parse(1, small, 20, &h)); /* smaller than the header: a caller's slip, not an underflow */
}

static void cuts_the_message(void **state)
{
    (void)state;
    char little[16];
    flashc_npy_header h;
    assert_false(flashc_npy_parse_header("hello", 5, 5, &h, little, sizeof little));
    assert_string_equal(little, "not a .npy file");
    assert_false(flashc_npy_parse_header("hello", 5, 5, &h, NULL, 0));
}

static void check_invariants(const flashc_npy_header *h, size_t n_bytes, uint64_t file_size)
{
    assert_in_range(h->rank, 0, FLASHC_NPY_MAX_RANK);
    assert_in_range(h->data_offset, 10, n_bytes);
    assert_int_equal(h->item_size, flashc_npy_type_size(h->type));
    int64_t count = 1;
    for (int i = 0; i < h->rank; i++) {
        assert_true(h->shape[i] >= 0);
        count *= h->shape[i];
    }
    assert_int_equal(h->count, count);
    assert_true((uint64_t)count * h->item_size <= file_size - h->data_offset);
}

static const char *const seeds[] = {
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }      \n",
    "{\"shape\": (3L, 1L), \"fortran_order\": True, \"descr\": \">i2\"}\n",
    "{'descr': '|b1', 'fortran_order': False, 'shape': ()}\n",
};
enum { SEEDS = sizeof seeds / sizeof seeds[0], DATA = 24 };

/* Every prefix of a valid file is refused or, from the last promised byte on, read. */
static void refuses_every_truncation(void **state)
{
    (void)state;
    for (int version = 1; version <= 3; version++) {
        for (int s = 0; s < SEEDS; s++) {
            if (s == 1 && version == 3)
                continue; /* 3L */
            size_t offset = fixture_header(file, version, seeds[s]);
            static const size_t data[SEEDS] = {24, 6, 1};
            memset(file + offset, 1, DATA);
            for (size_t size = 0; size <= offset + data[s]; size++) {
                guarded g = guarded_copy(file, size);
                flashc_npy npy;
                bool ok = flashc_npy_read_memory(g.bytes, size, "t.npy", &npy, message, sizeof message);
                guarded_free(&g);
                assert_int_equal(ok, size == offset + data[s]);
                if (!ok) {
                    assert_contains(message, size == 0 ? "t.npy: empty" : "t.npy: truncated: header ");
                    assert_null(npy.data);
                }
                flashc_npy_free(&npy);
            }
        }
    }
}

static void survives_every_changed_byte(void **state)
{
    (void)state;
    long accepted = 0;
    long unchanged = 0;
    for (int version = 1; version <= 3; version++) {
        for (int s = 0; s < SEEDS; s++) {
            size_t offset = fixture_header(file, version, seeds[s]);
            size_t size = offset + DATA;
            memset(file + offset, 1, DATA);
            guarded g = guarded_copy(file, size);
            for (size_t at = 0; at < offset; at++) {
                unsigned char original = g.bytes[at];
                for (int value = 0; value < 256; value++) { /* all bit flips among them */
                    g.bytes[at] = (unsigned char)value;
                    flashc_npy npy;
                    message[0] = 0;
                    if (flashc_npy_read_memory(g.bytes, size, "t.npy", &npy, message, sizeof message)) {
                        check_invariants(&npy.header, size, size);
                        accepted++;
                    } else {
                        assert_contains(message, "t.npy: ");
                    }
                    unchanged += value == original && !(s == 1 && version == 3);
                    flashc_npy_free(&npy);
                }
                g.bytes[at] = original;
            }
            guarded_free(&g);
        }
    }
    assert_true(accepted >= unchanged);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts_what_python_accepts),
        cmocka_unit_test(reads_shapes),
        cmocka_unit_test(reads_dtypes),
        cmocka_unit_test(refuses_values_by_name),
        cmocka_unit_test(refuses_malformed_dicts),
        cmocka_unit_test(refuses_foreign_preambles),
        cmocka_unit_test(accepts_the_longest_header),
        cmocka_unit_test(compares_the_promise_with_the_file),
        cmocka_unit_test(cuts_the_message),
        cmocka_unit_test(refuses_every_truncation),
        cmocka_unit_test(survives_every_changed_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
