#include "cli/interrupt.h"

#include "npy/npy.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGXCPU};
enum { NUM_SIGNALS = sizeof signals / sizeof signals[0] };

/* A mask of the calling thread would not hold the signals: a worker of OpenMP's team would take them. */
static volatile sig_atomic_t held, pending, line_open;

static void end_process(int number)
{
    flashc_npy_remove_temporaries();
    if (line_open && write(STDERR_FILENO, "\n", 1) < 0)
        line_open = 0;
    _exit(128 + number);
}

static void on_signal(int number)
{
    if (held)
        pending = number;
    else
        end_process(number);
}

void flashc_cli_interrupt_install(void)
{
    struct sigaction action = {.sa_handler = on_signal}, old;
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < NUM_SIGNALS; i++)
        sigaddset(&action.sa_mask, signals[i]);
    for (int i = 0; i < NUM_SIGNALS; i++)
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(signals[i], &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
    sigaction(SIGXFSZ, &action, NULL);
    atexit(flashc_npy_remove_temporaries);
}

void flashc_cli_interrupt_hold(void)
{
    held = 1;
}

void flashc_cli_interrupt_release(void)
{
    held = 0;
    if (pending)
        end_process(pending);
}

void flashc_cli_interrupt_line_open(int open)
{
    line_open = open;
}
