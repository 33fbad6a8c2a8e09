"""flashc.shared_prefix_attention() and flashc.explain_shared_prefix(): keys that sequences share, read once for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import _core
from ._arrays import Kind, kind_of, refuse_gradients
from ._call import check_one_type, features_of, is_bshd, new_lse, new_output, planned_output, sequences_of
from ._explain import Explanation, explanation_of


def _rows_in_line(q: Any, kind: Kind, bshd: bool, filled: bool = True) -> Any:
    """q, or a copy, with the rows of all sequences one after the other in memory."""
    if len(q.shape) != 4:
        return q
    rows = 1 if bshd else 2
    if q.shape[0] < 2 or q.shape[rows] < 2:
        return q
    strides = kind.strides(q)
    if strides is not None and strides[0] == q.shape[rows] * strides[rows]:
        return q
    if bshd:
        in_line = kind.empty(q, tuple(q.shape), None)
    else:
        batch, heads, seqlen, dim = q.shape
        in_line = kind.empty(q, (batch, seqlen, heads, dim), None).swapaxes(1, 2)
    if filled:
        in_line[...] = q
    return in_line


def shared_prefix_attention(
    q: Any,
    prefix_k: Any,
    prefix_v: Any,
    k: Any,
    v: Any,
    *,
    scale: float | None = None,
    causal: bool = False,
    align: str | int | Sequence[int] = "bottom-right",
    softcap: float | None = None,
    sinks: Any = None,
    seqlens_k: Any = None,
    k_scale: Any = None,
    v_scale: Any = None,
    prefix_k_scale: Any = None,
    prefix_v_scale: Any = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_k: Any = None,
    block_table: Any = None,
    block_table_v: Any = None,
    layout: str = "bhsd",
    out: Any = None,
    out_dtype: Any = None,
    return_lse: bool = False,
    row_max: Any = None,
    num_threads: int = 0,
    kernel: str | None = None,
    compute: str | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Any:
    """Attention of sequences that share their first keys, which are read once for the queries of all of them.

    q, k and v as in attention(): each sequence's own keys, behind the prefix, which may be packed, in pages, or none.
    prefix_k, prefix_v: [num_heads_k, seqlen_prefix, dim], in "bshd" [seqlen_prefix, num_heads_k, dim], of any type that
    k and v may have; prefix_k_scale, prefix_v_scale: their scales, of the shape without the last axis. All prefix keys
    are visible; causal hides own keys, and align says where query 0 is among them. q is copied where the queries of all
    sequences do not lie one after the other in memory (as they do in "bshd"). The other options, and what is returned,
    as in attention(). The result is within the stated bound.
    """
    bshd = is_bshd(layout)
    check_one_type(out, out_dtype)
    q, kind = kind_of(q, "q")
    refuse_gradients(q=q, prefix_k=prefix_k, prefix_v=prefix_v, k=k, v=v, sinks=sinks, k_scale=k_scale, v_scale=v_scale,
                     prefix_k_scale=prefix_k_scale, prefix_v_scale=prefix_v_scale, out=out, row_max=row_max)
    o = new_output(q, v, kind, out_dtype) if out is None else out
    lse = new_lse(q, kind, bshd) if return_lse else None
    in_line = _rows_in_line(q, kind, bshd)
    sequences = sequences_of(cu_seqlens_q, cu_seqlens_k, block_table, block_table_v)
    features = features_of(softcap=softcap, sinks=sinks, k_scale=k_scale, v_scale=v_scale, seqlens_k=seqlens_k,
                           row_max=row_max)
    _core.shared_prefix_attention(in_line, k, v, o, lse, None, None, scale, causal, align if causal else None, bshd,
                                  num_threads, kernel, compute, sequences, features, progress, None, prefix_k, prefix_v,
                                  prefix_k_scale, prefix_v_scale)
    if out is None:
        o = kind.result(q, o)
    return (o, kind.result(q, lse)) if return_lse else o


def explain_shared_prefix(
    q: Any,
    prefix_k: Any,
    prefix_v: Any,
    k: Any,
    v: Any,
    *,
    scale: float | None = None,
    causal: bool = False,
    align: str | int | Sequence[int] = "bottom-right",
    softcap: float | None = None,
    sinks: Any = None,
    seqlens_k: Any = None,
    k_scale: Any = None,
    v_scale: Any = None,
    prefix_k_scale: Any = None,
    prefix_v_scale: Any = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_k: Any = None,
    block_table: Any = None,
    block_table_v: Any = None,
    layout: str = "bhsd",
    out: Any = None,
    out_dtype: Any = None,
    return_lse: bool = False,
    row_max: Any = None,
    num_threads: int = 0,
    kernel: str | None = None,
    compute: str | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[Explanation, Explanation]:
    """What shared_prefix_attention() would run for these arguments, all of which it takes: on the prefix, and on each
    sequence's own keys. Reads no element and fills none; return_lse and progress are not looked at."""
    bshd = is_bshd(layout)
    check_one_type(out, out_dtype)
    q, kind = kind_of(q, "q")
    if out is None:
        out = planned_output(q, out_dtype)
    in_line = _rows_in_line(q, kind, bshd, filled=False)
    sequences = sequences_of(cu_seqlens_q, cu_seqlens_k, block_table, block_table_v)
    features = features_of(softcap=softcap, sinks=sinks, k_scale=k_scale, v_scale=v_scale, seqlens_k=seqlens_k,
                           row_max=row_max)
    on_prefix, own = _core.explain_shared_prefix(
        in_line, k, v, out, None, None, None, scale, causal, align if causal else None, bshd, num_threads, kernel,
        compute, sequences, features, prefix_k, prefix_v, prefix_k_scale, prefix_v_scale)
    return explanation_of(on_prefix), explanation_of(own)
