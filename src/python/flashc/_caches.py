"""flashc.append_kv."""

from __future__ import annotations

from typing import Any

from . import _core
from ._arrays import integers, kind_of, refuse_gradients
from ._call import is_bshd


def append_kv(
    k: Any,
    v: Any,
    k_cache: Any,
    v_cache: Any,
    positions: Any,
    *,
    seqlens: Any = None,
    cu_seqlens: Any = None,
    block_table: Any = None,
    block_table_v: Any = None,
    q: Any = None,
    q_out: Any = None,
    cos: Any = None,
    sin: Any = None,
    interleaved: bool = False,
    k_scale: Any = None,
    v_scale: Any = None,
    rotary_positions: Any = None,
    layout: str = "bhsd",
) -> Any:
    """Writes new rows of k and v into caches, converted to the caches' type; k and q rotated if cos and sin are given.

    Parameters
    ----------
    k, v:
        New rows [batch, num_heads_k, seqlen, dim], float32, float16 or bfloat16, each its own, any strides; [heads,
        seqlen, dim] is one sequence, or packed ones. None together with its cache: nothing of it is written.
    k_cache, v_cache:
        Filled in place: [batch, num_heads_k, rows, dim], or pages [num_pages, num_heads_k, page_size, dim] with
        block_table; of any type that flashc.attention() reads.
    k_scale, v_scale:
        float32, of the caches' shape without its last axis. int8: filled in place, each new row gets max|row| / 127 and
        the codes nearest to row / scale. float8: what rows are divided by, sizes of 1 repeat; None: 1.
    positions:
        One int per sequence: row i of its new rows becomes row positions[b] + i of its cache.
    seqlens, cu_seqlens:
        How many of the new rows each sequence has; or the new rows are packed, see flashc.attention().
    block_table, block_table_v:
        The caches are pages, see flashc.attention().
    q, q_out:
        The queries of the same positions, to be rotated like k: into q_out (which may be q), or a new array.
    cos, sin:
        [positions, rotary_dim / 2]: the angles' cosines and sines. The columns from rotary_dim on stay as they are.
    interleaved:
        Rotate columns 2d and 2d + 1 together (GPT-J), not d and d + rotary_dim / 2 (Llama, GPT-NeoX).
    rotary_positions:
        Position of each sequence's first new row in cos and sin; None: positions.
    layout:
        "bhsd" as above, or "bshd", of all arrays.

    All arrays of ints are int32 or int64, or lists. Returns the rotated queries, or None without q. Everything is
    checked before anything is written; see `flashc` for the exceptions.
    """
    bshd = is_bshd(layout)
    refuse_gradients(k=k, v=v, k_cache=k_cache, v_cache=v_cache, q=q, q_out=q_out, cos=cos, sin=sin, k_scale=k_scale,
                     v_scale=v_scale)
    kind = None
    if q is not None and q_out is None:
        q, kind = kind_of(q, "q")
        q_out = kind.empty(q, tuple(q.shape), None)
    _core.append(
        k, v, k_cache, v_cache, q, q_out, cos, sin, k_scale, v_scale, integers(positions), integers(seqlens),
        integers(cu_seqlens), integers(block_table), integers(block_table_v), integers(rotary_positions), interleaved,
        bshd,
    )
    return q_out if kind is None else kind.result(q, q_out)
