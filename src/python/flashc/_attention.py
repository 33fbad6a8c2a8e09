"""flashc.attention and flashc.explain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from . import _core
from ._arrays import Kind, dtype_name, integers, kind_of, refuse_gradients

ScoreMod = Callable[[Any, int, int, Any, Any], Any]

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
        if getattr(v, "itemsize", 4) == 1 and str(v.dtype).rpartition(".")[2] == "uint8":
            head_dim_v = head_dim_v // 34 * 32  # q8_0: a block
    except (AttributeError, IndexError, TypeError):
        head_dim_v = (kind_of(v, "v")[0].shape or shape)[-1]  # no axes: the extension module says so
    return kind.empty(q, (*shape[:-1], head_dim_v), out_dtype)


def _check_one_type(out: Any, out_dtype: Any) -> None:
    if out is not None and out_dtype is not None:
        raise ValueError("out_dtype: expected None together with out, which has a type of its own")


def _on_bytes(score_mod: ScoreMod) -> Callable[..., bytes]:
    """score_mod as the extension calls it: bytes of float32 in and out."""
    if not callable(score_mod):
        raise TypeError(f"score_mod: expected a function, found {score_mod!r}")
    import numpy as np

    def on_bytes(scores: bytes, n_queries: int, n_keys: int, b: int, h: int, first_query: int, first_key: int) -> bytes:
        score = np.frombuffer(scores, np.float32).reshape(n_queries, n_keys).copy()
        q_idx = np.arange(first_query, first_query + n_queries)[:, None]
        kv_idx = np.arange(first_key, first_key + n_keys)[None]
        result = np.asarray(score_mod(score, b, h, q_idx, kv_idx), np.float32)
        try:
            return np.broadcast_to(result, score.shape).tobytes()
        except ValueError:
            raise ValueError(f"score_mod: expected scores of shape {list(score.shape)}, "
                             f"found {list(result.shape)}") from None

    return on_bytes


def _features(softcap: Any, window: Any, block_mask_tile: Any, score_mod: Any, *arrays: Any) -> tuple[Any, ...] | None:
    """What the extension takes as one argument, since most calls have none of it."""
    if score_mod is not None:
        score_mod = _on_bytes(score_mod)
    features = (softcap, window, block_mask_tile, score_mod, *arrays)
    return None if all(x is None for x in features) else features


def _lse_shape(shape: Sequence[int], bshd: bool) -> tuple[int, ...]:
    """[batch, heads, seqlen_q], without the axes that q does not have."""
    if bshd and len(shape) > 2:
        return (*shape[:-3], shape[-2], shape[-3])
    return tuple(shape[:-1])


def _sequences(*arrays: Any) -> tuple[Any, ...] | None:
    """How sequences lie, for the extension module."""
    for array in arrays:
        if array is not None:
            return tuple(map(integers, arrays))
    return None


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
    seqlens_q: Sequence[int] | None = None,
    seqlens_k: Sequence[int] | None = None,
    leftpad_k: Sequence[int] | None = None,
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
        k and v may also be int8, float8_e4m3fn or float8_e5m2 (ml_dtypes, torch), or uint8, which is ggml's q8_0: a row is
        its blocks of 32 columns, 34 bytes each.
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
        One int per batch element: how many of its queries and keys count, and how many of these keys are padding
        in front. Key positions count from the first key behind it. Rows of queries that do not count become 0.
    block_mask, block_mask_tile:
        bool, True = visible, for whole tiles of block_mask_tile = (queries, keys): [batch, num_heads, tiles of queries,
        tiles of keys], the first two perhaps 1 or missing. Hidden tiles are not computed.
    k_scale, v_scale:
        float32, what the elements of k and v are multiplied by: their shape without the last axis, 1 for axes that share
        one. Needed with int8; with float8 the default is 1. Finite and not negative.
    score_mod:
        score_mod(score, b, h, q_idx, kv_idx), as FlexAttention's but on blocks: score is a NumPy float32 array
        [queries, keys], q_idx [queries, 1] and kv_idx [1, keys] are the indices; it returns the scores to take instead,
        -inf to hide. Called in the worker threads, one at a time; slow, and for trying things out.
    cu_seqlens_q, cu_seqlens_k:
        Packed sequences, [heads, total, dim]: sequence b has the rows cu_seqlens[b] to cu_seqlens[b + 1] - 1, of q and the
        output, of k and v. mask and bias have a row for each row of q and a column for each row of k. These and the next
        are arrays of int32 or int64, or lists.
    block_table, block_table_v:
        k and v are pages [num_pages, num_heads_k, page_size, dim] (or the layout's order): rows i * page_size and on of
        sequence b are in page block_table[b, i]. seqlens_k says how many rows there are. block_table_v: v's, if others.
    layout:
        "bhsd" as above, or "bshd": [batch, seqlen, heads, dim] and [seqlen, heads, dim].
    out:
        Array to fill instead of a new one, q's shape with v's last axis, any of the three types. It must share no
        element with q, k, v, mask or bias: that is checked only where it begins at the same address.
    out_dtype:
        Element type of a new output: "float32", "float16", "bfloat16", or NumPy's or torch's object. None is q's.
    return_lse:
        Return (o, lse); lse float32 [batch, num_heads, seqlen_q], natural log of the sum of exp(score), -inf where no key is visible.
    scores, scores_stage:
        Array to fill with the scores, [batch, num_heads, seqlen_q, seqlen_k] whatever the layout, any of the three
        types: "scaled" (scale * q . k), "capped" (after softcap), both of hidden keys too, "masked" (as softmax takes
        them, hidden keys -inf) or "weights" (after softmax): ONNX's qk_matmul_output_mode 0 to 3. Costs q . k once more.
    key_mass:
        float32 array to fill, [batch, num_heads, seqlen_k]: the sum over the queries of each key's softmax weights.
    row_max:
        float32 array to fill, of the shape of lse: the largest visible score of each query, -inf without one.
    num_threads:
        0: the OpenMP default, limited by the affinity mask and the container's CPU quota. The result does not depend on it.
    kernel:
        A name from flashc.kernels(); None is the best that fits.
    compute:
        What the products are made in: "f32", or "bf16" to allow kernels that round q, k, v and the softmax weights to
        it. None is "bf16" where q, k and v all are bfloat16, and "f32" otherwise. explain() tells what runs.
    progress:
        progress(done, total) in work items, called now and then on this thread, the last time when all are done; what
        it raises cancels the call.
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
    refuse_gradients(q=q, k=k, v=v, bias=bias, alibi_slopes=alibi_slopes, sinks=sinks, out=out)
    o = _new_output(q, v, kind, out_dtype) if out is None else out
    needs_lse = return_lse or key_mass is not None or scores is not None
    lse = kind.empty(q, _lse_shape(q.shape, bshd), "float32") if needs_lse else None
    sequences = _sequences(cu_seqlens_q, cu_seqlens_k, block_table, block_table_v)
    features = _features(softcap, window, block_mask_tile, score_mod, alibi_slopes, sinks, block_mask, k_scale,
                         v_scale, seqlens_q, seqlens_k, leftpad_k, scores, key_mass, row_max,
                         None if scores is None else scores_stage)
    _core.attention(q, k, v, o, lse, mask, bias, scale, causal, align, bshd, num_threads, kernel, compute, sequences,
                    features, progress, workspace)
    if out is None:
        o = kind.result(q, o)
    return (o, kind.result(q, lse)) if return_lse else o


class Explanation(NamedTuple):
    """The plan of a call: a function of shapes, types, CPU and build, not of the data."""

    kernel: str
    """name, as in flashc.kernels()"""
    compute: str
    """type of the products: "f32" or "bf16", see attention()"""
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


class ItemWork(NamedTuple):
    """What one work item of a call has to do, counted from shapes, lengths and positions (masks and bias are not read)."""

    batch: int
    head_k: int
    """batch element and K/V head that it reads"""
    rows: int
    """query rows; of several items over the same rows (keys split) each counts them"""
    first_key: int
    keys: int
    """it loads so many keys from the first on, once for all its rows"""
    pieces: int
    """partial results that it makes of them; 1 unless keys are split"""
    tiles: int
    """at most block_m rows against at most block_n keys"""
    edge_tiles: int
    """of these: where position hides keys of the tile from some row"""
    scores: float
    """elements of the tiles, those hidden and rows that pad a vector included"""
    flops: float
    """useful operations: of all items together Explanation.flops"""


_Plan = tuple[str, str, str, int, int, int, int, int, int, int, float, str]


def _explanation(plan: _Plan) -> Explanation:
    refused = (line.partition(": ") for line in plan[-1].splitlines())
    return Explanation(*plan[:-1], {name: reason for name, _, reason in refused})


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
    softcap: float | None = None,
    window: tuple[int | None, int | None] | None = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
    seqlens_q: Sequence[int] | None = None,
    seqlens_k: Sequence[int] | None = None,
    leftpad_k: Sequence[int] | None = None,
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
    num_threads: int = 0,
    kernel: str | None = None,
    compute: str | None = None,
    return_items: bool = False,
) -> Any:
    """The Explanation of what attention() would run for these arguments, and why faster kernels were refused. Reads no
    element and makes no array. return_items: (Explanation, list of ItemWork), in the order in which whichever thread is
    free takes the next item: the balance for any num_threads can be worked out of it.

    Shapes without memory behind them do: numpy.broadcast_to(numpy.float32(0), shape).
    """
    bshd = _is_bshd(layout)
    _check_one_type(out, out_dtype)
    q, _ = kind_of(q, "q")
    if out is None:  # an output is planned for, not made
        out = _SHORT[dtype_name(q.dtype, "q") if out_dtype is None else dtype_name(out_dtype, "out_dtype")]
    sequences = _sequences(cu_seqlens_q, cu_seqlens_k, block_table, block_table_v)
    features = _features(softcap, window, block_mask_tile, score_mod, alibi_slopes, sinks, block_mask, k_scale,
                         v_scale, seqlens_q, seqlens_k, leftpad_k, None, None, None, None)
    plan, items = _core.explain(q, k, v, out, None, mask, bias, scale, causal, align, bshd, num_threads, kernel, compute,
                                sequences, features, bool(return_items))
    return _explanation(plan) if items is None else (_explanation(plan), [ItemWork(*item) for item in items])
