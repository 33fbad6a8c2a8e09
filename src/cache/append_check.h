/* The checks of an append call, all of them before anything is written. */
#ifndef FLASHC_CACHE_APPEND_CHECK_H
#define FLASHC_CACHE_APPEND_CHECK_H

#include "cache/rows.h"

/* New rows of sequence b, and the first of them in k, v and q. */
static inline int64_t flashc_append_rows(const flashc_append_params *p, int64_t b)
{
    if (p->cu_seqlens_new)
        return p->cu_seqlens_new[b + 1] - p->cu_seqlens_new[b];
    return p->seqlens_new ? p->seqlens_new[b] : p->seqlen_new;
}

static inline int64_t flashc_append_first_row(const flashc_append_params *p, int64_t b)
{
    return p->cu_seqlens_new ? p->cu_seqlens_new[b] : 0;
}

/* Position of the first new row in the rotary tables. */
static inline int64_t flashc_append_rotary_position(const flashc_append_params *p, int64_t b)
{
    return p->rotary_positions ? p->rotary_positions[b] : p->positions[b];
}

flashc_status flashc_append_check(const flashc_append_params *p);

#endif
