"""flashc.explain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from . import _core
from ._arrays import kind_of
from ._call import ScoreMod, check_one_type, features_of, is_bshd, planned_output, sequences_of, stage_of


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
    """What one work item of a call has to do, counted from shapes, lengths and positions (masks and bias are not
    read)."""

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


def explanation_of(plan: _Plan) -> Explanation:
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
    return_items: bool = False,
) -> Any:
    """The Explanation of what attention() would run for these arguments, all of which it takes, and why faster kernels
    were refused. Reads no element, fills none and makes no array. return_items: (Explanation, list of ItemWork), in the
    order in which whichever thread is free takes the next item: the balance for any num_threads can be worked out of
    it.

    Outputs are checked and change no plan: it is that of o. The pass that fills scores and key_mass comes behind it, in
    the same workspace, and is no part of num_items and flops. return_lse, progress and workspace are not looked at.

    Shapes without memory behind them do: numpy.broadcast_to(numpy.float32(0), shape).
    """
    bshd = is_bshd(layout)
    check_one_type(out, out_dtype)
    q, _ = kind_of(q, "q")
    if out is None:  # an output is planned for, not made; so is lse, which some others need
        out = planned_output(q, out_dtype)
    sequences = sequences_of(cu_seqlens_q, cu_seqlens_k, block_table, block_table_v)
    features = features_of(softcap=softcap, window=window, block_mask_tile=block_mask_tile, score_mod=score_mod,
                           alibi_slopes=alibi_slopes, sinks=sinks, block_mask=block_mask, k_scale=k_scale,
                           v_scale=v_scale, seqlens_q=seqlens_q, seqlens_k=seqlens_k, leftpad_k=leftpad_k,
                           scores=scores, key_mass=key_mass, row_max=row_max,
                           scores_stage=stage_of(scores, scores_stage))
    plan, items = _core.explain(q, k, v, out, "f32", mask, bias, scale, causal, align, bshd, num_threads, kernel,
                                compute, sequences, features, bool(return_items))
    return explanation_of(plan) if items is None else (explanation_of(plan), [ItemWork(*item) for item in items])
