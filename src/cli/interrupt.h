/*
 * Ctrl-C and its kin. A handler removes what was half written and ends the process with 128 + the signal's
 * number: at once, whatever the program is doing, be it reading, computing or waiting for a pipe.
 */
#ifndef FLASHC_CLI_INTERRUPT_H
#define FLASHC_CLI_INTERRUPT_H

/* Takes SIGINT, SIGTERM, SIGHUP, SIGQUIT and SIGXCPU, unless the parent had them ignored (nohup). Ignores SIGPIPE
 * and SIGXFSZ, so that a reader that left and a file size limit are errors with a message. What is half written
 * also goes when a library ends the process, as libgomp does without a thread. */
void flashc_cli_interrupt_install(void);

/* Between these two the signals wait: for steps that must happen together. */
void flashc_cli_interrupt_hold(void);
void flashc_cli_interrupt_release(void);

/* Whether an unfinished line stands on the terminal, which the handler has to end. */
void flashc_cli_interrupt_line_open(int open);

#endif
