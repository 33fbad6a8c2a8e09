#include "cli/makespan.h"

#include <math.h>
#include <stdlib.h>

/* Bisections of the interval 0 .. 1. */
enum { BISECTIONS = 40 };

/* A thread at work. */
typedef struct worker {
    flashc_makespan_item item;
    double left;    /* of the item, 1 .. 0 */
    double started; /* when */
} worker;

static double delay_of_byte(const flashc_makespan_memory *memory, double used)
{
    return memory->wait + memory->queue / memory->bandwidth * used / (1.0 - used);
}

static double duration(const worker *w, double delay)
{
    return w->item.seconds + w->item.bytes * delay;
}

/* Bytes per second of all threads if a byte delays them so. */
static double traffic(int busy, const worker *workers, double delay)
{
    double sum = 0.0;
    for (int i = 0; i < busy; i++)
        if (workers[i].item.bytes > 0.0)
            sum += workers[i].item.bytes / duration(&workers[i], delay);
    return sum;
}

/* The delay at which the threads cause the traffic that causes this delay. Traffic falls as the share in use, and so
 * the delay, rises: there is one such point. */
static double settled_delay(int busy, const worker *workers, const flashc_makespan_memory *memory)
{
    double low = 0.0, high = 1.0;
    if (isinf(memory->bandwidth))
        return memory->wait;
    for (int i = 0; i < BISECTIONS; i++) {
        const double used = 0.5 * (low + high);
        if (traffic(busy, workers, delay_of_byte(memory, used)) > used * memory->bandwidth)
            low = used;
        else
            high = used;
    }
    return delay_of_byte(memory, low);
}

/* The thread that is done first. */
static int first_done(int busy, const worker *workers, double delay)
{
    int first = 0;
    for (int i = 1; i < busy; i++)
        if (workers[i].left * duration(&workers[i], delay) < workers[first].left * duration(&workers[first], delay))
            first = i;
    return first;
}

static void advance(int busy, worker *workers, double delay, double seconds, flashc_makespan *sum)
{
    for (int i = 0; i < busy; i++) {
        const double whole = duration(&workers[i], delay);
        const double done = whole > 0.0 ? fmin(workers[i].left, seconds / whole) : workers[i].left;
        workers[i].left -= done;
        sum->computing += done * workers[i].item.seconds;
        sum->waiting += done * workers[i].item.bytes * delay;
    }
}

static bool same_item(const flashc_makespan_item *a, const flashc_makespan_item *b)
{
    return a->seconds == b->seconds && a->bytes == b->bytes;
}

bool flashc_makespan_simulate(int64_t count, const flashc_makespan_item *items, int threads, double start,
                              const flashc_makespan_memory *memory, flashc_makespan *out)
{
    worker *workers = calloc((size_t)threads, sizeof *workers);
    if (workers == NULL)
        return false;
    int busy = 0;
    int64_t next = 0;
    for (; busy < threads && next < count; next++)
        workers[busy++] = (worker){.item = items[next], .left = 1.0};
    flashc_makespan sum = {.start = start};
    double time = 0.0, delay = settled_delay(busy, workers, memory);
    while (busy > 0) {
        const int first = first_done(busy, workers, delay);
        worker *w = &workers[first];
        const flashc_makespan_item done = w->item;
        const double seconds = w->left * duration(w, delay);
        advance(busy, workers, delay, seconds, &sum);
        time += seconds;
        sum.longest = fmax(sum.longest, time - w->started);
        const bool goes_on = next < count;
        *w = goes_on ? (worker){.item = items[next++], .left = 1.0, .started = time} : workers[--busy];
        if (!goes_on || !same_item(&done, &w->item)) /* otherwise the team does what it did */
            delay = settled_delay(busy, workers, memory);
    }
    free(workers);
    sum.seconds = start + time;
    sum.computing /= threads;
    sum.waiting /= threads;
    sum.idle = fmax(0.0, time - sum.computing - sum.waiting);
    *out = sum;
    return true;
}

const char *flashc_makespan_limit(const flashc_makespan *m)
{
    const double most = fmax(fmax(m->computing, m->waiting), fmax(m->idle, m->start));
    if (most == m->computing)
        return "arithmetic";
    if (most == m->waiting)
        return "memory";
    if (most == m->start)
        return "starting the threads";
    return m->longest > 0.9 * (m->seconds - m->start) ? "the longest item" : "too few items";
}
