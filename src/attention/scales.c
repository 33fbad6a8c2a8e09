#include "attention/scales.h"

#include "cpu.h"
#include "numerics.h"

#include <inttypes.h>
#include <math.h>

/* Is there a sign, or infinity or NaN, whose exponent carries into its place? Any CPU does this for several at a time;
 * it is done before the threads start. */
static bool may_be_bad(const float *scale, int64_t n)
{
    uint32_t found = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = flashc_bits_from_f32(scale[i]);
        found |= bits | (bits + 0x00800000u);
    }
    return found >> 31;
}

static flashc_status check_rows(const char *name, const flashc_cache_rows *rows, int64_t sequence, int64_t head,
                                int64_t first_row, int64_t n_rows)
{
    const float *scale = flashc_cache_scale(rows, sequence, head, first_row);
    const int64_t stride = rows->scale.stride[2], n = stride == 0 ? 1 : n_rows;
    if (stride == 1 && !may_be_bad(scale, n))
        return FLASHC_OK;
    for (int64_t i = 0; i < n; i++) {
        const float x = scale[i * stride];
        if (isfinite(x) && x >= 0.0f)
            continue;
        const flashc_cache_place place = flashc_cache_find(rows, sequence, first_row + i);
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "%s[%" PRId64 "][%" PRId64 "][%" PRId64 "]: expected a finite value, 0 or more, found %g",
                           name, place.element, head, place.row, (double)x);
    }
    return FLASHC_OK;
}

/* Are these n scales of all heads contiguous, and all right? Asked for a page at a time: short runs, one a head, took
 * a tenth of decode's time. */
static bool all_heads_good(const flashc_cache_rows *rows, int64_t sequence, int64_t num_heads, int64_t row, int64_t n)
{
    const int64_t *stride = rows->scale.stride;
    return stride[2] == 1 && stride[1] == n && !may_be_bad(flashc_cache_scale(rows, sequence, 0, row), n * num_heads);
}

static flashc_status check_sequence(const char *name, const flashc_cache_rows *rows, const flashc_sequence *s,
                                    int64_t num_heads_k)
{
    flashc_status status = FLASHC_OK;
    for (int64_t done = s->begin_key, n; done < s->n_keys && status == FLASHC_OK; done += n) {
        const int64_t row = s->first_key + done;
        n = flashc_cache_run(rows, &rows->scale, s->k_element, row, s->n_keys - done);
        if (all_heads_good(rows, s->k_element, num_heads_k, row, n))
            continue;
        for (int64_t head = 0; head < num_heads_k && status == FLASHC_OK; head++)
            status = check_rows(name, rows, s->k_element, head, row, n);
    }
    return status;
}

flashc_status flashc_scales_check(const flashc_problem *p)
{
    if (!p->k.scale.data && !p->v.scale.data)
        return FLASHC_OK;
    FLASHC_IN_DEFAULT_FLOAT_MODE; /* a subnormal scale below 0 is one, also where the caller's mode takes it for 0 */
    const struct {
        const char *name;
        const flashc_cache_rows *rows;
    } scales[] = {{"k_scale", &p->k}, {"v_scale", &p->v}};
    flashc_status status = FLASHC_OK;
    for (int i = 0; i < 2; i++)
        for (int64_t b = 0; scales[i].rows->scale.data && b < p->batch && status == FLASHC_OK; b++) {
            const flashc_sequence s = flashc_problem_sequence(p, b);
            status = check_sequence(scales[i].name, scales[i].rows, &s, p->num_heads_k);
        }
    return status;
}
