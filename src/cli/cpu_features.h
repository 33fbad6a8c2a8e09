/* The environment variable FLASHC_DISABLE_CPU_FEATURES, in which the library looks for the names that it knows. */
#ifndef FLASHC_CLI_CPU_FEATURES_H
#define FLASHC_CLI_CPU_FEATURES_H

#include <stddef.h>

/* The names that there are, on any CPU, with ", " between them. */
extern const char flashc_cli_cpu_features[];

/* The words of the variable that are no such name, separated by blanks, into text, which is returned; "" if there are
 * none. What does not fit is left out. */
const char *flashc_cli_unknown_cpu_features(char *text, size_t size);

/* A line on standard error if there are some. */
void flashc_cli_warn_of_cpu_features(void);

#endif
