/* Batch elements as sequences of their own: lengths, left padding and positions. */
#include "attention/problem.h"

#include <inttypes.h>

static flashc_status check_alignment(const flashc_attention_params *p)
{
    if (p->causal != 0 && p->causal != 1)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "causal: expected 0 or 1, found %d", p->causal);
    if (p->window_left < -1 || p->window_right < -1)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s: expected a number of keys, or -1 for all, found %" PRId64,
                           p->window_left < -1 ? "window_left" : "window_right",
                           p->window_left < -1 ? p->window_left : p->window_right);
    if ((int)p->alignment < FLASHC_ALIGN_UNSET || p->alignment > FLASHC_ALIGN_EXPLICIT)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "alignment: expected a flashc_alignment (0 to 3), found %d",
                           (int)p->alignment);
    const char *asks = p->causal                ? "causal"
                       : p->window_left >= 0    ? "window_left"
                       : p->window_right >= 0   ? "window_right"
                                                : NULL;
    if (asks && p->alignment == FLASHC_ALIGN_UNSET)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "alignment: %s needs FLASHC_ALIGN_TOP_LEFT, _BOTTOM_RIGHT or _EXPLICIT, found UNSET", asks);
    if (p->alignment == FLASHC_ALIGN_EXPLICIT && !p->offsets && p->batch > 0)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "offsets: FLASHC_ALIGN_EXPLICIT needs one per batch element, found NULL");
    return FLASHC_OK;
}

/* Element b of an array that may not be there. */
static int64_t or_default(const int64_t *array, int64_t b, int64_t otherwise)
{
    return array ? array[b] : otherwise;
}

static flashc_status check_lengths(const flashc_attention_params *p)
{
    for (int64_t b = 0; (p->seqlens_q || p->seqlens_k || p->leftpad_k) && b < p->batch; b++) {
        const struct {
            const char *name;
            const int64_t *array;
            int64_t most;
        } lengths[] = {
            {"seqlens_q", p->seqlens_q, p->seqlen_q},
            {"seqlens_k", p->seqlens_k, p->seqlen_k},
            {"leftpad_k", p->leftpad_k, or_default(p->seqlens_k, b, p->seqlen_k)},
        };
        for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
            if (lengths[i].array && (lengths[i].array[b] < 0 || lengths[i].array[b] > lengths[i].most))
                return flashc_fail(FLASHC_ERR_ARGUMENT, "%s[%" PRId64 "]: expected 0 to %" PRId64 ", found %" PRId64,
                                   lengths[i].name, b, lengths[i].most, lengths[i].array[b]);
    }
    return FLASHC_OK;
}

flashc_status flashc_sequences_check(const flashc_attention_params *params)
{
    flashc_status status = check_alignment(params);
    return status == FLASHC_OK ? check_lengths(params) : status;
}

flashc_sequence flashc_problem_sequence(const flashc_problem *p, int64_t batch)
{
    flashc_sequence s = {
        .n_queries = or_default(p->seqlens_q, batch, p->seqlen_q),
        .first_key = or_default(p->leftpad_k, batch, 0),
    };
    s.n_keys = or_default(p->seqlens_k, batch, p->seqlen_k) - s.first_key;
    switch (p->alignment) {
    case FLASHC_ALIGN_UNSET:
    case FLASHC_ALIGN_TOP_LEFT: break;
    case FLASHC_ALIGN_BOTTOM_RIGHT: s.offset = s.n_keys - s.n_queries; break;
    case FLASHC_ALIGN_EXPLICIT: s.offset = p->offsets[batch]; break;
    }
    return s;
}

bool flashc_problem_is_uniform(const flashc_problem *p)
{
    return p->alignment != FLASHC_ALIGN_EXPLICIT && !p->seqlens_q && !p->seqlens_k && !p->leftpad_k;
}
