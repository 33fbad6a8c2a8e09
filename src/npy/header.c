/* The header of a .npy file: a preamble, then a Python dict literal with three keys. */
#include "npy/internal.h"

#include <string.h>

/* What is left of the text; `begin` only for positions in messages. */
typedef struct cursor {
    const char *begin;
    const char *at;
    const char *end;
    bool python2; /* versions that Python 2 wrote: integers may read 3L */
    char *message;
    size_t message_size;
} cursor;

bool flashc_npy_bytes_needed(const void *bytes, size_t n_bytes, size_t *needed, char *message, size_t message_size)
{
    static const unsigned char magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};
    const unsigned char *b = bytes;

    *needed = FLASHC_NPY_MIN_PREAMBLE;
    for (size_t i = 0; i < sizeof magic && i < n_bytes; i++)
        if (b[i] != magic[i])
            return flashc_npy_fail(message, message_size,
                                   "not a .npy file: byte %zu is 0x%02x, expected 0x%02x of \"\\x93NUMPY\"%s", i, b[i],
                                   magic[i],
                                   n_bytes > 1 && b[0] == 'P' && b[1] == 'K'
                                       ? " (a zip archive, as .npz files are: take the .npy files out of it)"
                                       : "");
    if (n_bytes < 8)
        return true;
    if (b[6] < 1 || b[6] > 3 || b[7] != 0)
        return flashc_npy_fail(message, message_size, ".npy version %d.%d: expected 1.0, 2.0 or 3.0", b[6], b[7]);
    size_t preamble = b[6] == 1 ? FLASHC_NPY_MIN_PREAMBLE : FLASHC_NPY_MAX_PREAMBLE;
    *needed = preamble;
    if (n_bytes < preamble)
        return true;
    uint32_t length = (uint32_t)b[8] | (uint32_t)b[9] << 8;
    if (b[6] > 1)
        length |= (uint32_t)b[10] << 16 | (uint32_t)b[11] << 24;
    if (length > FLASHC_NPY_MAX_HEADER)
        return flashc_npy_fail(message, message_size, "header of %lu bytes: expected at most %d",
                               (unsigned long)length, FLASHC_NPY_MAX_HEADER);
    *needed = preamble + length;
    return true;
}

static void skip_space(cursor *c)
{
    while (c->at < c->end && memchr(" \t\n\r\f", *c->at, 5) != NULL)
        c->at++;
}

static bool fail_expected(const cursor *c, const char *expected)
{
    char found[2];
    if (c->at == c->end)
        return flashc_npy_fail(c->message, c->message_size, "header: expected %s, found its end", expected);
    return flashc_npy_fail(c->message, c->message_size, "header: expected %s at character %d, found '%s'", expected,
                           (int)(c->at - c->begin), flashc_npy_printable(c->at, 1, found, sizeof found));
}

/* Takes the character, with space before it, if it comes next. */
static bool take(cursor *c, char wanted)
{
    skip_space(c);
    if (c->at == c->end || *c->at != wanted)
        return false;
    c->at++;
    return true;
}

/* 'text' or "text", in plain characters: no key or dtype needs an escape. */
static bool take_string(cursor *c, const char *what, const char **text, size_t *length)
{
    skip_space(c);
    if (c->at == c->end || (*c->at != '\'' && *c->at != '"'))
        return fail_expected(c, what);
    char quote = *c->at++;
    *text = c->at;
    while (c->at < c->end && *c->at != quote && *c->at != '\\' && *c->at != '\n')
        c->at++;
    if (c->at == c->end || *c->at != quote)
        return fail_expected(c, "the closing quote");
    *length = (size_t)(c->at - *text);
    c->at++;
    return true;
}

static bool take_word(cursor *c, const char *word)
{
    size_t length = strlen(word);
    if ((size_t)(c->end - c->at) < length || memcmp(c->at, word, length) != 0)
        return false;
    c->at += length;
    return true;
}

static bool is_digit(const cursor *c)
{
    return c->at < c->end && *c->at >= '0' && *c->at <= '9';
}

/* A decimal integer as Python reads it: no leading zero unless it is zero. */
static bool take_dimension(cursor *c, int axis, int64_t *value)
{
    skip_space(c);
    if (c->at < c->end && *c->at == '-')
        return flashc_npy_fail(c->message, c->message_size, "header: axis %d of the shape is negative", axis);
    if (!is_digit(c))
        return fail_expected(c, "an integer of the shape");
    const char *first = c->at;
    *value = 0;
    for (; is_digit(c); c->at++)
        if (__builtin_mul_overflow(*value, 10, value) || __builtin_add_overflow(*value, *c->at - '0', value))
            return flashc_npy_fail(c->message, c->message_size, "header: axis %d of the shape is 2^63 or more", axis);
    if (*first == '0' && *value != 0) {
        c->at = first;
        return fail_expected(c, "an integer without leading zeros");
    }
    if (c->python2)
        take_word(c, "L");
    return true;
}

/* (), (3,), (3, 4) or (3, 4,); (3) is an integer to Python, not a tuple. */
static bool take_shape(cursor *c, flashc_npy_header *out)
{
    if (!take(c, '('))
        return fail_expected(c, "'(' of the shape");
    out->rank = 0;
    bool comma = true;
    while (!take(c, ')')) {
        if (!comma)
            return fail_expected(c, "',' or ')' in the shape");
        if (out->rank == FLASHC_NPY_MAX_RANK)
            return flashc_npy_fail(c->message, c->message_size, "header: the shape has more than %d axes",
                                   FLASHC_NPY_MAX_RANK);
        if (!take_dimension(c, out->rank, &out->shape[out->rank]))
            return false;
        out->rank++;
        comma = take(c, ',');
    }
    if (out->rank == 1 && !comma)
        return flashc_npy_fail(c->message, c->message_size, "header: the shape (%lld) is not a tuple: expected (%lld,)",
                               (long long)out->shape[0], (long long)out->shape[0]);
    return true;
}

static bool take_order(cursor *c, flashc_npy_header *out)
{
    skip_space(c);
    out->fortran_order = take_word(c, "True");
    return out->fortran_order || take_word(c, "False") || fail_expected(c, "True or False");
}

static bool take_descr(cursor *c, flashc_npy_header *out)
{
    const char *text = NULL;
    size_t length = 0;
    skip_space(c);
    if (c->at < c->end && (*c->at == '[' || *c->at == '('))
        return flashc_npy_fail(c->message, c->message_size,
                               "header: a structured dtype cannot be read: expected one number per element");
    return take_string(c, "a quoted dtype", &text, &length) &&
           flashc_npy_parse_descr(text, length, out, c->message, c->message_size);
}

/* The whole dict: exactly these keys, each once, in any order. */
static bool take_dict(cursor *c, flashc_npy_header *out)
{
    static const struct {
        const char *key;
        bool (*take_value)(cursor *c, flashc_npy_header *out);
    } keys[] = {{"descr", take_descr}, {"fortran_order", take_order}, {"shape", take_shape}};
    enum { KEYS = sizeof keys / sizeof keys[0] };
    bool seen[KEYS] = {false};

    if (!take(c, '{'))
        return fail_expected(c, "'{'");
    bool comma = true;
    while (!take(c, '}')) {
        const char *text = NULL;
        size_t length = 0;
        if (!comma)
            return fail_expected(c, "',' or '}'");
        if (!take_string(c, "a quoted key", &text, &length))
            return false;
        size_t k = 0;
        while (k < KEYS && (strlen(keys[k].key) != length || memcmp(text, keys[k].key, length) != 0))
            k++;
        if (k == KEYS || seen[k]) {
            char shown[24];
            flashc_npy_printable(text, length, shown, sizeof shown);
            return flashc_npy_fail(c->message, c->message_size,
                                   k == KEYS ? "header: unknown key '%s': expected descr, fortran_order and shape"
                                             : "header: key '%s' twice",
                                   shown);
        }
        seen[k] = true;
        if (!take(c, ':'))
            return fail_expected(c, "':'");
        if (!keys[k].take_value(c, out))
            return false;
        comma = take(c, ',');
    }
    for (size_t k = 0; k < KEYS; k++)
        if (!seen[k])
            return flashc_npy_fail(c->message, c->message_size, "header: key '%s' is missing", keys[k].key);
    skip_space(c);
    return c->at == c->end || fail_expected(c, "nothing after '}'");
}

/* Shape times element size against 64 bits and against the file, before anybody allocates. */
static bool check_size(flashc_npy_header *out, uint64_t file_size, char *message, size_t message_size)
{
    if (flashc_npy_extent(out->rank, out->shape, out->item_size) == 0)
        return flashc_npy_fail(message, message_size, "header: the shape asks for 2^63 bytes or more");
    out->count = 1;
    for (int axis = 0; axis < out->rank; axis++)
        out->count *= out->shape[axis];
    uint64_t promised = (uint64_t)out->count * out->item_size;
    uint64_t held = file_size - out->data_offset;
    if (file_size != FLASHC_NPY_SIZE_UNKNOWN && promised > held)
        return flashc_npy_fail(message, message_size,
                               "truncated: header promises %llu bytes of data, the file holds %llu",
                               (unsigned long long)promised, (unsigned long long)held);
    return true;
}

bool flashc_npy_parse_header(const void *bytes, size_t n_bytes, uint64_t file_size, flashc_npy_header *out,
                             char *message, size_t message_size)
{
    *out = (flashc_npy_header){0};
    size_t end;
    if (!flashc_npy_bytes_needed(bytes, n_bytes, &end, message, message_size))
        return false;
    /* Until the preamble is complete, `end` is only where that ends: n_bytes is smaller then. */
    if (n_bytes < end || file_size < end)
        return flashc_npy_fail(message, message_size, "truncated: header needs %zu bytes, the file holds %llu", end,
                               n_bytes < end ? (unsigned long long)n_bytes : (unsigned long long)file_size);
    const char *text = bytes;
    size_t preamble = text[6] == 1 ? FLASHC_NPY_MIN_PREAMBLE : FLASHC_NPY_MAX_PREAMBLE;
    if (end == preamble || text[end - 1] != '\n')
        return flashc_npy_fail(message, message_size, "header: expected a newline as its last character");
    cursor c = {text + preamble, text + preamble, text + end, text[6] < 3, message, message_size};
    out->data_offset = end;
    return take_dict(&c, out) && check_size(out, file_size, message, message_size);
}
