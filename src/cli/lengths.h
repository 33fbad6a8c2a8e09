/* Rows and positions of the sequences of a call, however it says them. flashc_attention_fwd() makes the same of its
 * arguments, inside the library; flashc-run has flashc.h alone. */
#ifndef FLASHC_CLI_LENGTHS_H
#define FLASHC_CLI_LENGTHS_H

#include <flashc.h>

/* Rows of K, and queries, that sequence b has. */
static inline int64_t flashc_cli_keys_of(const flashc_attention_params *p, int64_t b)
{
    return p->cu_seqlens_k ? p->cu_seqlens_k[b + 1] - p->cu_seqlens_k[b]
           : p->seqlens_k  ? p->seqlens_k[b]
                           : p->seqlen_k;
}

static inline int64_t flashc_cli_queries_of(const flashc_attention_params *p, int64_t b)
{
    return p->cu_seqlens_q ? p->cu_seqlens_q[b + 1] - p->cu_seqlens_q[b]
           : p->seqlens_q  ? p->seqlens_q[b]
                           : p->seqlen_q;
}

/* The position of sequence b's query 0 among its keys, of which there are so many rows. */
static inline int64_t flashc_cli_offset_of(const flashc_attention_params *p, int64_t b, int64_t rows)
{
    if (p->alignment == FLASHC_ALIGN_EXPLICIT)
        return p->offsets[b];
    if (p->alignment == FLASHC_ALIGN_BOTTOM_RIGHT)
        return rows - (p->leftpad_k ? p->leftpad_k[b] : 0) - flashc_cli_queries_of(p, b);
    return 0;
}

/* Rows of the longest packed sequence, of which nothing is checked yet; NULL: `otherwise`. */
static inline int64_t flashc_cli_longest_of(const int64_t *cu_seqlens, int64_t batch, int64_t otherwise)
{
    int64_t most = 0, rows;
    for (int64_t b = 0; cu_seqlens && b < batch; b++)
        if (!__builtin_sub_overflow(cu_seqlens[b + 1], cu_seqlens[b], &rows) && rows > most)
            most = rows;
    return cu_seqlens ? most : otherwise;
}

#endif
