#include "cli/peak.h"

#include "cli/clock.h"
#include "cli/peak_loops.h"
#include "cli/proc.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(_OPENMP)
#include <omp.h>
#endif

/* Other processes only ever make this slower, so the best moment is the limit: each thread runs the loop again
 * and again and notes when, and what counts is the stretch of FMA_WINDOW_SECONDS in which all of them together
 * did most. It is shorter than a scheduler's time slice: on a busy machine some such stretch is undisturbed.
 * The warm-up lets the clock settle to what it sustains under this load. */
#define FMA_WARM_UP_SECONDS 0.03
#define FMA_WINDOW_SECONDS 0.002
#define FMA_STEP_SECONDS 0.0002 /* between two notes */
#define FMA_RUN_SECONDS 0.1
/* Runs, until one finds nothing faster. Where the threads together did not come near to what each did at its
 * best, they share cores, or other processes are in the way: more runs tell. */
enum { FMA_RUNS_MIN = 2, FMA_RUNS_MAX = 20, FMA_NOTES = 2048 };
#define FMA_FASTER 1.005
#define FMA_NEAR 0.9
/* Whole passes: parts of the buffer may lie in the cache, and must not be what is found fastest. */
#define READ_ROUNDS 5

#define MIB ((int64_t)1 << 20)
#define READ_BUFFER_MAX (1024 * MIB)
#define READ_BUFFER_MIN (16 * MIB)
#define CACHE_SIZE_GUESS (64 * MIB) /* where the system does not say: more than most have */
#define READ_GRANULE ((size_t)4096) /* slices end on pages, and so on the read loops' 512 bytes */

/* One task that every thread of a team does at the same time. */
typedef struct team_task {
    void (*run)(void *context, int thread, int team);
    void *context;
} team_task;

/* Runs task on up to `threads` threads; returns the seconds from the first thread's start to the last one's end
 * (making the team and waking it up are not part of it), and the size of the team that really ran. */
static double run_team(int threads, const team_task *task, int *team)
{
    double start = (double)INFINITY, end = 0.0;
    int size = 1;
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads) reduction(min : start) reduction(max : end)
    {
#pragma omp single
        size = omp_get_num_threads();
        /* All are here: single ends with a barrier. */
        start = flashc_cli_now();
        task->run(task->context, omp_get_thread_num(), size);
        end = flashc_cli_now();
    }
#else
    (void)threads;
    start = flashc_cli_now();
    task->run(task->context, 0, 1);
    end = flashc_cli_now();
#endif
    *team = size;
    return end - start;
}

/* When a thread ended each of its steps: times[0] is its start. */
typedef struct notes {
    int count;
    double times[FMA_NOTES];
} notes;

typedef struct arithmetic {
    void (*loop)(int64_t rounds);
    int64_t rounds; /* of a step */
    notes *threads; /* one for each */
} arithmetic;

static void run_arithmetic(void *context, int thread, int team)
{
    (void)team;
    const arithmetic *work = context;
    notes *mine = &work->threads[thread];
    double time = flashc_cli_now();
    mine->times[0] = time;
    for (mine->count = 1; mine->count < FMA_NOTES && time < mine->times[0] + FMA_RUN_SECONDS; mine->count++) {
        work->loop(work->rounds);
        time = flashc_cli_now();
        mine->times[mine->count] = time;
    }
}

/* How many steps a thread had done at a time, parts of steps included. */
static double steps_until(const notes *thread, double time)
{
    int low = 0, high = thread->count - 1;
    if (time <= thread->times[0])
        return 0.0;
    if (time >= thread->times[high])
        return high;
    while (high - low > 1) {
        const int middle = low + (high - low) / 2;
        if (thread->times[middle] <= time)
            low = middle;
        else
            high = middle;
    }
    return low + (time - thread->times[low]) / (thread->times[high] - thread->times[low]);
}

/* Steps per second of these threads together in their best window, of those that begin at a note of the first. */
static double best_window(const notes *threads, int team)
{
    double best = 0.0;
    for (int i = 0; i < threads[0].count; i++) {
        const double start = threads[0].times[i], end = start + FMA_WINDOW_SECONDS;
        if (start < threads[0].times[0] + FMA_WARM_UP_SECONDS)
            continue;
        double steps = 0.0;
        for (int t = 0; t < team; t++)
            steps += steps_until(&threads[t], end) - steps_until(&threads[t], start);
        best = fmax(best, steps / FMA_WINDOW_SECONDS);
    }
    return best;
}

/* How many rounds of the loop take about FMA_STEP_SECONDS. The fastest of a few tries decides: one that was
 * interrupted would make steps too short, of which the time is mostly that of the clock. */
static int64_t rounds_of_step(void (*loop)(int64_t))
{
    for (int64_t rounds = 1000;; rounds *= 2) {
        double fastest = (double)INFINITY;
        for (int i = 0; i < 5; i++) {
            const double start = flashc_cli_now();
            loop(rounds);
            fastest = fmin(fastest, flashc_cli_now() - start);
        }
        if (fastest > FMA_STEP_SECONDS / 2)
            return rounds;
    }
}

/* Operations per second of `loop`, all threads together; *team says how many ran. 0 without memory. Does not look
 * closely if more than `known` is out of reach. */
static double best_rate(void (*loop)(int64_t), double flops_per_round, int threads, double known, int *team)
{
    arithmetic work = {.loop = loop, .rounds = rounds_of_step(loop)};
    const double flops_per_step = flops_per_round * (double)work.rounds;
    double best = 0.0, best_alone = 0.0; /* of all together, of one */
    work.threads = malloc((size_t)threads * sizeof *work.threads);
    for (int run = 0; work.threads != NULL && run < FMA_RUNS_MAX; run++) {
        run_team(threads, &(team_task){run_arithmetic, &work}, team);
        const double rate = flops_per_step * best_window(work.threads, *team);
        for (int t = 0; t < *team; t++)
            best_alone = fmax(best_alone, flops_per_step * best_window(&work.threads[t], 1));
        const bool faster = rate > FMA_FASTER * best;
        best = fmax(best, rate);
        const double possible = best_alone * *team;
        if (run + 1 >= FMA_RUNS_MIN && !faster && (best > FMA_NEAR * possible || possible < known))
            break;
    }
    free(work.threads);
    return best;
}

void flashc_measure_fma_peak(int threads, flashc_fma_peak *out)
{
    *out = (flashc_fma_peak){.isa = "", .threads = 1};
    /* Wider is not always faster (one unit of 512 bits, a lower clock), so all that run are timed. */
    void (*timed)(int64_t) = NULL;
    for (const flashc_peak_loop *const *row = flashc_peak_loops; *row != NULL; row++) {
        const flashc_peak_loop *loop = *row;
        if (!loop->usable() || loop->f32 == timed) /* a row with bf16 and one without share the loop */
            continue;
        timed = loop->f32;
        int team = 1;
        const double gflops = 1e-9 * best_rate(loop->f32, loop->f32_flops, threads, 1e9 * out->gflops, &team);
        if (loop->is_avx2)
            out->avx2_gflops = gflops;
        if (gflops > out->gflops) {
            out->gflops = gflops;
            out->isa = loop->isa;
            out->threads = team;
        }
        if (loop->bf16 != NULL && out->bf16_gflops == 0.0)
            out->bf16_gflops = 1e-9 * best_rate(loop->bf16, loop->bf16_flops, threads, 0.0, &team);
    }
}

static int64_t last_level_cache_size(void)
{
    long size = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
    size = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (size <= 0)
        size = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return size > 0 ? size : 0;
}

int64_t flashc_read_buffer_size(void)
{
    const int64_t cache = last_level_cache_size();
    int64_t size = 4 * (cache > 0 ? cache : CACHE_SIZE_GUESS);
    if (size > READ_BUFFER_MAX)
        size = READ_BUFFER_MAX;
    const int64_t third = flashc_proc_available_memory(READ_BUFFER_MAX) / 3;
    if (size > third)
        size = third;
    return size < READ_BUFFER_MIN ? READ_BUFFER_MIN : size;
}

typedef struct reading {
    unsigned char *data;
    size_t size;
    void (*loop)(const void *data, size_t n);
} reading;

/* Where thread's part of the buffer starts; thread == team is its end. */
static size_t slice_start(const reading *work, int thread, int team)
{
    return work->size / READ_GRANULE * (size_t)thread / (size_t)team * READ_GRANULE;
}

/* Pages must be written once: untouched ones are all the same page of zeros, and stay in the cache. */
static void run_touch(void *context, int thread, int team)
{
    const reading *work = context;
    const size_t start = slice_start(work, thread, team), end = slice_start(work, thread + 1, team);
    memset(work->data + start, thread + 1, end - start);
}

static void run_read(void *context, int thread, int team)
{
    const reading *work = context;
    const size_t start = slice_start(work, thread, team), end = slice_start(work, thread + 1, team);
    if (end > start) /* more threads than pages */
        work->loop(work->data + start, end - start);
}

void flashc_measure_read_bandwidth(int threads, flashc_read_bandwidth *out)
{
    *out = (flashc_read_bandwidth){.threads = 1, .cache_size = last_level_cache_size()};
    reading work = {.size = (size_t)flashc_read_buffer_size()};
    void *data = MAP_FAILED;
    /* A limit that the system did not tell (ulimit -v) shows here: try less. */
    while (work.size >= (size_t)READ_BUFFER_MIN) {
        data = mmap(NULL, work.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (data != MAP_FAILED)
            break;
        work.size /= 2;
    }
    if (data == MAP_FAILED)
        return;
#if defined(MADV_HUGEPAGE)
    madvise(data, work.size, MADV_HUGEPAGE); /* the limit is the memory's, not the page table's; may fail */
#endif
    work.data = data;
    for (const flashc_peak_loop *const *row = flashc_peak_loops; work.loop == NULL && *row != NULL; row++)
        work.loop = (*row)->usable() ? (*row)->read : NULL;

    int team = 1;
    run_team(threads, &(team_task){run_touch, &work}, &team);
    const double bytes = (double)(work.size / READ_GRANULE * READ_GRANULE);
    for (int i = 0; i < READ_ROUNDS; i++) {
        const double seconds = run_team(threads, &(team_task){run_read, &work}, &team);
        const double rate = 1e-9 * bytes / seconds;
        if (rate > out->gbytes_per_second)
            out->gbytes_per_second = rate;
    }
    out->threads = team;
    out->buffer_size = (int64_t)bytes;
    munmap(data, work.size);
}
