#include "cli/progress.h"

#include "cli/clock.h"
#include "cli/interrupt.h"

#include <stdio.h>
#include <unistd.h>

enum { BAR_WIDTH = 40 };
static const double FIRST_AFTER = 1.0, REDRAW_AFTER = 0.1; /* seconds */

static int draw(void *user_data, int64_t done, int64_t total)
{
    flashc_cli_progress *progress = user_data;
    const double now = flashc_cli_now();
    if (now - progress->start < FIRST_AFTER || now - progress->last_drawn < REDRAW_AFTER || total < 1)
        return 0;
    char bar[BAR_WIDTH + 1];
    const double share = ((double)progress->part + (double)done / (double)total) / (double)progress->parts;
    for (int i = 0; i < BAR_WIDTH; i++)
        bar[i] = i < (int)(share * BAR_WIDTH) ? '#' : '.';
    bar[BAR_WIDTH] = '\0';
    flashc_cli_interrupt_line_open(1);
    fprintf(stderr, "\r[%s] %3.0f %%", bar, 100 * share);
    progress->last_drawn = now;
    progress->drawn = 1;
    return 0;
}

void flashc_cli_progress_begin(flashc_cli_progress *progress, int quiet, flashc_attention_params *params)
{
    *progress = (flashc_cli_progress){.start = flashc_cli_now(), .parts = 1};
    if (quiet || !isatty(STDERR_FILENO))
        return;
    params->progress = draw;
    params->progress_user_data = progress;
}

void flashc_cli_progress_end(flashc_cli_progress *progress)
{
    if (!progress->drawn)
        return;
    fprintf(stderr, "\r%*s\r", BAR_WIDTH + 8, "");
    flashc_cli_interrupt_line_open(0);
    progress->drawn = 0;
}
