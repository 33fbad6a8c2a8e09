/* Element types and their names in .npy files. */
#include "npy/internal.h"

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

const char *flashc_npy_type_descr(flashc_npy_type type)
{
    return types[type].descr;
}

int64_t flashc_npy_extent(int rank, const int64_t *shape, size_t item_size)
{
    int64_t extent = (int64_t)item_size;
    for (int axis = 0; axis < rank; axis++)
        if (shape[axis] != 0 && __builtin_mul_overflow(extent, shape[axis], &extent))
            return 0;
    return extent;
}

/* order: the character before the type, 0 where there is none. That, and '=', mean "as on the machine that wrote it",
 * which nobody knows here. NumPy writes single bytes with '|', and raw ones both ways. */
static bool is_usable_order(int type, char order)
{
    if (type == FLASHC_NPY_V2)
        return order == '<' || order == '|';
    return order == '<' || order == '>' || (order == '|' && types[type].size == 1);
}

bool flashc_npy_parse_descr(const char *text, size_t length, flashc_npy_header *out, char *message,
                            size_t message_size)
{
    char shown[24];
    flashc_npy_printable(text, length, shown, sizeof shown);
    const bool has_order = length > 0 && memchr("<>|=", text[0], 4) != NULL;
    const char order = has_order ? text[0] : 0;
    const char *kind = text + has_order;
    const size_t kind_length = length - has_order;

    for (int t = 0; t < TYPE_COUNT; t++) {
        if (strlen(types[t].descr) != kind_length || memcmp(kind, types[t].descr, kind_length) != 0)
            continue;
        if (!is_usable_order(t, order))
            return flashc_npy_fail(message, message_size, "dtype '%s' has no usable byte order: expected '%s%s'",
                                   shown, types[t].size == 1 ? "|" : "<", types[t].descr);
        out->type = (flashc_npy_type)t;
        out->big_endian = order == '>' && types[t].size > 1;
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
