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

/* One query: which, and its elements. */
typedef struct query {
    const flashc_attention_params *p;
    int64_t b, h, i;
    int64_t row;     /* its index in the result */
    const double *q; /* [head_dim] */
} query;

/* Scores at a stage before the masks. */
static void score_early(const query *x, const double *k, double *scores, double *magnitude)
{
    const flashc_attention_params *p = x->p;
    const sequence s = sequence_of(p, x->b);
    for (int64_t j = 0; j < p->seqlen_k; j++) {
        scores[j] = -(double)INFINITY;
        if (x->i < s.queries && j >= s.first && j < s.end)
            scores[j] = capped_product(p, x->q, k + j * p->head_dim, p->scores_stage == FLASHC_SCORES_CAPPED,
                                       &magnitude[j]);
    }
}

/* Is row j of k hidden, whatever its score? */
static bool hides(const query *x, int64_t j)
{
    const flashc_attention_params *p = x->p;
    if (p->mask.data != NULL && test_get(&p->mask, x->b, x->h, x->i, j) == 0.0)
        return true;
    if (is_hidden(p, x->b, x->i, j))
        return true;
    const int64_t key = j - sequence_of(p, x->b).first;
    return p->block_mask.data != NULL &&
           test_get(&p->block_mask, x->b, x->h, x->i / p->block_mask_m, key / p->block_mask_n) == 0.0;
}

/* The score of row j of k, -inf if it is hidden; *magnitude: its part of A. */
static double score_key(const query *x, const double *k, int64_t j, double *magnitude)
{
    const flashc_attention_params *p = x->p;
    const double hidden = -(double)INFINITY;
    if (hides(x, j))
        return hidden;
    const double bias = p->bias.data != NULL ? test_get(&p->bias, x->b, x->h, x->i, j) : 0.0;
    if (bias == hidden)
        return hidden;
    double alibi = 0.0, modified = 0.0;
    if (p->alibi_slopes != NULL)
        alibi = -(double)p->alibi_slopes[x->b * p->alibi_batch_stride + x->h] *
                (double)fabsl(distance(p, x->b, x->i, j));
    double score = capped_product(p, x->q, k + j * p->head_dim, true, magnitude);
    score += bias;
    score += alibi;
    if (score == hidden)
        return hidden;
    if (p->score_mod != NULL) {
        const test_score_mod *mod = p->score_mod_user_data;
        modified = mod->added(mod, x->b, x->h, x->i, j - sequence_of(p, x->b).first);
        score = modified == hidden ? hidden : score + modified;
    }
    *magnitude += fabs(bias) + fabs(alibi) + fabs(modified);
    return score;
}

/* Pass 1: scores, -inf for hidden keys. Returns the largest; *invalid: is one NaN or +inf? */
static double score_row(const query *x, const double *k, double *scores, oracle *r, bool *invalid)
{
    double max = -(double)INFINITY;
    *invalid = false;
    for (int64_t j = 0; j < x->p->seqlen_k; j++) {
        double magnitude = 0.0;
        scores[j] = score_key(x, k, j, &magnitude);
        if (scores[j] == -(double)INFINITY)
            continue;
        *invalid |= isnan(scores[j]) || scores[j] == (double)INFINITY;
        max = larger(max, scores[j]);
        r->visible[x->row]++;
        r->magnitude[x->row] = larger(r->magnitude[x->row], magnitude);
    }
    return max;
}

/* Pass 2: the sum of exponentials, that of the sink among them. *max becomes the largest logit with it. */
static double sum_row(const query *x, const double *scores, double *max)
{
    const flashc_attention_params *p = x->p;
    double sum = 0.0, sink = -(double)INFINITY;
    if (p->sinks != NULL && x->i < sequence_of(p, x->b).queries)
        sink = (double)p->sinks[x->h];
    *max = larger(*max, sink);
    if (sink != -(double)INFINITY)
        sum = exp(sink - *max);
    for (int64_t j = 0; j < p->seqlen_k; j++) {
        if (scores[j] != -(double)INFINITY)
            sum += exp(scores[j] - *max);
    }
    return sum;
}

/* Pass 3: the weighted sum of V's visible rows. v: [seqlen_k, head_dim_v] */
static void weigh_row(const query *x, const double *v, const double *scores, double max, double sum, oracle *r)
{
    const int64_t width = x->p->head_dim_v;
    double *o = r->o + x->row * width, *weighted = r->weighted_v + x->row * width, max_v = 0.0;
    for (int64_t j = 0; j < x->p->seqlen_k; j++) {
        if (scores[j] == -(double)INFINITY)
            continue;
        double probability = exp(scores[j] - max) / sum;
        for (int64_t c = 0; c < width; c++) {
            double element = v[j * width + c];
            o[c] += probability * element;
            weighted[c] += probability * fabs(element);
            if (isfinite(element))
                max_v = larger(max_v, fabs(element));
            else
                r->special_v[x->row * width + c] = 1;
        }
    }
    r->max_v[x->row] = max_v;
}

/* k: [seqlen_k, head_dim]; v: [seqlen_k, head_dim_v] */
static void attend(const query *x, const double *k, const double *v, oracle *r)
{
    double *scores = r->scores + x->row * x->p->seqlen_k;
    bool invalid;
    double max = score_row(x, k, scores, r, &invalid);
    const double sum = sum_row(x, scores, &max);
    r->lse[x->row] = sum == 0.0 ? -(double)INFINITY : max + log(sum);
    weigh_row(x, v, scores, max, sum, r);
    if (!invalid)
        return;
    r->lse[x->row] = (double)NAN;
    for (int64_t c = 0; c < x->p->head_dim_v; c++)
        r->o[x->row * x->p->head_dim_v + c] = (double)NAN;
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
                const int64_t row = (b * p->num_heads + h) * p->seqlen_q + i, first = row * p->seqlen_k;
                const query x = {.p = p, .b = b, .h = h, .i = i, .row = row, .q = q + i * p->head_dim};
                attend(&x, k, v, r);
                if (early)
                    score_early(&x, k, r->early + first, r->early_magnitude + first);
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
