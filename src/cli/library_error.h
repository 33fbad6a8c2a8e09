/* Calls into the library that failed: its message, which begins with the name of a field, and where that came from. */
#ifndef FLASHC_CLI_LIBRARY_ERROR_H
#define FLASHC_CLI_LIBRARY_ERROR_H

/* A field of the library's structs, as its messages have it, and what it is read from. */
typedef struct flashc_cli_field {
    const char *name, *option, *path; /* path NULL: the option is not given */
} flashc_cli_field;

/* The fields that the command line gives, which live as long as the program; the last one's name is NULL. */
void flashc_cli_library_fields(const flashc_cli_field *fields);

/* Prints the library's message, behind the option and the file where it is about one of these fields; returns
 * FLASHC_CLI_FAILED. */
int flashc_cli_library_error(void);

#endif
