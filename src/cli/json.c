#include "cli/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of the valid UTF-8 sequence at s, 0 if there is none (RFC 3629: no overlong forms, no surrogates). */
static int utf8_length(const unsigned char *s)
{
    if (s[0] < 0x80)
        return 1;
    if (s[0] >= 0xC2 && s[0] <= 0xDF)
        return (s[1] & 0xC0) == 0x80 ? 2 : 0;
    if ((s[1] & 0xC0) != 0x80 || (s[2] & 0xC0) != 0x80)
        return 0;
    if (s[0] >= 0xE0 && s[0] <= 0xEF) {
        const int overlong = s[0] == 0xE0 && s[1] < 0xA0;
        const int surrogate = s[0] == 0xED && s[1] > 0x9F;
        return overlong || surrogate ? 0 : 3;
    }
    if (s[0] < 0xF0 || s[0] > 0xF4 || (s[3] & 0xC0) != 0x80)
        return 0;
    return (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F) ? 0 : 4;
}

static void write_string(FILE *out, const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    fputc('"', out);
    while (*s) {
        const int length = utf8_length(s);
        if (*s == '"' || *s == '\\')
            fprintf(out, "\\%c", *s);
        else if (*s == '\n')
            fputs("\\n", out);
        else if (*s < 0x20 || *s == 0x7F)
            fprintf(out, "\\u%04x", *s);
        else if (length == 0)
            fputs("\\ufffd", out); /* file names need not be UTF-8, JSON must be */
        else
            fwrite(s, 1, (size_t)length, out);
        s += length ? length : 1;
    }
    fputc('"', out);
}

static void write_double(FILE *out, double value)
{
    char text[32];
    if (!isfinite(value)) {
        fputs("null", out);
        return;
    }
    /* The shortest of the usual forms that reads back as the same number. */
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    fputs(text, out);
}

/* What stands before any item: comma, line break, indentation, key. */
static void start_item(flashc_cli_json *json, const char *key)
{
    if (json->depth > 0)
        fprintf(json->out, "%s\n%*s", json->filled & (1 << json->depth) ? "," : "", 2 * json->depth, "");
    json->filled |= 1 << json->depth;
    if (key) {
        write_string(json->out, key);
        fputs(": ", json->out);
    }
}

static void open_bracket(flashc_cli_json *json, const char *key, char bracket)
{
    start_item(json, key);
    fputc(bracket, json->out);
    json->depth++;
    json->filled &= ~(1 << json->depth);
}

void flashc_cli_json_begin(flashc_cli_json *json, FILE *out)
{
    *json = (flashc_cli_json){.out = out};
}

void flashc_cli_json_object(flashc_cli_json *json, const char *key)
{
    open_bracket(json, key, '{');
}

void flashc_cli_json_array(flashc_cli_json *json, const char *key)
{
    open_bracket(json, key, '[');
}

void flashc_cli_json_end(flashc_cli_json *json, char bracket)
{
    const int was_filled = json->filled & (1 << json->depth);
    json->depth--;
    if (was_filled)
        fprintf(json->out, "\n%*s", 2 * json->depth, "");
    fputc(bracket, json->out);
    if (json->depth == 0)
        fputc('\n', json->out);
}

void flashc_cli_json_string(flashc_cli_json *json, const char *key, const char *value)
{
    start_item(json, key);
    if (value)
        write_string(json->out, value);
    else
        fputs("null", json->out);
}

void flashc_cli_json_int(flashc_cli_json *json, const char *key, int64_t value)
{
    start_item(json, key);
    fprintf(json->out, "%lld", (long long)value);
}

void flashc_cli_json_double(flashc_cli_json *json, const char *key, double value)
{
    start_item(json, key);
    write_double(json->out, value);
}

void flashc_cli_json_bool(flashc_cli_json *json, const char *key, int value)
{
    start_item(json, key);
    fputs(value ? "true" : "false", json->out);
}

void flashc_cli_json_ints(flashc_cli_json *json, const char *key, int n, const int64_t *values)
{
    start_item(json, key);
    fputc('[', json->out);
    for (int i = 0; i < n; i++)
        fprintf(json->out, "%s%lld", i ? ", " : "", (long long)values[i]);
    fputc(']', json->out);
}

void flashc_cli_json_doubles(flashc_cli_json *json, const char *key, int64_t n, const double *values)
{
    start_item(json, key);
    fputc('[', json->out);
    for (int64_t i = 0; i < n; i++) {
        fputs(i ? ", " : "", json->out);
        write_double(json->out, values[i]);
    }
    fputc(']', json->out);
}
