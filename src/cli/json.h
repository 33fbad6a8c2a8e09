/* Writes one JSON value to a stream, indented; strings are escaped and always valid UTF-8. */
#ifndef FLASHC_CLI_JSON_H
#define FLASHC_CLI_JSON_H

#include <stdint.h>
#include <stdio.h>

typedef struct flashc_cli_json {
    FILE *out;
    int depth;
    int filled; /* bit d: the object or array at depth d has an item */
} flashc_cli_json;

/* key is the member's name in an object, NULL in an array and for the outermost value. */
void flashc_cli_json_begin(flashc_cli_json *json, FILE *out);
void flashc_cli_json_object(flashc_cli_json *json, const char *key);
void flashc_cli_json_array(flashc_cli_json *json, const char *key);
/* Ends the innermost object ('}') or array (']'); the outermost one with a newline. */
void flashc_cli_json_end(flashc_cli_json *json, char bracket);
void flashc_cli_json_string(flashc_cli_json *json, const char *key, const char *value); /* NULL: null */
void flashc_cli_json_int(flashc_cli_json *json, const char *key, int64_t value);
void flashc_cli_json_double(flashc_cli_json *json, const char *key, double value);      /* NaN, infinity: null */
void flashc_cli_json_bool(flashc_cli_json *json, const char *key, int value);
/* n numbers on one line. */
void flashc_cli_json_ints(flashc_cli_json *json, const char *key, int n, const int64_t *values);
void flashc_cli_json_doubles(flashc_cli_json *json, const char *key, int64_t n, const double *values);

#endif
