#include "cli/stream_calls.h"

#include "cli/lengths.h"

/* With a new field of flashc_attention_params this does not build, since what flashc-run makes of a call must know of
 * it: one that points to numbers or rows of each sequence is advanced in flashc_cli_stream_sequence() (or else every
 * sequence of --stream-kv takes those of the first, silently), one of keys is cut in stream_chunks.c, one that a shared
 * prefix does not have is cleared in flashc_cli_stream_prefix(). Then the size here is the new one. */
_Static_assert(sizeof(void *) != 8 || sizeof(flashc_attention_params) == 992, "stream_calls.c knows every field");

flashc_tensor flashc_cli_stream_skip(flashc_tensor whole, int axis, int64_t n)
{
    if (whole.data)
        whole.data = (char *)whole.data + n * whole.stride[axis] * (int64_t)flashc_dtype_size(whole.dtype);
    return whole;
}

int64_t flashc_cli_stream_add(int64_t a, int64_t b)
{
    int64_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return b < 0 ? INT64_MIN : INT64_MAX;
    return sum;
}

/* Of one sequence, neither packed nor in pages. */
static void make_single(flashc_attention_params *p)
{
    p->batch = 1;
    p->cu_seqlens_q = p->cu_seqlens_k = p->seqlens_k = NULL;
    p->block_table = p->block_table_v = (flashc_block_table){.pages = NULL};
}

flashc_attention_params flashc_cli_stream_sequence(const flashc_attention_params *whole, int64_t b)
{
    flashc_attention_params p = *whole;
    flashc_tensor *const of_queries[] = {&p.q, &p.o, &p.lse, &p.row_max, &p.mask, &p.bias, &p.scores};
    for (size_t i = 0; i < sizeof of_queries / sizeof of_queries[0]; i++)
        *of_queries[i] = whole->cu_seqlens_q ? flashc_cli_stream_skip(*of_queries[i], 2, whole->cu_seqlens_q[b])
                                             : flashc_cli_stream_skip(*of_queries[i], 0, b);
    p.block_mask = flashc_cli_stream_skip(p.block_mask, 0, b);
    if (whole->cu_seqlens_q)
        p.seqlen_q = flashc_cli_queries_of(whole, b);
    p.seqlen_k = flashc_cli_keys_of(whole, b);
    make_single(&p);
    const int64_t **const of_batch[] = {&p.seqlens_q, &p.leftpad_k, &p.offsets};
    for (size_t i = 0; i < sizeof of_batch / sizeof of_batch[0]; i++)
        *of_batch[i] = *of_batch[i] ? *of_batch[i] + b : NULL;
    if (p.alibi_slopes)
        p.alibi_slopes += b * p.alibi_batch_stride;
    return p;
}

flashc_attention_params flashc_cli_stream_prefix(const flashc_attention_params *whole,
                                                 const flashc_shared_prefix *prefix)
{
    flashc_attention_params p = *whole;
    if (!whole->cu_seqlens_q) {
        p.q.stride[2] = whole->seqlen_q == 1 ? whole->q.stride[0] : whole->q.stride[2];
        p.seqlen_q = whole->batch * whole->seqlen_q;
    }
    make_single(&p);
    p.causal = 0;
    p.alignment = FLASHC_ALIGN_UNSET;
    p.offsets = NULL;
    p.seqlen_k = prefix->seqlen;
    p.k = prefix->k;
    p.v = prefix->v;
    p.k_scale = prefix->k_scale;
    p.v_scale = prefix->v_scale;
    p.o = flashc_tensor_bhsd(p.o.data, p.o.dtype, p.num_heads, p.seqlen_q, p.head_dim_v);
    p.lse.data = p.row_max.data = NULL;
    p.sinks = NULL;
    return p;
}
