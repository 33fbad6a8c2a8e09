#include "support/bound.h"

#include "support/problem.h"
#include "support/values.h"

#include <math.h>
#include <stdio.h>

/* u (8 + cA + 2(n + T)) sum p|v| and u ((14 + c/2) max(1, |LSE|, A) + 2(n + T)): see flashc.h. */
static const double UNIT_ROUNDOFF = 0x1p-24;
static const double O_CONSTANT = 8.0;
static const double LSE_CONSTANT = 14.0;
static const double USUAL_PER_LOGIT = 4.0;
static const double PER_CHAIN_STEP = 2.0;
/* Underflow: weights below the smallest normal f32 are 0, and each step of a chain may lose half a step of
 * the subnormal numbers. */
static const double SMALLEST_NORMAL = 0x1p-126;
static const double SUBNORMAL_STEP = 0x1p-149;
/* Measured on a model of the algorithm, random zero-mean data stay 7 times inside this. */
static const double ZERO_MEAN_FACTOR = 4.0;

/* Half an ulp of bf16, relative. */
static const double BF16_ROUNDOFF = 0x1p-8;

bound_terms bound_terms_of(const flashc_attention_params *p, const flashc_explanation *plan)
{
    const bool bf16 = plan->compute == FLASHC_COMPUTE_BF16;
    return (bound_terms){
        .chain = p->seqlen_k + (p->seqlen_k + plan->block_n - 1) / plan->block_n,
        .largest_code = p->v_scale.data != NULL ? largest_code(p->v.dtype) : 1.0,
        .weights_rounded = bf16 ? 1 + (p->v.dtype != FLASHC_BF16) : 0,
        .logits_rounded = bf16 && (p->q.dtype != FLASHC_BF16 || p->k.dtype != FLASHC_BF16),
        .per_logit = USUAL_PER_LOGIT,
    };
}

/* How far rounding q and k to bf16 moves a logit. */
static double logit_error(const oracle *r, int64_t row, bound_terms terms)
{
    return terms.logits_rounded ? BF16_ROUNDOFF * (2.0 + BF16_ROUNDOFF) * r->magnitude[row] : 0.0;
}

/* The result is first an f32 near the exact value and then rounded to the output's type, whose step
 * may be the larger one just above the exact value. */
static double with_rounding(double error, double exact, flashc_dtype dtype)
{
    return error + test_half_ulp(dtype, fabs(exact) + error);
}

static double underflow(const oracle *r, int64_t row, bound_terms terms)
{
    const double lost = r->max_v[row] + (terms.weights_rounded > 0 ? 1.0 : 0.0); /* bf16: subnormal sums are 0 */
    return SMALLEST_NORMAL * (double)r->visible[row] * lost +
           SUBNORMAL_STEP * (double)terms.chain * terms.largest_code;
}

double bound_o(const oracle *r, int64_t row, int64_t column, bound_terms terms, flashc_dtype o_dtype)
{
    int64_t at = row * r->head_dim_v + column;
    double factor = O_CONSTANT + terms.per_logit * r->magnitude[row] + PER_CHAIN_STEP * (double)terms.chain;
    const double bf16 = exp(2.0 * logit_error(r, row, terms)) * pow(1.0 + BF16_ROUNDOFF, terms.weights_rounded) - 1.0;
    /* Huge logits make the factor infinite, and V may be 0. */
    const double weighted = r->weighted_v[at] > 0.0 ? (UNIT_ROUNDOFF * factor + bf16) * r->weighted_v[at] : 0.0;
    return with_rounding(weighted + underflow(r, row, terms), r->o[at], o_dtype);
}

double bound_lse(const oracle *r, int64_t row, bound_terms terms)
{
    const double size = fmax(1.0, fmax(fabs(r->lse[row]), r->magnitude[row]));
    const double factor = (LSE_CONSTANT + terms.per_logit / 2.0) * size + PER_CHAIN_STEP * (double)terms.chain;
    return UNIT_ROUNDOFF * factor + logit_error(r, row, terms);
}

double bound_o_zero_mean(const oracle *r, int64_t row, int64_t column, flashc_dtype o_dtype)
{
    double error = ZERO_MEAN_FACTOR * UNIT_ROUNDOFF * (1.0 + r->magnitude[row]) * r->max_v[row];
    return with_rounding(error, r->o[row * r->head_dim_v + column], o_dtype);
}

/* One number against its reference. special: only known not to be finite. */
static bool agrees(double got, double exact, double bound, bool special)
{
    if (special)
        return !isfinite(got);
    if (isnan(exact))
        return isnan(got);
    if (isinf(exact))
        return got == exact;
    return fabs(got - exact) <= bound;
}

static bool check(const flashc_attention_params *p, const oracle *r, const flashc_explanation *plan, bound_terms terms,
                  bool zero_mean, char *message, size_t size)
{
    zero_mean = zero_mean && plan->compute == FLASHC_COMPUTE_F32;
    for (int64_t row = 0; row < r->rows; row++) {
        int64_t i = row % p->seqlen_q, h = row / p->seqlen_q % p->num_heads, b = row / p->seqlen_q / p->num_heads;
        for (int64_t c = 0; c < p->head_dim_v; c++) {
            int64_t at = row * p->head_dim_v + c;
            double got = test_get(&p->o, b, h, i, c), exact = r->o[at];
            double bound = bound_o(r, row, c, terms, p->o.dtype);
            bool special = r->special_v[at] && !isnan(r->lse[row]); /* else the whole row is NaN */
            if (zero_mean)
                bound = fmin(bound, bound_o_zero_mean(r, row, c, p->o.dtype));
            if (!agrees(got, exact, bound, special) || (got == 0.0 && signbit(got) && p->o.dtype == FLASHC_F32)) {
                snprintf(message, size,
                         "o[%lld][%lld][%lld][%lld] = %.9g, exact %.9g, error %.3g, bound %.3g%s "
                         "(A %.3g, visible %lld)",
                         (long long)b, (long long)h, (long long)i, (long long)c, got, exact, fabs(got - exact), bound,
                         zero_mean ? " (zero-mean)" : "", r->magnitude[row], (long long)r->visible[row]);
                return false;
            }
        }
        if (p->lse.data == NULL)
            continue;
        double got = test_get(&p->lse, b, h, i, 0), bound = bound_lse(r, row, terms);
        if (!agrees(got, r->lse[row], bound, false)) {
            snprintf(message, size, "lse[%lld][%lld][%lld] = %.9g, exact %.9g, error %.3g, bound %.3g (A %.3g)",
                     (long long)b, (long long)h, (long long)i, got, r->lse[row], fabs(got - r->lse[row]), bound,
                     r->magnitude[row]);
            return false;
        }
    }
    return true;
}

bool bound_check(const flashc_attention_params *p, const oracle *r, const flashc_explanation *plan, bool zero_mean,
                 char *message, size_t size)
{
    return check(p, r, plan, bound_terms_of(p, plan), zero_mean, message, size);
}

bool bound_check_any_data(const flashc_attention_params *p, const oracle *r, const flashc_explanation *plan,
                          char *message, size_t size)
{
    const double together = plan->compute == FLASHC_COMPUTE_BF16 ? 256.0 : 64.0;
    bound_terms terms = bound_terms_of(p, plan);
    terms.per_logit = 32.0 + 2.0 * fmin((double)p->head_dim, together) + (double)p->head_dim / 32.0;
    return check(p, r, plan, terms, false, message, size);
}
