"""flashc.attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import _core
from ._arrays import kind_of, refuse_gradients
from ._call import ScoreMod, check_one_type, features_of, is_bshd, new_lse, new_output, sequences_of, stage_of


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    scale: float | None = None,
    causal: bool = False,
    align: str | int | Sequence[int] | None = None,
    mask: Any = None,
    bias: Any = None,
    softcap: float | None = None,
    window: tuple[int | None, int | None] | None = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
    seqlens_q: Any = None,
    seqlens_k: Any = None,
    leftpad_k: Any = None,
    block_mask: Any = None,
    block_mask_tile: tuple[int, int] | None = None,
    k_scale: Any = None,
    v_scale: Any = None,
    score_mod: ScoreMod | None = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_k: Any = None,
    block_table: Any = None,
    block_table_v: Any = None,
    layout: str = "bhsd",
    out: Any = None,
    out_dtype: Any = None,
    return_lse: bool = False,
    scores: Any = None,
    scores_stage: str = "scaled",
    key_mass: Any = None,
    row_max: Any = None,
    num_threads: int = 0,
    kernel: str | None = None,
    compute: str | None = None,
    progress: Callable[[int, int], object] | None = None,
    workspace: Any = None,
) -> Any:
    """softmax(scale * q k^T + bias) v over the keys that masks, causal and window leave visible.

    Parameters
    ----------
    q, k, v:
        Arrays of the same rank, float32, float16 or bfloat16, each its own, any strides, never copied.
        q [batch, num_heads, seqlen_q, head_dim], k [batch, num_heads_k, seqlen_k, head_dim],
        v [batch, num_heads_k, seqlen_k, head_dim_v]; also [heads, seqlen, dim] and [seqlen, dim].
        num_heads is a multiple of num_heads_k: query head h reads K/V head h // (num_heads // num_heads_k).
        k and v may also be int8, float8_e4m3fn or float8_e5m2 (ml_dtypes, torch), or uint8, which is ggml's q8_0: a
        row is its blocks of 32 columns, 34 bytes each.
    scale:
        Factor of q . k; None is 1 / sqrt(head_dim).
    causal, align:
        causal shows query i the keys j <= i + offset; align says the offset and has no default, since frameworks
        disagree: "top-left" (0: torch's is_causal), "bottom-right" (seqlen_k - seqlen_q: FlashAttention, KV caches), or
        the position of query 0: an int, or one int per batch element. window and alibi_slopes need it too; without
        any of the three it changes nothing.
    mask:
        bool, True = visible. Broadcasts to [batch, num_heads, seqlen_q, seqlen_k] as NumPy does, whatever the layout.
    bias:
        float32, float16 or bfloat16, added to the scaled scores (-inf hides the key). Broadcasts as mask does.
    softcap:
        A cap of the scaled scores, before bias and masks: softcap * tanh(score / softcap). None or 0: none.
    window:
        (left, right): query at position p sees the keys p - left to p + right; None or -1 is open. Needs align; of a
        window of N keys that ends at the query's own, left is N - 1.
    alibi_slopes:
        float32, [num_heads] or [batch, num_heads]: the scores lose slope * |p - j|. Needs align.
    sinks:
        float32 [num_heads]: one more logit in each softmax, without a value. lse includes it; -inf is none.
    seqlens_q, seqlens_k, leftpad_k:
        One int per batch element, as a list, an array or a tensor, or an int for all: how many of its queries and keys
        count, and how many of these keys are padding in front. Key positions count from the first key behind it. Rows
        of queries that do not count become 0, and -inf in lse and row_max.
    block_mask, block_mask_tile:
        bool, True = visible, for whole tiles of block_mask_tile = (queries, keys): [batch, num_heads, tiles of queries,
        tiles of keys], the first two perhaps 1 or missing. Hidden tiles are not computed.
    k_scale, v_scale:
        float32, what the elements of k and v are multiplied by: their shape without the last axis, 1 for axes that
        share one. Needed with int8; with float8 the default is 1. Finite and not negative.
    score_mod:
        score_mod(score, b, h, q_idx, kv_idx), as FlexAttention's but on blocks: score is a NumPy float32 array
        [queries, keys], q_idx [queries, 1] and kv_idx [1, keys] are the indices; it returns the scores to take instead,
        -inf to hide: score's shape, or what broadcasts to it, as a number does. Called in the worker threads, where
        calls may overlap, and more than once for the same scores; slow, and for trying things out.
    cu_seqlens_q, cu_seqlens_k:
        Packed sequences, [heads, total, dim]: sequence b has the rows cu_seqlens[b] to cu_seqlens[b + 1] - 1, of q and
        the output, of k and v. mask and bias have a row for each row of q and a column for each row of k. These and the
        next are arrays of int32 or int64, or lists.
    block_table, block_table_v:
        k and v are pages [num_pages, num_heads_k, page_size, dim] (or the layout's order): rows i * page_size and on of
        sequence b are in page block_table[b, i]. seqlens_k says how many rows there are. block_table_v: v's, if others.
    layout:
        "bhsd" as above, or "bshd": [batch, seqlen, heads, dim] and [seqlen, heads, dim].
    out:
        Array to fill instead of a new one, q's shape with v's last axis, any of the three types. It, scores, key_mass
        and row_max must share no element with an input or each other: that is refused. Views that interleave, as of a
        packed buffer of q, k and v, share none.
    out_dtype:
        Element type of a new output: "float32", "float16", "bfloat16", or NumPy's or torch's object. None is q's.
    return_lse:
        Return (o, lse); lse float32 [batch, num_heads, seqlen_q], natural log of the sum of exp(score); where no key is
        visible -inf, or the sink.
    scores, scores_stage:
        Array to fill with the scores, [batch, num_heads, seqlen_q, seqlen_k] whatever the layout, any of the three
        types: "scaled" (scale * q . k), "capped" (after softcap), both of hidden keys too, "masked" (as softmax takes
        them, hidden keys -inf) or "weights" (after softmax): ONNX's qk_matmul_output_mode 0 to 3. Costs q . k once
        more.
    key_mass:
        float32 array to fill, [batch, num_heads, seqlen_k]: the sum over the queries of each key's softmax weights.
    row_max:
        float32 array to fill, of the shape of lse: the largest visible score of each query, -inf without one, NaN
        where lse is.
    num_threads:
        0: the OpenMP default, limited by the affinity mask and the container's CPU quota. The result does not depend on
        it.
    kernel:
        A name from flashc.kernels(); None is the best that fits.
    compute:
        What the products are made in: "f32", or "bf16" to allow kernels that round q, k, v and the softmax weights to
        it. None is "bf16" where q, k and v all are bfloat16 and that is faster, and "f32" otherwise. explain() tells
        what runs.
    progress:
        progress(done, total) in work items, called now and then on this thread, the last time when all are done; what
        it raises cancels the call.
    workspace:
        A writable buffer aligned to 64 bytes of flashc.explain(...).workspace_size bytes; None allocates. That of the
        most keys serves all calls of fewer, all else equal.

    Returns
    -------
    o, or (o, lse): out itself, or new arrays of q's kind (a plain buffer or DLPack object gives NumPy). A row
    without visible keys is 0.

    Raises
    ------
    TypeError, ValueError, MemoryError: see `flashc`. RuntimeError: a torch tensor that needs a gradient.
    KeyboardInterrupt: Ctrl-C, within the time of a work item; rows of out are then whole or untouched.
    """
    bshd = is_bshd(layout)
    check_one_type(out, out_dtype)
    q, kind = kind_of(q, "q")
    refuse_gradients(q=q, k=k, v=v, bias=bias, alibi_slopes=alibi_slopes, sinks=sinks, k_scale=k_scale, v_scale=v_scale,
                     out=out, scores=scores, key_mass=key_mass, row_max=row_max)
    o = new_output(q, v, kind, out_dtype) if out is None else out
    needs_lse = return_lse or key_mass is not None or scores is not None
    lse = new_lse(q, kind, bshd) if needs_lse else None
    sequences = sequences_of(cu_seqlens_q, cu_seqlens_k, block_table, block_table_v)
    features = features_of(softcap=softcap, window=window, block_mask_tile=block_mask_tile, score_mod=score_mod,
                           alibi_slopes=alibi_slopes, sinks=sinks, block_mask=block_mask, k_scale=k_scale,
                           v_scale=v_scale, seqlens_q=seqlens_q, seqlens_k=seqlens_k, leftpad_k=leftpad_k,
                           scores=scores, key_mass=key_mass, row_max=row_max,
                           scores_stage=stage_of(scores, scores_stage))
    _core.attention(q, k, v, o, lse, mask, bias, scale, causal, align, bshd, num_threads, kernel, compute, sequences,
                    features, progress, workspace)
    if out is None:
        o = kind.result(q, o)
    return (o, kind.result(q, lse)) if return_lse else o
