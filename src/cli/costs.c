#include "cli/costs.h"

#include <math.h>

/* Descents along one axis after the other; a dozen samples settle within a few hundred. */
enum { SWEEPS = 20000 };

const char *flashc_cost_name(flashc_cost cost)
{
    static const char *const names[FLASHC_COSTS] = {"call",      "item", "row",  "piece_row", "key", "score",
                                                    "edge_tile"};
    return names[cost];
}

void flashc_costs_count(const flashc_item_work *work, double units[FLASHC_COSTS])
{
    units[FLASHC_COST_ITEM] += 1.0;
    units[FLASHC_COST_ROW] += (double)work->rows;
    units[FLASHC_COST_PIECE_ROW] += (double)work->rows * (double)(work->pieces - 1);
    units[FLASHC_COST_KEY] += (double)work->keys;
    units[FLASHC_COST_SCORE] += work->scores;
    units[FLASHC_COST_EDGE_TILE] += (double)work->edge_tiles;
}

double flashc_costs_sum(const flashc_costs *costs, const double units[FLASHC_COSTS])
{
    double sum = 0.0;
    for (int c = 0; c < FLASHC_COSTS; c++)
        sum += costs->seconds[c] * units[c];
    return sum;
}

void flashc_costs_fit(int n, const flashc_cost_sample *samples, flashc_costs *out)
{
    *out = (flashc_costs){{0.0}};
    double squares[FLASHC_COSTS] = {0.0};
    for (int i = 0; i < n; i++)
        for (int c = 0; c < FLASHC_COSTS; c++)
            squares[c] += pow(samples[i].units[c] / samples[i].seconds, 2.0);
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        for (int c = 0; c < FLASHC_COSTS; c++) {
            double slope = 0.0;
            for (int i = 0; i < n; i++)
                slope += samples[i].units[c] / samples[i].seconds *
                         (1.0 - flashc_costs_sum(out, samples[i].units) / samples[i].seconds);
            if (squares[c] > 0.0)
                out->seconds[c] = fmax(0.0, out->seconds[c] + slope / squares[c]);
        }
    }
}

/* A row of K or V, with its scale; of q8_0 an element has 32 columns. */
static double cache_row_bytes(const flashc_tensor *t, const flashc_tensor *scale, int64_t columns)
{
    const int64_t elements = columns / (t->dtype == FLASHC_Q8_0 ? 32 : 1);
    return (double)elements * (double)flashc_dtype_size(t->dtype) + (scale->data && scale->stride[2] ? 4.0 : 0.0);
}

flashc_cost_bytes flashc_costs_bytes(const flashc_attention_params *p)
{
    const double dim = (double)p->head_dim, dim_v = (double)p->head_dim_v;
    return (flashc_cost_bytes){
        .key = cache_row_bytes(&p->k, &p->k_scale, p->head_dim) + cache_row_bytes(&p->v, &p->v_scale, p->head_dim_v),
        .row = dim * (double)flashc_dtype_size(p->q.dtype) + dim_v * (double)flashc_dtype_size(p->o.dtype),
    };
}

/* One head's items, which stand together: how many keys it has, and how many its items read in all. */
static void read_of_head(int64_t count, const flashc_item_work *work, double *keys, double *reads)
{
    int64_t first = INT64_MAX, end = 0;
    *reads = 0.0;
    for (int64_t i = 0; i < count; i++) {
        if (work[i].keys == 0)
            continue;
        first = work[i].first_key < first ? work[i].first_key : first;
        end = work[i].first_key + work[i].keys > end ? work[i].first_key + work[i].keys : end;
        *reads += (double)work[i].keys;
    }
    *keys = end > 0 ? (double)(end - first) : 0.0;
}

void flashc_costs_of_items(const flashc_costs *costs, int64_t count, const flashc_item_work *work,
                           const flashc_cost_bytes *bytes, double cache_size, flashc_makespan_item *out)
{
    for (int64_t begin = 0, end; begin < count; begin = end) {
        for (end = begin + 1; end < count && work[end].batch == work[begin].batch &&
                              work[end].head_k == work[begin].head_k; end++)
            ;
        double keys, reads;
        read_of_head(end - begin, work + begin, &keys, &reads);
        const double share = reads > 0.0 && keys * bytes->key <= 0.5 * cache_size ? keys / reads : 1.0;
        for (int64_t i = begin; i < end; i++) {
            double units[FLASHC_COSTS] = {0.0};
            flashc_costs_count(&work[i], units);
            out[i] = (flashc_makespan_item){.seconds = flashc_costs_sum(costs, units),
                                            .bytes = share * bytes->key * (double)work[i].keys +
                                                     bytes->row * (double)work[i].rows};
        }
    }
}
