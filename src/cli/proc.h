/* What the system tells about the processor and memory, in the files of /proc and /sys. */
#ifndef FLASHC_CLI_PROC_H
#define FLASHC_CLI_PROC_H

#include <stdint.h>

/* First line of a file without its newline, into line, which is returned; "" if it cannot be read. */
const char *flashc_proc_line(const char *path, char *line, int size);

/* The whole number after `key` at the start of a line, e.g. "VmRSS:"; key "": of a file that is one
 * number. -1 if there is none. */
int64_t flashc_proc_number(const char *path, const char *key);

/* The processor's name as the system gives it, into name, which is returned; "unknown" if it does not. */
const char *flashc_proc_cpu_name(char *name, int size);

/* Bytes that this process could still take without pushing others out, as far as the system says;
 * `unknown` where it does not. */
int64_t flashc_proc_available_memory(int64_t unknown);

/* The growth of this process's resident memory at its peak: start returns a mark, since the bytes
 * beyond it, -1 if the system does not say. */
int64_t flashc_proc_peak_start(void);
int64_t flashc_proc_peak_since(int64_t mark);

#endif
