/* Element types and their names in .npy files. */
#include "npy/internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    const char *descr; /* without the byte order */
    size_t size;
} types[] = {
    [FLASHC_NPY_F16] = {"f16", "f2", 2}, [FLASHC_NPY_F32] = {"f32", "f4", 4},  [FLASHC_NPY_F64] = {"f64", "f8", 8},
    [FLASHC_NPY_BOOL] = {"bool", "b1", 1}, [FLASHC_NPY_I8] = {"i8", "i1", 1},  [FLASHC_NPY_U8] = {"u8", "u1", 1},
    [FLASHC_NPY_I16] = {"i16", "i2", 2}, [FLASHC_NPY_U16] = {"u16", "u2", 2},  [FLASHC_NPY_I32] = {"i32", "i4", 4},
    [FLASHC_NPY_U32] = {"u32", "u4", 4}, [FLASHC_NPY_I64] = {"i64", "i8", 8},  [FLASHC_NPY_U64] = {"u64", "u8", 8},
    [FLASHC_NPY_V2] = {"raw16", "V2", 2},
};
enum { TYPE_COUNT = sizeof types / sizeof types[0] };

/* Why a kind letter cannot be read. */
static const struct {
    char kind;
    const char *what;
} refused[] = {
    {'O', "pickled Python objects"}, {'U', "Unicode text"}, {'S', "byte strings"}, {'a', "byte strings"},
    {'c', "complex numbers"},        {'M', "dates"},        {'m', "time spans"},   {'V', "raw or structured data"},
};

const char *flashc_npy_type_name(flashc_npy_type type)
{
    return (unsigned)type < TYPE_COUNT ? types[type].name : "?";
}

size_t flashc_npy_type_size(flashc_npy_type type)
{
    return (unsigned)type < TYPE_COUNT ? types[type].size : 0;
}

bool flashc_npy_fail(char *message, size_t message_size, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (message_size > 0)
        vsnprintf(message, message_size, format, args);
    va_end(args);
    return false;
}

const char *flashc_npy_printable(const char *text, size_t length, char *buffer, size_t size)
{
    size_t kept = length < size - 1 ? length : size - 1;
    for (size_t i = 0; i < kept; i++)
        buffer[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    buffer[kept] = 0;
    return buffer;
}

bool flashc_npy_parse_descr(const char *text, size_t length, flashc_npy_header *out, char *message,
                            size_t message_size)
{
    char shown[24];
    flashc_npy_printable(text, length, shown, sizeof shown);
    bool has_order = length > 0 && memchr("<>|=", text[0], 4) != NULL;
    const char *kind = text + has_order;
    size_t kind_length = length - has_order;

    for (int t = 0; t < TYPE_COUNT; t++) {
        if (strlen(types[t].descr) != kind_length || memcmp(kind, types[t].descr, kind_length) != 0)
            continue;
        /* '=' and no order at all mean "as on the machine that wrote it", which nobody knows here. */
        bool ordered = has_order && (text[0] == '<' || text[0] == '>');
        if (t == FLASHC_NPY_V2 ? !has_order || (text[0] != '<' && text[0] != '|')
                               : !ordered && !(types[t].size == 1 && has_order && text[0] == '|'))
            return flashc_npy_fail(message, message_size, "dtype '%s' has no usable byte order: expected '%s%s'",
                                   shown, types[t].size == 1 ? "|" : "<", types[t].descr);
        out->type = (flashc_npy_type)t;
        out->big_endian = text[0] == '>' && types[t].size > 1;
        out->item_size = types[t].size;
        return true;
    }
    const char *what = "unknown";
    for (size_t i = 0; kind_length > 0 && i < sizeof refused / sizeof refused[0]; i++)
        if (kind[0] == refused[i].kind)
            what = refused[i].what;
    return flashc_npy_fail(message, message_size,
                           "dtype '%s' (%s) cannot be read: expected floats of 2, 4 or 8 bytes, integers, bool, or "
                           "'<V2' for bf16",
                           shown, what);
}

size_t flashc_npy_format_header(char buffer[FLASHC_NPY_WRITTEN_HEADER], flashc_npy_type type, int rank,
                                const int64_t *shape, char *message, size_t message_size)
{
    size_t item_size = flashc_npy_type_size(type);
    if (item_size == 0 || rank < 0 || rank > FLASHC_NPY_MAX_RANK) {
        flashc_npy_fail(message, message_size, "cannot write type %d with %d axes: at most %d axes", (int)type, rank,
                        FLASHC_NPY_MAX_RANK);
        return 0;
    }
    for (int axis = 0; axis < rank; axis++) {
        if (shape[axis] < 0) {
            flashc_npy_fail(message, message_size, "cannot write a shape whose axis %d is %lld", axis,
                            (long long)shape[axis]);
            return 0;
        }
    }
    if (flashc_npy_extent(rank, shape, item_size) == 0) {
        flashc_npy_fail(message, message_size, "cannot write a shape of 2^63 bytes or more");
        return 0;
    }

    char *text = buffer + FLASHC_NPY_MIN_PREAMBLE;
    size_t room = FLASHC_NPY_WRITTEN_HEADER - FLASHC_NPY_MIN_PREAMBLE;
    size_t used = (size_t)snprintf(text, room, "{'descr': '%s%s', 'fortran_order': False, 'shape': (",
                                   item_size == 1 ? "|" : "<", types[type].descr);
    for (int axis = 0; axis < rank; axis++)
        used += (size_t)snprintf(text + used, room - used, axis == 0 ? "%lld" : ", %lld", (long long)shape[axis]);
    used += (size_t)snprintf(text + used, room - used, rank == 1 ? ",), }" : "), }");

    /* Spaces and a newline up to a multiple of 64, so that a mapped file is aligned for any vector unit. */
    size_t total = (FLASHC_NPY_MIN_PREAMBLE + used + 1 + 63) / 64 * 64;
    memset(buffer + FLASHC_NPY_MIN_PREAMBLE + used, ' ', total - FLASHC_NPY_MIN_PREAMBLE - used);
    buffer[total - 1] = '\n';
    size_t header_length = total - FLASHC_NPY_MIN_PREAMBLE;
    memcpy(buffer, "\x93NUMPY\x01\x00", 8);
    buffer[8] = (char)(header_length & 0xff);
    buffer[9] = (char)(header_length >> 8);
    return total;
}
