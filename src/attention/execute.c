/*
 * The one parallel region. Threads take items from an atomic counter; an item owns its output rows, or a node
 * of the tree in which theirs are merged, so neither the number of threads nor the order of items can change a bit.
 *
 * With OpenBLAS the region is opened for one thread too: its OpenMP build starts threads of its own unless it finds
 * itself in a parallel region or with a team size of 1, and a team of one does not count as a parallel region
 * (omp_in_parallel() is false there). omp_set_num_threads() inside the region sets the size for that worker's own inner
 * regions only; the host's setting is not touched. Elsewhere one thread needs no region: it costs system calls (0.4 of
 * the 1.15 microseconds of the smallest call).
 */
#include "attention/execute.h"

#include "attention/item.h"
#include "attention/score_outputs.h"
#include "cpu.h"

#include <stdatomic.h>
#include <stdlib.h>

#ifdef _OPENMP
#include <omp.h>
#endif

typedef struct run {
    const flashc_problem *problem;
    const flashc_plan *plan;
    char *workspace;
    void (*run_item)(const flashc_problem *, const flashc_plan *, int64_t, const flashc_worker *);
    int64_t num_items, total; /* of this pass, of the call */
    atomic_int_least64_t next, done; /* of this pass, of the call */
    atomic_bool cancelled;
    int64_t reported; /* the calling thread's: done as the callback last heard it */
} run;

/* One thread of the team. */
typedef struct member {
    run *r;
    int slot; /* 0 is the calling thread */
    unsigned float_mode;
    unsigned tiles;
} member;

/* In the caller's floating-point mode: the callback is its code. */
static void report(run *r)
{
    const flashc_problem *p = r->problem;
    r->reported = atomic_load(&r->done);
    if (p->progress(p->progress_user_data, r->reported, r->total) != 0)
        atomic_store(&r->cancelled, true);
}

/* Key tiles between two calls of the callback inside an item: about a millisecond. */
enum { TILES_PER_REPORT = 64 };

static void report_progress(const member *m)
{
    if (m->slot != 0 || !m->r->problem->progress)
        return;
    flashc_cpu_restore_float_mode(m->float_mode);
    report(m->r);
    flashc_cpu_default_float_mode();
}

static bool keep_going(void *context)
{
    member *m = context;
    if (++m->tiles % TILES_PER_REPORT == 0)
        report_progress(m);
    return !atomic_load_explicit(&m->r->cancelled, memory_order_relaxed);
}

static void work(run *r, int slot)
{
    member m = {.r = r, .slot = slot, .float_mode = flashc_cpu_default_float_mode()};
    const flashc_worker worker = {
        .workspace = r->workspace, .slot = slot, .keep_going = keep_going, .context = &m};
    while (!atomic_load_explicit(&r->cancelled, memory_order_relaxed)) {
        const int64_t index = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed);
        if (index >= r->num_items)
            break;
        r->run_item(r->problem, r->plan, index, &worker);
        if (atomic_load_explicit(&r->cancelled, memory_order_relaxed))
            break;
        atomic_fetch_add_explicit(&r->done, 1, memory_order_relaxed);
        report_progress(&m);
    }
    flashc_cpu_restore_float_mode(m.float_mode);
}

static void run_pass(run *r)
{
    atomic_store(&r->next, 0);
#ifdef _OPENMP
    if (r->plan->num_threads == 1 && !r->plan->kernel->uses_openblas) {
        work(r, 0);
        return;
    }
#pragma omp parallel num_threads(r->plan->num_threads)
    {
        omp_set_num_threads(1);
        work(r, omp_get_thread_num());
    }
#else
    work(r, 0);
#endif
}

int64_t flashc_execute_items(const flashc_problem *problem, const flashc_plan *plan)
{
    return plan->num_items + flashc_score_outputs_items(problem, plan);
}

flashc_status flashc_execute(const flashc_problem *problem, const flashc_plan *plan, void *workspace,
                             flashc_progress *progress)
{
    const int64_t outputs = flashc_score_outputs_items(problem, plan);
    if (plan->num_items == 0 && outputs == 0)
        return FLASHC_OK;
    run r = {.problem = problem,
             .plan = plan,
             .workspace = workspace,
             .run_item = flashc_item_run,
             .num_items = plan->num_items,
             .total = progress->total,
             .reported = progress->done};
    atomic_init(&r.done, progress->done);
    flashc_items_prepare(plan, workspace);
    if (plan->num_items > 0)
        run_pass(&r);
    if (outputs > 0 && !atomic_load(&r.cancelled)) {
        r.run_item = flashc_score_outputs_run;
        r.num_items = outputs;
        run_pass(&r);
    }
    progress->done = atomic_load(&r.done);
    /* The other threads may have done the last items, or all. */
    if (problem->progress && r.reported < r.total && progress->done == r.total && !atomic_load(&r.cancelled))
        report(&r);
    if (atomic_load(&r.cancelled))
        return flashc_fail(FLASHC_ERR_CANCELLED, "progress: the callback cancelled the call after %lld of %lld items",
                           (long long)progress->done, (long long)r.total);
    return FLASHC_OK;
}

flashc_status flashc_workspace_begin(const flashc_problem *problem, const flashc_plan *plan, void **workspace)
{
    *workspace = NULL;
    if (flashc_execute_items(problem, plan) == 0)
        return FLASHC_OK;
    if (!problem->workspace) {
        *workspace = aligned_alloc(FLASHC_ALIGNMENT, plan->workspace_size);
        if (*workspace)
            return FLASHC_OK;
        return flashc_fail(FLASHC_ERR_MEMORY, "workspace: could not allocate %zu bytes", plan->workspace_size);
    }
    if ((uintptr_t)problem->workspace % FLASHC_ALIGNMENT != 0)
        return flashc_fail(FLASHC_ERR_WORKSPACE, "workspace: expected an address aligned to %d bytes, found %p",
                           FLASHC_ALIGNMENT, problem->workspace);
    if (problem->workspace_size < plan->workspace_size)
        return flashc_fail(FLASHC_ERR_WORKSPACE, "workspace_size: expected at least %zu bytes, found %zu",
                           plan->workspace_size, problem->workspace_size);
    *workspace = problem->workspace;
    return FLASHC_OK;
}

void flashc_workspace_end(const flashc_problem *problem, void *workspace)
{
    if (workspace != problem->workspace)
        free(workspace);
}
