/* Row max, scores and key mass against the oracle: what flashc.h says of them, and what follows from it. */
#include "support/bound.h"

#include "support/values.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const double U = 0x1p-24;
/* Of scores: a few roundings beside that of the sum of products, which A counts. */
static const double PER_SCORE = 8.0;
/* Weights below exp(-87.34) are 0. */
static const double SMALLEST_WEIGHT = 0x1p-125;

typedef struct check {
    const flashc_attention_params *p;
    const oracle *exact;
    char *message;
    size_t size;
} check;

static bool near(const check *c, const char *what, int64_t row, int64_t key, double got, double expected, double bound,
                 flashc_dtype dtype)
{
    const double rounded = bound + test_half_ulp(dtype, fabs(expected) + bound);
    if (got == expected || (isnan(got) && isnan(expected)) || fabs(got - expected) <= rounded)
        return true;
    if (dtype == FLASHC_F16 && isinf(got) && (got > 0) == (expected > 0) && fabs(expected) + rounded > 65504.0)
        return true; /* beyond the type */
    snprintf(c->message, c->size, "%s of row %lld, key %lld is %.9g, expected %.9g (bound %.3g)", what, (long long)row,
             (long long)key, got, expected, rounded);
    return false;
}

/* How far exp(logit) may be off where logit is off by error. A difference, since of the two factors of
 * exp(logit) * expm1(error) one may be 0 where the other is infinite. */
static double weight_bound(double logit, double error)
{
    return SMALLEST_WEIGHT + exp(logit + error) - exp(logit);
}

/* One row of scores at the stage that is asked for. logit_error: of score - LSE. */
static bool check_scores(const check *c, int64_t row, double error, double per_magnitude, double logit_error)
{
    const flashc_attention_params *p = c->p;
    const flashc_tensor *t = &p->scores;
    const int64_t i = row % p->seqlen_q, h = row / p->seqlen_q % p->num_heads, b = row / p->seqlen_q / p->num_heads;
    for (int64_t j = 0; j < p->seqlen_k; j++) {
        const double got = test_get(t, b, h, i, j), score = c->exact->scores[row * p->seqlen_k + j];
        double expected = score, bound = error;
        if (p->scores_stage == FLASHC_SCORES_WEIGHTS) {
            const double logit = score - c->exact->lse[row];
            expected = score == -(double)INFINITY ? 0.0 : exp(logit);
            bound = score == -(double)INFINITY ? 0.0 : weight_bound(logit, logit_error);
        } else if (p->scores_stage < FLASHC_SCORES_MASKED) {
            expected = c->exact->early[row * p->seqlen_k + j];
            bound = c->exact->early_magnitude[row * p->seqlen_k + j] * per_magnitude + PER_SCORE * U;
        }
        if (!near(c, "scores", row, j, got, expected, bound, t->dtype))
            return false;
    }
    return true;
}

/* Adds a row's weights to the mass of its head's keys. */
static void add_mass(const check *c, int64_t row, double logit_error, double *mass, double *slack)
{
    const int64_t keys = c->p->seqlen_k, first = row / c->p->seqlen_q * keys;
    for (int64_t j = 0; j < keys; j++) {
        const double score = c->exact->scores[row * keys + j];
        if (score == -(double)INFINITY)
            continue;
        const double logit = score - c->exact->lse[row], weight = exp(logit);
        mass[first + j] += weight;
        slack[first + j] += weight_bound(logit, logit_error) + weight * U * (double)c->p->seqlen_q;
    }
}

static bool check_row_max(const check *c, int64_t row, double error)
{
    const flashc_attention_params *p = c->p;
    double max = -(double)INFINITY;
    for (int64_t j = 0; j < p->seqlen_k; j++)
        max = fmax(max, c->exact->scores[row * p->seqlen_k + j]);
    return near(c, "row_max", row, -1,
                test_get(&p->row_max, row / p->seqlen_q / p->num_heads, row / p->seqlen_q % p->num_heads,
                         row % p->seqlen_q, 0),
                isnan(c->exact->lse[row]) ? (double)NAN : max, error, FLASHC_F32);
}

bool bound_check_outputs(const flashc_attention_params *p, const oracle *exact, const flashc_explanation *plan,
                         char *message, size_t size)
{
    const check c = {p, exact, message, size};
    const bound_terms terms = bound_terms_of(p, plan);
    const double per_magnitude = PER_SCORE * U + (terms.logits_rounded ? 0x1p-8 * (2.0 + 0x1p-8) : 0.0);
    const int64_t columns = p->batch * p->num_heads * p->seqlen_k;
    double *mass = calloc((size_t)columns + 1, sizeof *mass), *slack = calloc((size_t)columns + 1, sizeof *slack);
    bool good = true;
    for (int64_t row = 0; row < exact->rows && good; row++) {
        const double error = exact->magnitude[row] * per_magnitude + PER_SCORE * U;
        const double logit_error = error + bound_lse(exact, row, terms);
        good = (p->row_max.data == NULL || check_row_max(&c, row, error)) &&
               (p->scores.data == NULL || check_scores(&c, row, error, per_magnitude, logit_error));
        if (p->key_mass.data != NULL)
            add_mass(&c, row, logit_error, mass, slack);
    }
    for (int64_t n = 0; n < columns && good && p->key_mass.data != NULL; n++)
        good = near(&c, "key_mass", n / p->seqlen_k, n % p->seqlen_k,
                    test_get(&p->key_mass, n / p->seqlen_k / p->num_heads, n / p->seqlen_k % p->num_heads,
                             n % p->seqlen_k, 0),
                    mass[n], slack[n], FLASHC_F32);
    free(mass);
    free(slack);
    return good;
}
