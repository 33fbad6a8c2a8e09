#include "attention/check_sequences.h"

#include "attention/lengths.h"
#include "cache/rows.h"
#include "params.h"

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
                       : p->alibi_slopes        ? "alibi_slopes"
                                                : NULL;
    if (asks && p->alignment == FLASHC_ALIGN_UNSET)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "alignment: %s needs FLASHC_ALIGN_TOP_LEFT, _BOTTOM_RIGHT or _EXPLICIT, found UNSET", asks);
    if (p->alignment == FLASHC_ALIGN_EXPLICIT && !p->offsets && p->batch > 0)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "offsets: FLASHC_ALIGN_EXPLICIT needs one per batch element, found NULL");
    if (p->alignment != FLASHC_ALIGN_EXPLICIT && p->offsets)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "offsets: expected NULL without FLASHC_ALIGN_EXPLICIT, which alone reads them, found %p",
                           (const void *)p->offsets);
    return FLASHC_OK;
}

static flashc_status check_lengths(const flashc_attention_params *p, const flashc_attention_state *state)
{
    for (int64_t b = 0; (p->seqlens_q || p->seqlens_k || p->leftpad_k) && b < p->batch; b++) {
        const int64_t rows = flashc_lengths_rows(p->seqlens_k, p->cu_seqlens_k, b, p->seqlen_k);
        const struct {
            const char *name;
            const int64_t *array;
            int64_t most;
        } lengths[] = {
            {"seqlens_q", p->seqlens_q, p->seqlen_q},
            {"seqlens_k", p->seqlens_k, p->seqlen_k},
            {"leftpad_k", p->leftpad_k, state ? flashc_lengths_in_all(state, b) : rows},
        };
        for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
            if (lengths[i].array && (lengths[i].array[b] < 0 || lengths[i].array[b] > lengths[i].most))
                return flashc_fail(FLASHC_ERR_ARGUMENT, "%s[%" PRId64 "]: expected 0 to %" PRId64 ", found %" PRId64,
                                   lengths[i].name, b, lengths[i].most, lengths[i].array[b]);
    }
    return FLASHC_OK;
}

/* What a state says of rows in all, where a position depends on it. */
static flashc_status check_rows_in_all(const flashc_attention_params *p, const flashc_attention_state *state)
{
    const bool aligned = p->alignment == FLASHC_ALIGN_BOTTOM_RIGHT;
    if (aligned && !state->seqlens_k && (p->seqlens_k || p->cu_seqlens_k))
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "state->seqlens_k: expected the keys that each sequence will have in all, from which "
                           "FLASHC_ALIGN_BOTTOM_RIGHT counts, beside %s of a chunk, found NULL",
                           p->seqlens_k ? "seqlens_k" : "cu_seqlens_k");
    const int64_t differing = state->seqlens_k ? p->batch : flashc_min(1, p->batch);
    for (int64_t b = 0; (aligned || p->leftpad_k) && b < differing; b++) {
        const int64_t all = flashc_lengths_in_all(state, b);
        if (all < 0 || all > state->seqlen_k)
            return flashc_fail(FLASHC_ERR_ARGUMENT,
                               "state->seqlens_k[%" PRId64 "]: expected 0 to state->seqlen_k = %" PRId64
                               ", found %" PRId64, b, state->seqlen_k, all);
    }
    return FLASHC_OK;
}

/* No more of them than that; the chunk's lengths are valid. */
static flashc_status check_rows_left(const flashc_attention_params *p, const flashc_attention_state *state)
{
    const bool alike = !state->seqlens_k && !p->seqlens_k && !p->cu_seqlens_k;
    const int64_t differing = alike ? flashc_min(1, p->batch) : p->batch;
    for (int64_t b = 0; p->alignment == FLASHC_ALIGN_BOTTOM_RIGHT && b < differing; b++) {
        const int64_t all = flashc_lengths_in_all(state, b);
        const int64_t rows = flashc_lengths_rows(p->seqlens_k, p->cu_seqlens_k, b, p->seqlen_k);
        if (rows > 0 && rows > all - state->next_key)
            return flashc_fail(FLASHC_ERR_ARGUMENT,
                               "state->%s: expected all keys of batch element %" PRId64
                               ", from which FLASHC_ALIGN_BOTTOM_RIGHT counts, found %" PRId64
                               ", and keys up to %" PRId64 " in the chunk",
                               state->seqlens_k ? "seqlens_k" : "seqlen_k", b, all, state->next_key + rows);
    }
    return FLASHC_OK;
}

static flashc_status check_packed(const flashc_attention_params *p)
{
    const struct {
        const char *name, *lengths_name, *total_name;
        const int64_t *cu_seqlens, *lengths;
        int64_t total;
    } sides[] = {
        {"cu_seqlens_q", "seqlens_q", "seqlen_q", p->cu_seqlens_q, p->seqlens_q, p->seqlen_q},
        {"cu_seqlens_k", "seqlens_k", "seqlen_k", p->cu_seqlens_k, p->seqlens_k, p->seqlen_k},
    };
    for (int i = 0; i < 2; i++) {
        if (!sides[i].cu_seqlens)
            continue;
        if (sides[i].lengths)
            return flashc_fail(FLASHC_ERR_ARGUMENT, "%s: expected NULL beside %s, which says the same, found %p",
                               sides[i].lengths_name, sides[i].name, (const void *)sides[i].lengths);
        flashc_status status = flashc_params_check_cu_seqlens(sides[i].name, sides[i].cu_seqlens, p->batch,
                                                              sides[i].total, sides[i].total_name);
        if (status != FLASHC_OK)
            return status;
    }
    if (p->cu_seqlens_k && p->block_table.pages)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "cu_seqlens_k: expected NULL beside block_table (seqlens_k says the lengths), found %p",
                           (const void *)p->cu_seqlens_k);
    return FLASHC_OK;
}

/* The pages that hold each sequence's keys. */
static flashc_status check_table(const flashc_attention_params *p, const flashc_attention_state *state,
                                 const char *name, const flashc_block_table *t)
{
    const int64_t next_key = state ? state->next_key : 0;
    flashc_status status = flashc_cache_check_table(name, t, p->batch);
    const int64_t capacity = flashc_cache_capacity(t);
    for (int64_t b = 0; b < p->batch && status == FLASHC_OK; b++) {
        const int64_t end = flashc_lengths_rows(p->seqlens_k, NULL, b, p->seqlen_k);
        if (end > capacity && p->seqlens_k)
            return flashc_fail(FLASHC_ERR_ARGUMENT,
                               "seqlens_k[%" PRId64 "]: expected at most the %" PRId64 " rows of %s, found %" PRId64, b,
                               capacity, name, end);
        if (end > capacity)
            return flashc_fail(FLASHC_ERR_ARGUMENT,
                               "seqlen_k: expected at most the %" PRId64 " rows of %s, found %" PRId64, capacity, name,
                               end);
        const int64_t begin = p->leftpad_k ? flashc_max(0, p->leftpad_k[b] - next_key) : 0;
        status = flashc_cache_check_pages(name, t, b, begin, end);
    }
    return status;
}

static flashc_status check_pages(const flashc_attention_params *p, const flashc_attention_state *state)
{
    flashc_status status = flashc_cache_check_tables_given(&p->block_table, &p->block_table_v);
    if (status == FLASHC_OK && p->block_table.pages)
        status = check_table(p, state, "block_table", &p->block_table);
    if (status == FLASHC_OK && p->block_table_v.pages)
        status = check_table(p, state, "block_table_v", &p->block_table_v);
    return status;
}

flashc_status flashc_check_sequences(const flashc_attention_params *params, const flashc_attention_state *state)
{
    flashc_status status = check_alignment(params);
    if (status == FLASHC_OK)
        status = check_packed(params);
    if (status == FLASHC_OK && state)
        status = check_rows_in_all(params, state);
    if (status == FLASHC_OK)
        status = check_lengths(params, state);
    if (status == FLASHC_OK && state)
        status = check_rows_left(params, state);
    return status == FLASHC_OK ? check_pages(params, state) : status;
}
