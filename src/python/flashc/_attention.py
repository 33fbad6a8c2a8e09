"""flashc.attention and flashc.explain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from . import _core
from ._arrays import Kind, dtype_name, kind_of, refuse_gradients

_BSHD = {"bhsd": False, "bshd": True}
_SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def _is_bshd(layout: str) -> bool:
    try:
        return _BSHD[layout]
    except (KeyError, TypeError):
        raise ValueError(f"layout: expected 'bhsd' or 'bshd', found {layout!r}") from None


def _new_output(q: Any, v: Any, kind: Kind, out_dtype: Any) -> Any:
    """What attention() fills: q's shape with v's last axis."""
    shape = q.shape
    if not 2 <= len(shape) <= 4:
        raise ValueError(f"q: expected 2, 3 or 4 axes, found {len(shape)}: {list(shape)}")
    try:
        head_dim_v = v.shape[-1]
    except (AttributeError, IndexError, TypeError):
        head_dim_v = (kind_of(v, "v")[0].shape or shape)[-1]  # no axes: the extension module says so
    return kind.empty(q, (*shape[:-1], head_dim_v), out_dtype)


def _check_one_type(out: Any, out_dtype: Any) -> None:
    if out is not None and out_dtype is not None:
        raise ValueError("out_dtype: expected None together with out, which has a type of its own")


def _lse_shape(shape: Sequence[int], bshd: bool) -> tuple[int, ...]:
    """[batch, heads, seqlen_q], without the axes that q does not have."""
    if bshd and len(shape) > 2:
        return (*shape[:-3], shape[-2], shape[-3])
    return tuple(shape[:-1])


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
    layout: str = "bhsd",
    out: Any = None,
    out_dtype: Any = None,
    return_lse: bool = False,
    num_threads: int = 0,
    kernel: str | None = None,
    progress: Callable[[int, int], object] | None = None,
    workspace: Any = None,
) -> Any:
    """softmax(scale * q k^T + bias) v over the keys that mask and causal leave visible.

    Parameters
    ----------
    q, k, v:
        Arrays of the same rank, float32, float16 or bfloat16, each its own, any strides, never copied.
        q [batch, num_heads, seqlen_q, head_dim], k [batch, num_heads_k, seqlen_k, head_dim],
        v [batch, num_heads_k, seqlen_k, head_dim_v]; also [heads, seqlen, dim] and [seqlen, dim].
        num_heads is a multiple of num_heads_k: query head h reads K/V head h // (num_heads // num_heads_k).
    scale:
        Factor of q . k; None is 1 / sqrt(head_dim).
    causal, align:
        causal shows query i the keys j <= i + offset; align says the offset and has no default, since frameworks
        disagree: "top-left" (0: torch's is_causal), "bottom-right" (seqlen_k - seqlen_q: FlashAttention, KV caches), or
        the position of query 0: an int, or one int per batch element. Without causal it changes nothing.
    mask:
        bool, True = visible. Broadcasts to [batch, num_heads, seqlen_q, seqlen_k] as NumPy does, whatever the layout.
    bias:
        float32, float16 or bfloat16, added to the scaled scores (-inf hides the key). Broadcasts as mask does.
    layout:
        "bhsd" as above, or "bshd": [batch, seqlen, heads, dim] and [seqlen, heads, dim].
    out:
        Array to fill instead of a new one, q's shape with v's last axis, any of the three types. It must share no
        element with q, k, v, mask or bias: that is checked only where it begins at the same address.
    out_dtype:
        Element type of a new output: "float32", "float16", "bfloat16", or NumPy's or torch's object. None is q's.
    return_lse:
        Return (o, lse); lse float32 [batch, num_heads, seqlen_q], natural log of the sum of exp(score), -inf where no key is visible.
    num_threads:
        0: the OpenMP default, limited by the affinity mask and the container's CPU quota. The result does not depend on it.
    kernel:
        A name from flashc.kernels(); None is the best that fits.
    progress:
        progress(done, total) in work items, called now and then on this thread; what it raises cancels the call.
    workspace:
        A writable buffer aligned to 64 bytes of flashc.explain(...).workspace_size bytes; None allocates.

    Returns
    -------
    o, or (o, lse): out itself, or new arrays of q's kind (a plain buffer or DLPack object gives NumPy). A row
    without visible keys is 0.

    Raises
    ------
    TypeError, ValueError, MemoryError: see `flashc`. RuntimeError: a torch tensor that needs a gradient. KeyboardInterrupt:
    Ctrl-C, within the time of a work item; rows of out are then whole or untouched.
    """
    bshd = _is_bshd(layout)
    _check_one_type(out, out_dtype)
    q, kind = kind_of(q, "q")
    refuse_gradients(q=q, k=k, v=v, bias=bias, out=out)
    o = _new_output(q, v, kind, out_dtype) if out is None else out
    lse = kind.empty(q, _lse_shape(q.shape, bshd), "float32") if return_lse else None
    _core.attention(q, k, v, o, lse, mask, bias, scale, causal, align, bshd, num_threads, kernel, progress, workspace)
    if out is None:
        o = kind.result(q, o)
    return (o, kind.result(q, lse)) if return_lse else o


class Explanation(NamedTuple):
    """The plan of a call: a function of shapes, types, CPU and build, not of the data."""

    kernel: str
    """name, as in flashc.kernels()"""
    gemm: str
    """who multiplies the tiles: "built-in", or OpenBLAS with version, core and build"""
    block_m: int
    """query rows per tile"""
    block_n: int
    """keys per tile"""
    rows_per_item: int
    """query rows that share each loaded key tile"""
    piece_n: int
    """keys are split at multiples of this, by shape alone, and partial results merged in a fixed tree; 0: not split"""
    num_items: int
    """work items: units of scheduling"""
    num_threads: int
    """team size"""
    workspace_size: int
    """bytes"""
    flops: float
    """useful floating-point operations: 2 * (head_dim + head_dim_v) per visible (query, key) pair"""
    refused: dict[str, str]
    """each faster kernel that was not taken, and why"""


def explain(
    q: Any,
    k: Any,
    v: Any,
    *,
    scale: float | None = None,
    causal: bool = False,
    align: str | int | Sequence[int] | None = None,
    mask: Any = None,
    bias: Any = None,
    layout: str = "bhsd",
    out: Any = None,
    out_dtype: Any = None,
    return_lse: bool = False,
    num_threads: int = 0,
    kernel: str | None = None,
) -> Explanation:
    """What attention() would run for these arguments, and why faster kernels were refused. Reads no element and
    makes no array.

    Shapes without memory behind them do: numpy.broadcast_to(numpy.float32(0), shape).
    """
    bshd = _is_bshd(layout)
    _check_one_type(out, out_dtype)
    q, _ = kind_of(q, "q")
    if out is None:  # an output is planned for, not made
        out = _SHORT[dtype_name(q.dtype, "q") if out_dtype is None else dtype_name(out_dtype, "out_dtype")]
    plan = _core.explain(q, k, v, out, None, mask, bias, scale, causal, align, bshd, num_threads, kernel)
    refused = (line.partition(": ") for line in plan[-1].splitlines())
    return Explanation(*plan[:-1], {name: reason for name, _, reason in refused})
