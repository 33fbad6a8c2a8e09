#include "cli/calibrate.h"

#include "cli/arithmetic.h"
#include "cli/cli.h"
#include "cli/peak.h"
#include "cli/sample_call.h"

#include <math.h>
#include <stdlib.h>

/* The longest call: near enough to those that are predicted, and short enough to wait for. */
#define LONGEST_CALL_SECONDS 0.02

/* Each of these holds a sample or two; inlined together their frames would be beyond 8 KiB. */
#define OUT_OF_LINE __attribute__((noinline))

enum {
    HEADS = 8, /* K/V heads of a sample, so that an item's cost is told from a call's */
    TILES = 8, /* keys of the longer samples, in tiles */
    BLOCKS = 6, /* rows of the longer samples, in blocks */
    COLD_BLOCKS = 3, /* rows of a call that reads K and V from memory: so few that it takes time */
    ITEMS_OF_ALL = 64, /* so many items let a plan give each as many rows as it ever does */
    MOST_SAMPLES = 12,
    MOST_COLD_HEADS = 512,
};
/* K and V of samples with few rows: they shall stay in the L2 of any machine. */
#define CACHED_BYTES (512.0 * 1024.0)
/* K and V of a call that reads them from memory: many, so that its end, where threads wait for each other, is short. */
#define COLD_BYTES (16.0 * 1024.0 * 1024.0)
/* Bounds of what the queue for memory is measured to be; 1 is the theory. */
#define QUEUE_MIN 0.25
#define QUEUE_MAX 4.0
/* Share of the bandwidth, at most: beyond, the queue would be without end. */
#define MOST_USED 0.95

typedef struct calibrator {
    flashc_sampled_call call;
    const flashc_attention_params *params;
    const flashc_explanation *plan;
    int64_t heads, group; /* K/V heads of all batch elements; query heads of each */
    flashc_cost_bytes bytes;
    int n;
    flashc_cost_sample samples[MOST_SAMPLES];
} calibrator;

/* Times a shape with one thread, as one more sample. */
static int add_sample(calibrator *c, flashc_sample_shape s)
{
    flashc_sample p;
    flashc_cost_sample *sample = &c->samples[c->n];
    int code = flashc_sample_open(&c->call, &s, 0, &p);
    if (code == FLASHC_CLI_OK)
        code = flashc_sample_time(&p, &sample->seconds);
    if (code == FLASHC_CLI_OK) {
        sample->units[FLASHC_COST_CALL] = 1.0;
        for (int64_t i = 0; i < p.count; i++)
            flashc_costs_count(&p.items[i], sample->units);
        c->n++;
    }
    flashc_sample_close(&p);
    return code;
}

/* So many keys that a call of the shape takes LONGEST_CALL_SECONDS, as the latest sample was. */
static int64_t keys_of_longest(const calibrator *c, int64_t heads, int64_t rows)
{
    const flashc_cost_sample *latest = &c->samples[c->n - 1];
    const double scores = LONGEST_CALL_SECONDS / latest->seconds * latest->units[FLASHC_COST_SCORE];
    const double keys = scores / (double)(heads * rows);
    return keys < (double)c->params->seqlen_k ? flashc_cli_max(1, (int64_t)keys) : c->params->seqlen_k;
}

/* Small and long in every direction in which work grows, up to the size of the call to predict. */
OUT_OF_LINE static int take_samples(calibrator *c)
{
    const int64_t block = c->plan->block_m, tile = c->plan->block_n, all_rows = c->params->seqlen_q * c->group;
    const int64_t heads = flashc_cli_min(HEADS, c->heads);
    const int64_t row = flashc_cli_min(block, all_rows), rows = flashc_cli_min(BLOCKS * block, all_rows);
    const int64_t keys = c->params->seqlen_k, long_keys = flashc_cli_min(TILES * tile, keys);
    const int64_t cached_keys = (int64_t)(CACHED_BYTES / c->bytes.key);
    const int64_t cached = flashc_cli_min(long_keys, flashc_cli_max(1, cached_keys));
    const int64_t cached_heads = flashc_cli_min(heads, flashc_cli_max(1, cached_keys / flashc_cli_min(tile, keys)));
    const int64_t many_rows = flashc_cli_min(ITEMS_OF_ALL * c->plan->rows_per_item / heads, all_rows);
    int code = add_sample(c, (flashc_sample_shape){1, row, flashc_cli_min(tile, keys), 0}) ||
               add_sample(c, (flashc_sample_shape){1, row, 1, 0}) ||
               add_sample(c, (flashc_sample_shape){1, row, flashc_cli_min(3 * tile, cached), 0}) ||
               add_sample(c, (flashc_sample_shape){1, row, cached, 0}) ||
               add_sample(c, (flashc_sample_shape){cached_heads, row, flashc_cli_min(tile, keys), 0});
    if (code == FLASHC_CLI_OK && all_rows > block)
        code = add_sample(c, (flashc_sample_shape){heads, rows, flashc_cli_min(tile, keys), 0}) ||
               add_sample(c, (flashc_sample_shape){heads, rows, long_keys, 0}) ||
               add_sample(c, (flashc_sample_shape){heads, many_rows, keys_of_longest(c, heads, many_rows), 0}) ||
               add_sample(c, (flashc_sample_shape){1, rows, keys_of_longest(c, 1, rows), 0});
    const int edges = c->params->causal || c->params->window_left >= 0 || c->params->window_right >= 0;
    if (code == FLASHC_CLI_OK && edges) {
        const int64_t square = flashc_cli_min(keys, keys_of_longest(c, heads, many_rows));
        code = add_sample(c, (flashc_sample_shape){heads, rows, flashc_cli_min(keys, rows / c->group), 1}) ||
               add_sample(c, (flashc_sample_shape){heads, flashc_cli_min(many_rows, square * c->group), square, 1});
    }
    return code ? FLASHC_CLI_FAILED : FLASHC_CLI_OK;
}

static void fit(const calibrator *c, flashc_calibration *out)
{
    flashc_costs_fit(c->n, c->samples, &out->costs);
    out->samples = c->n;
    for (int i = 0; i < c->n; i++) {
        const double error = flashc_costs_sum(&out->costs, c->samples[i].units) / c->samples[i].seconds - 1.0;
        out->worst = fmax(out->worst, fabs(error));
    }
}

int flashc_calibration_simulate(const flashc_calibration *known, int64_t count, const flashc_item_work *work,
                                const flashc_cost_bytes *bytes, int threads, flashc_makespan *out)
{
    flashc_makespan_item *items = calloc((size_t)count + 1, sizeof *items);
    if (items != NULL)
        flashc_costs_of_items(&known->costs, count, work, bytes, known->cache_size, items);
    const double start = known->costs.seconds[FLASHC_COST_CALL] + known->team * log2((double)threads);
    const bool done = items != NULL && flashc_makespan_simulate(count, items, threads, start, &known->memory, out);
    free(items);
    return done ? FLASHC_CLI_OK : flashc_cli_error("no memory for %lld work items", (long long)count);
}

/* Small items with all threads: what the simulation lacks, threads took to start. */
OUT_OF_LINE static int measure_start(const calibrator *c, flashc_calibration *out)
{
    const flashc_sample_shape s = {HEADS, flashc_cli_min(c->plan->block_m, c->params->seqlen_q * c->group),
                                  flashc_cli_min(c->plan->block_n, c->params->seqlen_k), 0};
    flashc_sample p;
    double seconds = 0.0;
    flashc_makespan foreseen = {.seconds = 0.0};
    int code = flashc_sample_open(&c->call, &s, 0, &p);
    if (code == FLASHC_CLI_OK)
        code = flashc_sample_plan(&p, out->all_threads) || flashc_sample_time(&p, &seconds) ||
               flashc_calibration_simulate(out, p.count, p.items, &c->bytes, out->all_threads, &foreseen);
    if (code == FLASHC_CLI_OK)
        out->team = fmax(0.0, seconds - foreseen.seconds) / log2(out->all_threads);
    flashc_sample_close(&p);
    return code;
}

/* Seconds that a byte delays a thread, so that the simulation meets what was measured. */
static int fit_delay(const calibrator *c, const flashc_sample *p, int threads, double seconds,
                     flashc_calibration *known, double *delay)
{
    double low = 0.0, high = seconds * threads / COLD_BYTES * 16.0;
    known->memory.bandwidth = (double)INFINITY;
    for (int i = 0; i < 50; i++) {
        flashc_makespan foreseen;
        known->memory.wait = *delay = 0.5 * (low + high);
        if (flashc_calibration_simulate(known, p->count, p->items, &c->bytes, threads, &foreseen))
            return FLASHC_CLI_FAILED;
        if (foreseen.seconds < seconds)
            low = *delay;
        else
            high = *delay;
    }
    return FLASHC_CLI_OK;
}

static double queue_at(double used)
{
    return used / (1.0 - used);
}

/* A call whose time reading K and V from memory has a part in, as in the call to predict. */
static flashc_sample_shape shape_of_cold(const calibrator *c)
{
    const double keys_of_all = COLD_BYTES / c->bytes.key;
    const int64_t most_keys = flashc_cli_max(1, (int64_t)(keys_of_all / (double)flashc_cli_min(HEADS, c->heads)));
    const int64_t keys = flashc_cli_min(c->params->seqlen_k, most_keys);
    return (flashc_sample_shape){
        .heads = flashc_cli_min(MOST_COLD_HEADS, flashc_cli_max(1, (int64_t)(keys_of_all / (double)keys))),
        .rows = flashc_cli_min(COLD_BLOCKS * c->plan->block_m, c->params->seqlen_q * c->group),
        .keys = keys,
    };
}

/* That call with one thread and with all: how a byte delays a thread, and more so under load. */
OUT_OF_LINE static int measure_memory(const calibrator *c, flashc_calibration *out)
{
    const flashc_sample_shape s = shape_of_cold(c);
    const double bytes = (double)s.heads * ((double)s.keys * c->bytes.key + (double)s.rows * c->bytes.row);
    double one = 0.0, all = 0.0, alone = 0.0, loaded = 0.0;
    flashc_read_bandwidth read;
    flashc_measure_read_bandwidth(out->all_threads, &read);
    out->cache_size = (double)read.cache_size;
    flashc_sample p;
    int code = flashc_sample_open(&c->call, &s, 1, &p);
    if (code == FLASHC_CLI_OK)
        code = flashc_sample_time(&p, &one) || fit_delay(c, &p, 1, one, out, &alone);
    if (code == FLASHC_CLI_OK)
        code = flashc_sample_plan(&p, out->all_threads) || flashc_sample_time(&p, &all) ||
               fit_delay(c, &p, out->all_threads, all, out, &loaded);
    flashc_sample_close(&p);
    if (code != FLASHC_CLI_OK)
        return FLASHC_CLI_FAILED;
    const double bandwidth = fmax(1e9 * read.gbytes_per_second, bytes / fmin(one, all));
    const double queue_alone = queue_at(fmin(MOST_USED, bytes / one / bandwidth));
    const double queue_loaded = queue_at(fmin(MOST_USED, bytes / all / bandwidth));
    out->memory = (flashc_makespan_memory){.bandwidth = bandwidth, .queue = 1.0};
    if (queue_loaded > queue_alone)
        out->memory.queue =
            fmin(QUEUE_MAX, fmax(QUEUE_MIN, (loaded - alone) * bandwidth / (queue_loaded - queue_alone)));
    out->memory.wait = fmax(0.0, alone - out->memory.queue / bandwidth * queue_alone);
    return FLASHC_CLI_OK;
}

int flashc_calibrate(const flashc_cli_attention_args *args, const flashc_attention_params *p,
                     const flashc_explanation *plan, flashc_calibration *out)
{
    calibrator c = {.call = {.args = args, .params = p, .kernel = plan->kernel},
                    .params = p,
                    .plan = plan,
                    .heads = p->batch * p->num_heads_k,
                    .group = p->num_heads / p->num_heads_k,
                    .bytes = flashc_costs_bytes(p)};
    flashc_system_info system = {.struct_size = sizeof system};
    *out = (flashc_calibration){.memory = {.bandwidth = (double)INFINITY, .queue = 1.0}};
    int code = flashc_system_get(&system) == FLASHC_OK ? take_samples(&c) : FLASHC_CLI_FAILED;
    if (code != FLASHC_CLI_OK)
        return code;
    fit(&c, out);
    out->all_threads = system.default_threads;
    if (out->all_threads > 1)
        code = measure_start(&c, out);
    return code == FLASHC_CLI_OK ? measure_memory(&c, out) : code;
}
