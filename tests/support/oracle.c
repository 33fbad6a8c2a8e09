#include "support/oracle.h"

#include "support/score_mod.h"
#include "support/values.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/* Never NULL, also for nothing. */
static void *allocate(int64_t count, size_t size)
{
    void *memory = calloc((size_t)count + 1, size);
    if (memory == NULL) {
        fprintf(stderr, "oracle: no memory for %lld elements\n", (long long)count);
        exit(1);
    }
    return memory;
}

/* As fmax(), which takes a number rather than NaN; but not a call for each score. */
static double larger(double x, double y)
{
    return y > x || isnan(x) ? y : x;
}

/* One head of a view, [rows, columns], as packed doubles; scale: of each row, if there is data. */
static double *read_head(const flashc_tensor *view, const flashc_tensor *scale, int64_t b, int64_t h, int64_t rows,
                         int64_t columns)
{
    double *packed = allocate(rows * columns, sizeof *packed);
    for (int64_t i = 0; i < rows; i++) {
        const double factor = scale != NULL && scale->data != NULL ? test_get(scale, b, h, i, 0) : 1.0;
        for (int64_t j = 0; j < columns; j++)
            packed[i * columns + j] = factor * test_get(view, b, h, i, j);
    }
    return packed;
}

/* Sequence b: its queries are 0 .. queries - 1, its keys the rows first .. end - 1 of k and v. */
typedef struct sequence {
    int64_t queries, first, end;
} sequence;

static sequence sequence_of(const flashc_attention_params *p, int64_t b)
{
    return (sequence){.queries = p->seqlens_q != NULL ? p->seqlens_q[b] : p->seqlen_q,
                      .first = p->leftpad_k != NULL ? p->leftpad_k[b] : 0,
                      .end = p->seqlens_k != NULL ? p->seqlens_k[b] : p->seqlen_k};
}

/* Position of query i minus that of row j of k, in long double: 64 bits of mantissa hold any difference that
 * a window can tell from another. */
static long double distance(const flashc_attention_params *p, int64_t b, int64_t i, int64_t j)
{
    const sequence s = sequence_of(p, b);
    const long double ahead = (long double)(i - (j - s.first));
    switch (p->alignment) {
    case FLASHC_ALIGN_BOTTOM_RIGHT: return ahead + (long double)(s.end - s.first - s.queries);
    case FLASHC_ALIGN_EXPLICIT: return ahead + (long double)p->offsets[b];
    case FLASHC_ALIGN_TOP_LEFT:
    case FLASHC_ALIGN_UNSET: break;
    }
    return ahead;
}

/* Does the position of the query or a length hide row j of k? */
static bool is_hidden(const flashc_attention_params *p, int64_t b, int64_t i, int64_t j)
{
    const sequence s = sequence_of(p, b);
    if (i >= s.queries || j < s.first || j >= s.end)
        return true;
    const long double d = distance(p, b, i, j);
    return (p->causal && d < 0) || (p->window_left >= 0 && d > (long double)p->window_left) ||
           (p->window_right >= 0 && -d > (long double)p->window_right);
}

static double softmax_scale_of(const flashc_attention_params *p)
{
    return p->softmax_scale == FLASHC_SCALE_DEFAULT ? 1.0 / sqrt((double)p->head_dim) : (double)p->softmax_scale;
}

/* scale * (q . k), after softcap if capped; *magnitude: its part of A. */
static double capped_product(const flashc_attention_params *p, const double *q, const double *k, bool capped,
                             double *magnitude)
{
    double dot = 0.0, terms = 0.0;
    for (int64_t d = 0; d < p->head_dim; d++) {
        dot += q[d] * k[d];
        terms += fabs(q[d] * k[d]);
    }
    const double score = softmax_scale_of(p) * dot;
    capped = capped && p->softcap > 0.0f;
    *magnitude = fabs(softmax_scale_of(p)) * terms + (capped ? (double)p->softcap : 0.0);
    return capped ? (double)p->softcap * tanh(score / (double)p->softcap) : score;
}

/* Scores of one query row at a stage before the masks. */
static void score_early(const flashc_attention_params *p, int64_t b, int64_t i, const double *q, const double *k,
                        double *scores, double *magnitude)
{
    const sequence s = sequence_of(p, b);
    for (int64_t j = 0; j < p->seqlen_k; j++) {
        scores[j] = -(double)INFINITY;
        if (i < s.queries && j >= s.first && j < s.end)
            scores[j] = capped_product(p, q, k + j * p->head_dim, p->scores_stage == FLASHC_SCORES_CAPPED,
                                       &magnitude[j]);
    }
}

/* One query row. q: [head_dim]; k: [seqlen_k, head_dim]; v: [seqlen_k, head_dim_v]; scores: room for
 * [seqlen_k]; row: its index in the result. */
static void attend(const flashc_attention_params *p, int64_t b, int64_t h, int64_t i, const double *q, const double *k,
                   const double *v, double *scores, oracle *r, int64_t row)
{
    /* Pass 1: scores; -inf for hidden keys. */
    double max = -(double)INFINITY;
    bool invalid = false;
    for (int64_t j = 0; j < p->seqlen_k; j++) {
        scores[j] = -(double)INFINITY;
        if (p->mask.data != NULL && test_get(&p->mask, b, h, i, j) == 0.0)
            continue;
        if (is_hidden(p, b, i, j))
            continue;
        if (p->block_mask.data != NULL &&
            test_get(&p->block_mask, b, h, i / p->block_mask_m,
                     (j - sequence_of(p, b).first) / p->block_mask_n) == 0.0)
            continue;
        double bias = p->bias.data != NULL ? test_get(&p->bias, b, h, i, j) : 0.0;
        if (bias == -(double)INFINITY)
            continue;
        double alibi = 0.0;
        if (p->alibi_slopes != NULL)
            alibi = -(double)p->alibi_slopes[b * p->alibi_batch_stride + h] * (double)fabsl(distance(p, b, i, j));
        double magnitude, modified = 0.0;
        double score = capped_product(p, q, k + j * p->head_dim, true, &magnitude);
        score += bias;
        score += alibi;
        if (score == -(double)INFINITY)
            continue;
        if (p->score_mod != NULL) {
            const test_score_mod *mod = p->score_mod_user_data;
            modified = mod->added(mod, b, h, i, j - sequence_of(p, b).first);
            score = modified == -(double)INFINITY ? modified : score + modified;
        }
        if (score == -(double)INFINITY)
            continue;
        invalid |= isnan(score) || score == (double)INFINITY;
        scores[j] = score;
        max = larger(max, score);
        r->visible[row]++;
        r->magnitude[row] = larger(r->magnitude[row], magnitude + fabs(bias) + fabs(alibi) + fabs(modified));
    }

    /* Pass 2: the sum of exponentials, that of the sink among them. */
    double sum = 0.0, sink = -(double)INFINITY;
    if (p->sinks != NULL && i < sequence_of(p, b).queries)
        sink = (double)p->sinks[h];
    max = larger(max, sink);
    if (sink != -(double)INFINITY)
        sum = exp(sink - max);
    for (int64_t j = 0; j < p->seqlen_k; j++) {
        if (scores[j] != -(double)INFINITY)
            sum += exp(scores[j] - max);
    }
    r->lse[row] = sum == 0.0 ? -(double)INFINITY : max + log(sum);
    if (invalid)
        r->lse[row] = (double)NAN;

    /* Pass 3: the weighted sum of V's visible rows. */
    int64_t width = p->head_dim_v;
    double *o = r->o + row * width, *weighted = r->weighted_v + row * width, max_v = 0.0;
    for (int64_t j = 0; j < p->seqlen_k; j++) {
        if (scores[j] == -(double)INFINITY)
            continue;
        double probability = exp(scores[j] - max) / sum;
        for (int64_t c = 0; c < width; c++) {
            double x = v[j * width + c];
            o[c] += probability * x;
            weighted[c] += probability * fabs(x);
            if (isfinite(x))
                max_v = larger(max_v, fabs(x));
            else
                r->special_v[row * width + c] = 1;
        }
    }
    r->max_v[row] = max_v;
    for (int64_t c = 0; invalid && c < width; c++)
        o[c] = (double)NAN;
}

void oracle_attention(const flashc_attention_params *p, oracle *r)
{
    int64_t rows = p->batch * p->num_heads * p->seqlen_q;
    r->rows = rows;
    r->head_dim_v = p->head_dim_v;
    r->o = allocate(rows * p->head_dim_v, sizeof *r->o);
    r->lse = allocate(rows, sizeof *r->lse);
    r->weighted_v = allocate(rows * p->head_dim_v, sizeof *r->weighted_v);
    r->magnitude = allocate(rows, sizeof *r->magnitude);
    r->max_v = allocate(rows, sizeof *r->max_v);
    r->visible = allocate(rows, sizeof *r->visible);
    r->special_v = allocate(rows * p->head_dim_v, 1);
    r->scores = allocate(rows * p->seqlen_k, sizeof *r->scores);
    const bool early = p->scores.data != NULL && p->scores_stage < FLASHC_SCORES_MASKED;
    r->early = early ? allocate(rows * p->seqlen_k, sizeof *r->early) : NULL;
    r->early_magnitude = early ? allocate(rows * p->seqlen_k, sizeof *r->early_magnitude) : NULL;

    for (int64_t b = 0; b < p->batch; b++) {
        for (int64_t h = 0; h < p->num_heads; h++) {
            int64_t head_k = h / (p->num_heads / p->num_heads_k);
            double *q = read_head(&p->q, NULL, b, h, p->seqlen_q, p->head_dim);
            double *k = read_head(&p->k, &p->k_scale, b, head_k, p->seqlen_k, p->head_dim);
            double *v = read_head(&p->v, &p->v_scale, b, head_k, p->seqlen_k, p->head_dim_v);
            for (int64_t i = 0; i < p->seqlen_q; i++) {
                int64_t row = (b * p->num_heads + h) * p->seqlen_q + i;
                attend(p, b, h, i, q + i * p->head_dim, k, v, r->scores + row * p->seqlen_k, r, row);
                if (early)
                    score_early(p, b, i, q + i * p->head_dim, k, r->early + row * p->seqlen_k,
                                r->early_magnitude + row * p->seqlen_k);
            }
            free(q);
            free(k);
            free(v);
        }
    }
}

void oracle_free(oracle *r)
{
    free(r->o);
    free(r->lse);
    free(r->weighted_v);
    free(r->magnitude);
    free(r->max_v);
    free(r->visible);
    free(r->scores);
    free(r->early);
    free(r->early_magnitude);
    free(r->special_v);
    *r = (oracle){0};
}
