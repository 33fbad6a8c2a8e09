/* What surrounds a call: other threads, the host's OpenMP, fork, small stacks. Nothing of it may change a result, and
 * the call may change nothing of it. (Floating-point modes: test_float_modes.c.) */
#include "support/cmocka.h"
#include "support/expect.h"
#include "support/kernels.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef _OPENMP
#include <omp.h>
#endif

static const problem_shape usual = {1, 4, 2, 130, 270, 80, 48};

/* Equal seeds give equal problems, whose results must have equal bits. */
static void make(problem *p, const char *kernel, int threads)
{
    *p = problem_on(kernel, usual, FLASHC_F32, 31);
    p->params.num_threads = threads;
}

/* One host thread's work. */
typedef struct host {
    problem p;
    int repeats;
    flashc_status status;
} host;

static void *call_repeatedly(void *argument)
{
    host *h = argument;
    for (int n = 0; n < h->repeats && h->status == FLASHC_OK; n++)
        h->status = flashc_attention_fwd(&h->p.params);
    return NULL;
}

enum { HOSTS = 8 };

static void many_hosts(const char *kernel)
{
    static host hosts[HOSTS];
    pthread_t threads[HOSTS];
    problem alone;
    make(&alone, kernel, 1);
    run_problem(&alone);
    for (int n = 0; n < HOSTS; n++) {
        hosts[n] = (host){.repeats = 5};
        make(&hosts[n].p, kernel, 1 + n % 3);
    }
    for (int n = 0; n < HOSTS; n++)
        assert_int_equal(pthread_create(&threads[n], NULL, call_repeatedly, &hosts[n]), 0);
    for (int n = 0; n < HOSTS; n++)
        assert_int_equal(pthread_join(threads[n], NULL), 0);
    for (int n = 0; n < HOSTS; n++) {
        assert_int_equal(hosts[n].status, FLASHC_OK);
        assert_same_bits(&alone, &hosts[n].p, "eight host threads at once");
        problem_free(&hosts[n].p);
    }
    problem_free(&alone);
}

static void small_stack(const char *kernel)
{
    static const size_t STACK = 128 * 1024;
    if (getenv("FLASHC_TEST_EMULATED")) {
        print_message("not run: a stack of 128 KiB on %s: the frames of emulated kernels are larger\n", kernel);
        return;
    }
    for (int threads = 1; threads <= 2; threads++) {
        host h = {.repeats = 1};
        problem alone;
        pthread_attr_t attributes;
        pthread_t thread;
        make(&alone, kernel, threads);
        make(&h.p, kernel, threads);
        run_problem(&alone);
        pthread_attr_init(&attributes);
        assert_int_equal(pthread_attr_setstacksize(&attributes, STACK), 0);
        assert_int_equal(pthread_create(&thread, &attributes, call_repeatedly, &h), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
        pthread_attr_destroy(&attributes);
        assert_int_equal(h.status, FLASHC_OK);
        assert_same_bits(&alone, &h.p, "on a stack of 128 KiB");
        problem_free(&alone);
        problem_free(&h.p);
    }
}

static void inside_parallel_region(const char *kernel)
{
#ifdef _OPENMP
    enum { TEAM = 3 };
    static problem members[TEAM];
    flashc_status status[TEAM];
    problem alone;
    make(&alone, kernel, 2);
    run_problem(&alone);
    for (int n = 0; n < TEAM; n++) {
        make(&members[n], kernel, n);
        status[n] = FLASHC_ERR_CANCELLED;
    }
    int levels = omp_get_max_active_levels(), inner = 0, reached = 0;
#pragma omp parallel num_threads(TEAM)
    {
        int me = omp_get_thread_num();
        status[me] = flashc_attention_fwd(&members[me].params);
#pragma omp critical
        {
            reached = omp_get_num_threads();
            inner += omp_get_thread_num();
        }
    }
    assert_int_equal(reached, TEAM);
    assert_int_equal(inner, 0 + 1 + 2);
    assert_int_equal(omp_get_max_active_levels(), levels);
    for (int n = 0; n < TEAM; n++) {
        assert_int_equal(status[n], FLASHC_OK);
        assert_same_bits(&alone, &members[n], "inside a parallel region of the host");
        problem_free(&members[n]);
    }
    problem_free(&alone);
#else
    print_message("not run: inside a host's parallel region on %s: built without OpenMP\n", kernel);
#endif
}

/* dl_iterate_phdr(): data takes a handle of OpenBLAS, which no default scope shows. */
static int find_openblas(struct dl_phdr_info *info, size_t size, void *data)
{
    (void)size;
    void **library = data;
    if (strstr(info->dlpi_name, "libopenblas") != NULL)
        *library = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
    return *library != NULL;
}

/* Thread counts of OpenMP and OpenBLAS, signal mask: as they were, for any number of threads asked for. */
static void global_state(const char *kernel)
{
    flashc_system_info system = {.struct_size = sizeof system};
    void *library = NULL;
    assert_int_equal(flashc_system_get(&system), FLASHC_OK);
    dl_iterate_phdr(find_openblas, &library);
    /* POSIX gives functions from dlsym() through an object pointer. */
    union {
        void *object;
        int (*function)(void);
    } blas = {library != NULL ? dlsym(library, "openblas_get_num_threads") : NULL};
    if (strncmp(system.blas, "OpenBLAS", 8) == 0)
        assert_non_null(blas.object);
    for (int threads = 0; threads <= 3; threads++) {
        problem p;
        sigset_t before, after;
        make(&p, kernel, threads);
        int blas_before = blas.object != NULL ? blas.function() : 0;
#ifdef _OPENMP
        int team_before = omp_get_max_threads(), dynamic_before = omp_get_dynamic();
#endif
        sigemptyset(&before);
        sigemptyset(&after);
        pthread_sigmask(SIG_SETMASK, NULL, &before);
        run_problem(&p);
        pthread_sigmask(SIG_SETMASK, NULL, &after);
        for (int signal = 1; signal < 32; signal++)
            assert_int_equal(sigismember(&before, signal), sigismember(&after, signal));
        assert_int_equal(blas.object != NULL ? blas.function() : 0, blas_before);
#ifdef _OPENMP
        assert_int_equal(omp_get_max_threads(), team_before);
        assert_int_equal(omp_get_dynamic(), dynamic_before);
#endif
        problem_free(&p);
    }
    if (library != NULL)
        dlclose(library);
}

/* Seconds until a child that does not answer counts as hung; a call takes milliseconds. */
enum { CHILD_TIMEOUT = 60 };

/* 0 if the child ended well in time. */
static int wait_for(pid_t child)
{
    int status = 0;
    for (int n = 0; n < CHILD_TIMEOUT * 100; n++) {
        if (waitpid(child, &status, WNOHANG) == child)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        usleep(10000);
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return -1;
}

static void after_fork(const char *kernel)
{
    problem parent, child;
    make(&parent, kernel, 2);
    make(&child, kernel, 2);
    run_problem(&parent);
#if defined(__SANITIZE_ADDRESS__)
    /* gcc's AddressSanitizer may leave its allocator locked in a child: there it must not allocate. */
    static _Alignas(64) unsigned char workspace[1 << 22];
    child.params.workspace = workspace;
    child.params.workspace_size = sizeof workspace;
#endif
    for (int n = 0; n < 2; n++) { /* the second: of a parent that went on after its first fork */
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            for (int repeat = 0; repeat < 2; repeat++) { /* both results must be right */
                child.params.num_threads = repeat == 0 ? 2 : 0;
                if (flashc_attention_fwd(&child.params) != FLASHC_OK)
                    _exit(2);
                for (problem_tensor which = TENSOR_O; which <= TENSOR_LSE; which++) {
                    if (memcmp(child.buffer[which].bytes, parent.buffer[which].bytes, child.buffer[which].size) != 0)
                        _exit(3);
                }
            }
            flashc_explanation plan = {.struct_size = sizeof plan};
            child.params.num_threads = 2;
            _exit(flashc_explain(&child.params, &plan) == FLASHC_OK && plan.num_threads == 1 ? 0 : 4);
        }
        int result = wait_for(pid);
        if (result != 0)
            fail_msg("%s: in a forked child: %s (%d)", kernel,
                     result == -1 ? "no answer"
                     : result == 2 ? "an error"
                     : result == 3 ? "a wrong result"
                     : result == 4 ? "explain expects more than one thread"
                                   : "a crash",
                     result);
        run_problem(&parent);
    }
    problem_free(&parent);
    problem_free(&child);
}

int main(void)
{
    static kernel_check checks[] = {
        {many_hosts}, {small_stack}, {inside_parallel_region}, {global_state}, {after_fork}};
    const struct CMUnitTest tests[] = {
        {"eight_host_threads_at_once", test_on_kernels, NULL, NULL, &checks[0]},
        {"stack_of_128_kib", test_on_kernels, NULL, NULL, &checks[1]},
        {"inside_a_parallel_region_of_the_host", test_on_kernels, NULL, NULL, &checks[2]},
        {"global_state_is_as_it_was", test_on_kernels, NULL, NULL, &checks[3]},
        {"in_a_child_after_fork", test_on_kernels, NULL, NULL, &checks[4]},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
