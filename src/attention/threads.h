/* Thread counts, and the one parallel region (in execute.c, which alone knows OpenMP). */
#ifndef FLASHC_THREADS_H
#define FLASHC_THREADS_H

#include "common.h"

/* What num_threads = 0 means: the OpenMP default, limited by affinity and cgroup quota. */
int flashc_default_threads(void);

/* threads, or 1 where more cannot run: in a forked child, or without OpenMP. */
int64_t flashc_threads_limit(int64_t threads);

/* Built with OpenMP? */
bool flashc_has_openmp(void);

#endif
