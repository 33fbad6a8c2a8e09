/*
 * Ctrl-C and its kin. A handler removes what was half written and ends the process with 128 + the signal's
 * number: at once, whatever the program is doing, be it reading, computing or waiting for a pipe.
 */
#ifndef FLASHC_CLI_INTERRUPT_H
#define FLASHC_CLI_INTERRUPT_H

/* Takes SIGINT, SIGTERM and SIGHUP, unless the parent had them ignored (nohup). Ignores SIGPIPE, so that a reader
 * that left is an error with a message. */
void flashc_cli_interrupt_install(void);

/* Between these two the signals wait: for steps that must happen together. */
void flashc_cli_interrupt_hold(void);
void flashc_cli_interrupt_release(void);

/* Whether an unfinished line stands on the terminal, which the handler has to end. */
void flashc_cli_interrupt_line_open(int open);

#endif
