/* How many threads a call may have. (The one parallel region is in execute.c.) */
#ifndef FLASHC_THREADS_H
#define FLASHC_THREADS_H

#include "common.h"

/* What num_threads = 0 means: the OpenMP default, limited by affinity and cgroup quota. */
int flashc_default_threads(void);

/* libgomp lays out a team on the stack of the thread that opens it, about 90 bytes a member: a number of
 * threads that no machine has would end the process there. */
enum { FLASHC_MAX_THREADS = 1024 };

/* threads, at most FLASHC_MAX_THREADS, or 1 where more cannot run: in a forked child, or without OpenMP. */
int64_t flashc_threads_limit(int64_t threads);

/* Built with OpenMP? */
bool flashc_has_openmp(void);

#endif
