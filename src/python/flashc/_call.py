"""What attention() and its neighbours share: their arguments as the extension module takes them, and new outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ._arrays import Kind, dtype_name, integers, kind_of

ScoreMod = Callable[[Any, int, int, Any, Any], Any]

_BSHD = {"bhsd": False, "bshd": True}
_SHORT_NAME = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def is_bshd(layout: str) -> bool:
    try:
        return _BSHD[layout]
    except (KeyError, TypeError):
        raise ValueError(f"layout: expected 'bhsd' or 'bshd', found {layout!r}") from None


def new_output(q: Any, v: Any, kind: Kind, out_dtype: Any) -> Any:
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
    dtype = None if out_dtype is None else dtype_name(out_dtype, "out_dtype")
    return kind.empty(q, (*shape[:-1], head_dim_v), dtype)


def check_one_type(out: Any, out_dtype: Any) -> None:
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
        returned = score_mod(score, b, h, q_idx, kv_idx)
        if returned is None:  # of a function that changed its block in place; NumPy would make it NaN
            raise TypeError(f"score_mod: expected scores of shape {list(score.shape)}, found None")
        result = np.asarray(returned, np.float32)
        try:
            changed: bytes = np.broadcast_to(result, score.shape).tobytes()
        except ValueError:
            raise ValueError(f"score_mod: expected scores of shape {list(score.shape)}, "
                             f"found {list(result.shape)}") from None
        return changed

    return on_bytes


def stage_of(scores: Any, scores_stage: str) -> str | None:
    """What scores are filled with, as the extension takes it."""
    if scores is None and scores_stage != "scaled":
        raise ValueError(f"scores_stage: expected 'scaled' without scores, found {scores_stage!r}")
    return None if scores is None else scores_stage


class Features(NamedTuple):
    """What the extension takes as one argument, since most calls have none of it; in its order."""

    softcap: float | None
    window: tuple[int | None, int | None] | None
    block_mask_tile: tuple[int, int] | None
    score_mod: Callable[..., bytes] | None
    alibi_slopes: Any
    sinks: Any
    block_mask: Any
    k_scale: Any
    v_scale: Any
    seqlens_q: Any
    seqlens_k: Any
    leftpad_k: Any
    scores: Any
    key_mass: Any
    row_max: Any
    scores_stage: str | None


def features_of(
    *, softcap: float | None = None, window: tuple[int | None, int | None] | None = None,
    block_mask_tile: tuple[int, int] | None = None, score_mod: ScoreMod | None = None, alibi_slopes: Any = None,
    sinks: Any = None, block_mask: Any = None, k_scale: Any = None, v_scale: Any = None, seqlens_q: Any = None,
    seqlens_k: Any = None, leftpad_k: Any = None, scores: Any = None, key_mass: Any = None, row_max: Any = None,
    scores_stage: str | None = None,
) -> Features | None:
    """None where none of it is given."""
    if block_mask is None and block_mask_tile is not None:
        raise ValueError(f"block_mask_tile: expected None without block_mask, found {block_mask_tile!r}")
    features = Features(softcap=softcap, window=window, block_mask_tile=block_mask_tile,
                        score_mod=None if score_mod is None else _on_bytes(score_mod), alibi_slopes=alibi_slopes,
                        sinks=sinks, block_mask=block_mask, k_scale=k_scale, v_scale=v_scale, seqlens_q=seqlens_q,
                        seqlens_k=seqlens_k, leftpad_k=leftpad_k, scores=scores, key_mass=key_mass, row_max=row_max,
                        scores_stage=scores_stage)
    return None if all(x is None for x in features) else features


def new_lse(q: Any, kind: Kind, bshd: bool) -> Any:
    """[batch, heads, seqlen_q], without the axes that q does not have."""
    shape = q.shape
    lse_shape = (*shape[:-3], shape[-2], shape[-3]) if bshd and len(shape) > 2 else tuple(shape[:-1])
    return kind.empty(q, lse_shape, "float32")


def planned_output(q: Any, out_dtype: Any = None) -> str:
    """The type of an output that is planned for, not made, as the extension takes it."""
    return _SHORT_NAME[dtype_name(q.dtype, "q") if out_dtype is None else dtype_name(out_dtype, "out_dtype")]


def sequences_of(*arrays: Any) -> tuple[Any, ...] | None:
    """How sequences lie, for the extension module."""
    for array in arrays:
        if array is not None:
            return tuple(map(integers, arrays))
    return None
