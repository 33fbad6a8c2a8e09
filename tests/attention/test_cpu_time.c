/* num_threads = 1 is one thread: no other is made, and the process uses the CPU time of the caller's
 * thread. A program of its own, because the threads of earlier calls would spin for a while. */
#include "support/cmocka.h"
#include "support/kernels.h"

#include <dirent.h>
#include <time.h>

/* Rounding of the clocks, and what the kernel books on the process alone. */
static const double ALLOWED_SHARE = 0.03;
static const double ALLOWED_SECONDS = 0.005;
static const double MEASURED_SECONDS = 0.05;

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* -1 where /proc does not tell. */
static int count_threads(void)
{
    DIR *tasks = opendir("/proc/self/task");
    int count = 0;
    if (tasks == NULL)
        return -1;
    while (readdir(tasks) != NULL)
        count++;
    closedir(tasks);
    return count;
}

static void one_thread(const char *kernel)
{
    /* The last two have tiles whose products are too large for OpenBLAS's small-matrix path. */
    static const problem_shape shapes[] = {
        {1, 2, 2, 512, 512, 64, 64},
        {1, 2, 2, 300, 500, 80, 80},
        {1, 1, 1, 256, 512, 512, 512},
        {1, 1, 1, 130, 300, 1000, 900},
    };
    for (size_t n = 0; n < sizeof shapes / sizeof shapes[0]; n++) {
        problem p = problem_on(kernel, shapes[n], FLASHC_F32, 61);
        p.params.num_threads = 1;
        int threads = count_threads();
        double process = seconds(CLOCK_PROCESS_CPUTIME_ID), thread = seconds(CLOCK_THREAD_CPUTIME_ID);
        double begin = thread;
        while (seconds(CLOCK_THREAD_CPUTIME_ID) - begin < MEASURED_SECONDS)
            run_problem(&p);
        thread = seconds(CLOCK_THREAD_CPUTIME_ID) - thread;
        process = seconds(CLOCK_PROCESS_CPUTIME_ID) - process;
        if (process - thread > ALLOWED_SHARE * thread + ALLOWED_SECONDS)
            fail_msg("%s, head_dim %lld: the process used %.1f ms of CPU, the calling thread %.1f ms", kernel,
                     (long long)shapes[n].head_dim, 1e3 * process, 1e3 * thread);
        assert_int_equal(count_threads(), threads);
        problem_free(&p);
    }
}

int main(void)
{
    static kernel_check check = {one_thread};
    const struct CMUnitTest tests[] = {{"one_thread_is_one_thread", test_on_kernels, NULL, NULL, &check}};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
