/*
 * How long a team of threads takes for a list of items: a simulation, pure, of what the library does. Threads take the
 * items in order from one counter, whichever is free takes the next. Computing is each thread's own; waiting for
 * memory is shared: the more of the bandwidth is in use, the longer every byte takes.
 */
#ifndef FLASHC_CLI_MAKESPAN_H
#define FLASHC_CLI_MAKESPAN_H

#include <stdbool.h>
#include <stdint.h>

/* One item, alone on a machine whose memory were infinitely fast, and what it reads from memory. */
typedef struct flashc_makespan_item {
    double seconds, bytes;
} flashc_makespan_item;

/* A byte delays a thread by wait + queue / bandwidth * u / (1 - u) seconds, u being the share of the bandwidth that all
 * threads together use at that moment: with queue = 1 the mean time in the queue of a single server (M/M/1) whose
 * service of a byte takes 1 / bandwidth. Traffic never reaches the bandwidth. */
typedef struct flashc_makespan_memory {
    double bandwidth; /* bytes per second of the whole machine, > 0; INFINITY: without a limit */
    double wait;      /* seconds a byte, what computing hides not counted */
    double queue;     /* > 0 */
} flashc_makespan_memory;

/* Where the threads' time goes: of each thread seconds = start + computing + waiting + idling; the last three are means
 * over threads. */
typedef struct flashc_makespan {
    double seconds;    /* from the call to its return */
    double start;      /* before the items begin */
    double computing, waiting, idle;
    double longest;    /* the longest item, as it ran */
} flashc_makespan;

/* threads >= 1. False: no memory. */
bool flashc_makespan_simulate(int64_t count, const flashc_makespan_item *items, int threads, double start,
                              const flashc_makespan_memory *memory, flashc_makespan *out);

/* What keeps the time from being shorter, in a word or three: the largest of its parts. */
const char *flashc_makespan_limit(const flashc_makespan *m);

#endif
