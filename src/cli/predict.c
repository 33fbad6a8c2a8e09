#include "cli/predict.h"

#include "cli/cli.h"
#include "cli/library_error.h"

#include <stdlib.h>

enum { DEFAULT_MOST_THREADS = 128 };
/* A team starts in microseconds, unless its threads do not get their CPUs at once. */
#define DISTURBED_TEAM_SECONDS 2e-4

/* Busy share of the threads' time. */
static double balance(const flashc_makespan *m)
{
    return m->seconds > 0.0 ? (m->computing + m->waiting) / m->seconds : 1.0;
}

/* The call with so many threads, as the library would plan it. */
static int predict(const flashc_attention_params *call, const flashc_calibration *measured, flashc_prediction *out)
{
    flashc_attention_params params = *call;
    flashc_explanation plan = {.struct_size = sizeof plan};
    params.num_threads = out->threads;
    flashc_status status = flashc_explain(&params, &plan);
    if (status != FLASHC_OK)
        return flashc_cli_library_error();
    out->team = plan.num_threads;
    out->items = plan.num_items;
    flashc_item_work *work = calloc((size_t)plan.num_items + 1, sizeof *work);
    if (work == NULL)
        return flashc_cli_error("no memory for %lld work items", (long long)plan.num_items);
    status = flashc_explain_items(&params, 0, plan.num_items, work);
    if (status == FLASHC_OK) {
        const flashc_cost_bytes bytes = flashc_costs_bytes(&params);
        const int code = flashc_calibration_simulate(measured, plan.num_items, work, &bytes, (int)plan.num_threads,
                                                     &out->makespan);
        free(work);
        return code;
    }
    free(work);
    return flashc_cli_library_error();
}

int flashc_predict(const flashc_cli_attention_args *args, const flashc_attention_params *params,
                   const flashc_explanation *plan, flashc_predictions *out)
{
    const int most = args->num_threads > 0 ? args->num_threads : DEFAULT_MOST_THREADS;
    *out = (flashc_predictions){.count = 0};
    if (plan->flops <= 0.0)
        return flashc_cli_error("--predict: this call computes nothing");
    int code = flashc_calibrate(args, params, plan, &out->measured);
    out->bandwidth = out->measured.memory.bandwidth;
    if (args->bandwidth > 0.0)
        out->measured.memory.bandwidth = 1e9 * args->bandwidth;
    for (int threads = 1; code == FLASHC_CLI_OK && out->count < FLASHC_MOST_PREDICTIONS; threads *= 2) {
        flashc_prediction *next = &out->list[out->count++];
        next->threads = threads < most ? threads : most;
        code = predict(params, &out->measured, next);
        if (threads >= most)
            break;
    }
    return code;
}

void flashc_predictions_print(const flashc_predictions *predictions, FILE *out)
{
    const flashc_calibration *m = &predictions->measured;
    fprintf(out, "measured  ");
    for (int c = 0; c < FLASHC_COSTS; c++)
        if (m->costs.seconds[c] > 0.0)
            fprintf(out, " %s %.3g ns,", flashc_cost_name((flashc_cost)c), 1e9 * m->costs.seconds[c]);
    fprintf(out, " team %.3g ns; within %.1f %% of %d timed calls\n", 1e9 * m->team, 100.0 * m->worst, m->samples);
    fprintf(out, "memory     %.1f GB/s with %d thread%s; a byte delays by %.3g ns, more under load (queue %.2f)\n",
            1e-9 * predictions->bandwidth, m->all_threads, m->all_threads == 1 ? "" : "s", 1e9 * m->memory.wait,
            m->memory.queue);
    if (m->team > DISTURBED_TEAM_SECONDS)
        fprintf(out, "           disturbed: a second thread took %.2g ms to start, so this machine does other work\n",
                1e3 * m->team);
    if (m->memory.bandwidth != predictions->bandwidth)
        fprintf(out, "           taken to be %.1f GB/s for all threads together\n", 1e-9 * m->memory.bandwidth);
    for (int i = 0; i < predictions->count; i++) {
        const flashc_prediction *p = &predictions->list[i];
        fprintf(out, "predicted  %10.3f ms with %4d thread%s balance %3.0f %%, limited by %s\n",
                1e3 * p->makespan.seconds, p->threads, p->threads == 1 ? ", " : "s,", 100.0 * balance(&p->makespan),
                flashc_makespan_limit(&p->makespan));
    }
}

void flashc_predictions_json(const flashc_predictions *predictions, flashc_cli_json *json)
{
    const flashc_calibration *m = &predictions->measured;
    flashc_cli_json_object(json, "costs");
    for (int c = 0; c < FLASHC_COSTS; c++)
        flashc_cli_json_double(json, flashc_cost_name((flashc_cost)c), m->costs.seconds[c]);
    flashc_cli_json_double(json, "team", m->team);
    flashc_cli_json_bool(json, "disturbed", m->team > DISTURBED_TEAM_SECONDS);
    flashc_cli_json_int(json, "samples", m->samples);
    flashc_cli_json_double(json, "worst_relative_error", m->worst);
    flashc_cli_json_end(json, '}');
    flashc_cli_json_object(json, "memory");
    flashc_cli_json_int(json, "threads", m->all_threads);
    flashc_cli_json_double(json, "gbytes_per_second", 1e-9 * predictions->bandwidth);
    flashc_cli_json_double(json, "gbytes_per_second_taken", 1e-9 * m->memory.bandwidth);
    flashc_cli_json_double(json, "wait_per_byte", m->memory.wait);
    flashc_cli_json_double(json, "queue", m->memory.queue);
    flashc_cli_json_int(json, "cache_bytes", (int64_t)m->cache_size);
    flashc_cli_json_end(json, '}');
    flashc_cli_json_array(json, "predictions");
    for (int i = 0; i < predictions->count; i++) {
        const flashc_prediction *p = &predictions->list[i];
        flashc_cli_json_object(json, NULL);
        flashc_cli_json_int(json, "threads", p->threads);
        flashc_cli_json_int(json, "team", p->team);
        flashc_cli_json_int(json, "items", p->items);
        flashc_cli_json_double(json, "seconds", p->makespan.seconds);
        flashc_cli_json_double(json, "start", p->makespan.start);
        flashc_cli_json_double(json, "computing", p->makespan.computing);
        flashc_cli_json_double(json, "waiting", p->makespan.waiting);
        flashc_cli_json_double(json, "idle", p->makespan.idle);
        flashc_cli_json_double(json, "longest_item", p->makespan.longest);
        flashc_cli_json_double(json, "balance", balance(&p->makespan));
        flashc_cli_json_string(json, "limited_by", flashc_makespan_limit(&p->makespan));
        flashc_cli_json_end(json, '}');
    }
    flashc_cli_json_end(json, ']');
}
