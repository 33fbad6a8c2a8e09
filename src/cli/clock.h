#ifndef FLASHC_CLI_CLOCK_H
#define FLASHC_CLI_CLOCK_H

/* Seconds of a clock that never goes back. */
double flashc_cli_now(void);

/* Seconds of CPU time that this process has had, all threads together. */
double flashc_cli_cpu_seconds(void);

#endif
