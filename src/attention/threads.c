#include "attention/threads.h"

#include "cpu.h"

#ifdef _OPENMP
#include <omp.h>
#endif

bool flashc_has_openmp(void)
{
#ifdef _OPENMP
    return true;
#else
    return false;
#endif
}

int flashc_default_threads(void)
{
#ifdef _OPENMP
    return (int)flashc_threads_limit(flashc_min(omp_get_max_threads(), flashc_cpu_count()));
#else
    return 1;
#endif
}

int64_t flashc_threads_limit(int64_t threads)
{
    return flashc_has_openmp() && !flashc_cpu_is_forked_child() ? flashc_min(threads, FLASHC_MAX_THREADS) : 1;
}
