"""flashc.AttentionState: keys and values chunk by chunk."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

from . import _core
from ._arrays import index, integers, kind_of, refuse_gradients
from ._call import (ScoreMod, features_of, is_bshd, new_lse, new_output, planned_output, sequences_of,
                    stage_of)

if TYPE_CHECKING:
    import numpy as np

    _Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


class AttentionState:
    """Attention of q whose keys come chunk by chunk: larger than memory, or arriving over time.

        state = flashc.AttentionState(q, seqlen_k=1_000_000)  # the most keys there will be
        for k, v in chunks:
            state.accumulate(k, v)
        o = state.finish()

    The result is that of attention() on all keys: the same bits where chunks end at multiples of the keys of a tile
    (flashc.explain(...).block_n), within the stated bound elsewhere. Row 0 of a chunk is row `next_key` of all; causal,
    window and ALiBi count positions among all.

    q, scale, causal, align, softcap, window, block_mask, block_mask_tile, alibi_slopes, score_mod, sinks, seqlens_q,
    leftpad_k, cu_seqlens_q, layout, num_threads, kernel, compute: as in attention() on all keys. A score_mod that
    raises spoils the state, which clear() makes one of no keys.
    seqlens_k: how many keys each batch element will have in all, if not seqlen_k; align "bottom-right" needs it where
    chunks have seqlens_k or cu_seqlens_k.

    q and the other arrays given here are kept, not copied: leave them as they are until the last finish(). One thread
    at a time per state.

    To save a state write `arrays()` and the ints `n_nodes` and `next_key` somewhere; to restore it, give them to
    `restore()` of a state made with the same arguments.
    """

    def __init__(self, q: Any, *, seqlen_k: int, scale: float | None = None, causal: bool = False, align: Any = None,
                 softcap: float | None = None, window: Any = None, block_mask: Any = None,
                 block_mask_tile: tuple[int, int] | None = None, alibi_slopes: Any = None,
                 score_mod: ScoreMod | None = None, sinks: Any = None, seqlens_q: Any = None, seqlens_k: Any = None,
                 leftpad_k: Any = None, cu_seqlens_q: Any = None, layout: str = "bhsd", num_threads: int = 0,
                 kernel: str | None = None, compute: str | None = None) -> None:
        refuse_gradients(q=q, alibi_slopes=alibi_slopes, sinks=sinks)
        self._bshd = is_bshd(layout)
        self._q, self._kind = kind_of(q, "q")
        self._in_all = (seqlen_k, self._lengths(integers(seqlens_k), integers(cu_seqlens_q)))
        self._options = (scale, causal, align, self._bshd, num_threads, kernel, compute)
        self._features = functools.partial(
            features_of, softcap=softcap, window=window, block_mask_tile=block_mask_tile, score_mod=score_mod,
            alibi_slopes=alibi_slopes, sinks=sinks, block_mask=block_mask, seqlens_q=seqlens_q, leftpad_k=leftpad_k)
        self._cu_seqlens_q = cu_seqlens_q
        self._arrays: _Arrays | None = None
        self._piece_n: int | None = None  # goes by the first chunk; what is merged before is one piece, however long
        self.n_nodes = 0
        self.next_key = 0
        """position of the next chunk's first key; may be set before the first chunk"""

    def _lengths(self, seqlens_k: Any, cu_seqlens_q: Any) -> Any:
        """An int is that of all batch elements."""
        if not hasattr(seqlens_k, "__index__") or isinstance(seqlens_k, bool) or getattr(seqlens_k, "shape", ()) != ():
            return seqlens_k
        each = [index(seqlens_k, "seqlens_k")]
        if hasattr(cu_seqlens_q, "__len__"):
            return each * (len(cu_seqlens_q) - 1)
        return each * (self._q.shape[0] if len(self._q.shape) == 4 else 1)

    def _call(self, k: Any, v: Any, o: Any, lse: Any, last: tuple[Any, ...], *, mask: Any = None, bias: Any = None,
              k_scale: Any = None, v_scale: Any = None, seqlens_k: Any = None, cu_seqlens_k: Any = None,
              block_table: Any = None, block_table_v: Any = None, scores: Any = None,
              scores_stage: str | None = None, row_max: Any = None) -> tuple[Any, ...]:
        """The arguments of a function of _core: those of explain(), then `last`."""
        features = self._features(k_scale=k_scale, v_scale=v_scale, seqlens_k=seqlens_k, scores=scores, row_max=row_max,
                                  scores_stage=scores_stage)
        sequences = sequences_of(self._cu_seqlens_q, cu_seqlens_k, block_table, block_table_v)
        return (self._q, k, v, o, lse, mask, bias, *self._options, sequences, features, *last)

    def _state(self) -> tuple[Any, ...]:
        """As a function of _core takes it."""
        assert self._arrays is not None
        return (*self._arrays, self._piece_n or 0, self.n_nodes, self.next_key, *self._in_all)

    def _begin(self, k: Any, v: Any, **options: Any) -> None:
        """Makes room for all keys, if this is the first chunk: its types and heads say how many pieces they are."""
        if self._piece_n is not None:
            return
        out = planned_output(self._q)
        *shape, piece_n = _core.attention_state_init(*self._call(k, v, out, None, self._in_all, **options))
        arrays = _of_no_keys(shape)
        if self._arrays is None:
            self._arrays, self._piece_n = arrays, piece_n
        else:
            self._become(arrays, piece_n, self)

    def _become(self, arrays: _Arrays, piece_n: int | None, seen: AttentionState) -> None:
        """Takes these arrays, of no keys, and into them what `seen` has seen; next_key becomes the larger of both."""
        merged = SimpleNamespace()
        into = (*arrays, piece_n or 0, 0, self.next_key, *self._in_all)
        _core.attention_state_merge(into, seen._state(), merged)
        # All at once, without a call between: Ctrl-C leaves the state as it was, or whole.
        self._arrays, self._piece_n, self.n_nodes, self.next_key = arrays, piece_n, merged.n_nodes, merged.next_key

    def __reduce__(self) -> NoReturn:
        raise TypeError("AttentionState: cannot be pickled or copied; save arrays(), n_nodes and next_key, and give "
                        "them to restore() of a state made with the same arguments")

    def clear(self) -> None:
        """Forgets all keys: the state is as it was made, also where a chunk that was cancelled has spoiled it."""
        self._arrays, self._piece_n, self.n_nodes, self.next_key = None, None, 0, 0

    def accumulate(self, k: Any, v: Any, *, mask: Any = None, bias: Any = None, k_scale: Any = None,
                   v_scale: Any = None, seqlens_k: Any = None, cu_seqlens_k: Any = None, block_table: Any = None,
                   block_table_v: Any = None, scores: Any = None, scores_stage: str = "scaled",
                   progress: Callable[[int, int], object] | None = None) -> None:
        """Takes a chunk of keys: k and v as in attention(), of the types of caches too, packed or in pages; the others
        for the chunk's keys alone: seqlens_k says how many of the chunk's keys each batch element has, and scores are
        filled with those of its keys (at any stage but "weights", which need all keys). What progress(done, total)
        raises, as Ctrl-C, spoils the state: clear() it, or restore() what was saved."""
        refuse_gradients(k=k, v=v, bias=bias, k_scale=k_scale, v_scale=v_scale, scores=scores)
        k, v = kind_of(k, "k")[0], kind_of(v, "v")[0]
        lies = {"k_scale": k_scale, "v_scale": v_scale, "seqlens_k": seqlens_k, "cu_seqlens_k": cu_seqlens_k,
                "block_table": block_table, "block_table_v": block_table_v}
        self._begin(k, v, mask=mask, bias=bias, **lies)
        out = planned_output(self._q)
        arguments = self._call(k, v, out, None, (self._state(), progress, self), mask=mask, bias=bias, scores=scores,
                               scores_stage=stage_of(scores, scores_stage), **lies)
        _core.attention_accumulate(*arguments)

    def merge(self, other: AttentionState) -> None:
        """Takes what another state, of the same queries and other keys, has seen."""
        if not isinstance(other, AttentionState):
            raise TypeError(f"other: expected an AttentionState, found {other!r}")
        if other._arrays is None:
            return
        if self._arrays is None:
            one_level = _of_no_keys([1, math.prod(self._q.shape[:-1]), other._arrays[2].shape[2]])
            self._become(one_level, None, other)
        else:
            _core.attention_state_merge(self._state(), other._state(), self)

    def finish(self, *, out: Any = None, out_dtype: Any = None, return_lse: bool = False, row_max: Any = None) -> Any:
        """o, or (o, lse), over the keys seen so far, as attention() returns them, and row_max filled. More may
        follow."""
        if self._arrays is None:
            raise ValueError("finish: expected a chunk of keys before, found none")
        refuse_gradients(out=out, row_max=row_max)
        k, v = self._no_keys(self._arrays[2].shape[2])
        o = new_output(self._q, v, self._kind, out_dtype) if out is None else out
        lse = new_lse(self._q, self._kind, self._bshd) if return_lse else None
        _core.attention_finish(*self._call(k, v, o, lse, (self._state(),), row_max=row_max))
        if out is None:
            o = self._kind.result(self._q, o)
        return (o, self._kind.result(self._q, lse)) if return_lse else o

    def _no_keys(self, head_dim_v: int) -> tuple[np.ndarray, np.ndarray]:
        """k and v of finish(), which looks at their shapes alone."""
        import numpy as np

        axes = len(self._q.shape)
        rows = axes - (3 if self._bshd and axes > 2 else 2)
        shape = [0 if axis == rows else size for axis, size in enumerate(self._q.shape[:-1])]
        if self._cu_seqlens_q is not None:  # packed: k and v are a batch
            shape.insert(0, len(self._cu_seqlens_q) - 1)
        return np.zeros((*shape, *self._q.shape[-1:]), np.float32), np.zeros((*shape, head_dim_v), np.float32)

    def arrays(self) -> _Arrays | None:
        """row_max, row_sum [levels, rows] and acc [levels, rows, head_dim_v], the state's own; None before a chunk or
        merge."""
        return self._arrays

    def restore(self, k: Any, v: Any, arrays: tuple[Any, Any, Any], n_nodes: int, next_key: int, *, mask: Any = None,
                bias: Any = None) -> None:
        """Takes up a saved state. k, v: any chunk of the types and heads that follow, even of no keys; where chunks are
        packed or in pages, a batch of no keys, [batch, num_heads_k, 0, dim]. With its mask or bias if chunks have one.
        The arrays are copied."""
        self._begin(kind_of(k, "k")[0], kind_of(v, "v")[0], mask=mask, bias=bias)
        assert self._arrays is not None
        taken, n_nodes, next_key = _float32(arrays), index(n_nodes, "n_nodes"), index(next_key, "next_key")
        if len(taken) != 3:
            raise ValueError(f"arrays: expected row_max, row_sum and acc, found {len(taken)} arrays")
        room = _of_no_keys(self._arrays[2].shape)
        one_level = taken[0].shape[:1] == (1,)  # of merges without a chunk: the others hold nothing yet
        for mine, saved in zip((x[:1] for x in room) if one_level else room, taken):
            if mine.shape != saved.shape:
                raise ValueError(f"arrays: expected shape {list(mine.shape)}, found {list(saved.shape)}")
            mine[...] = saved
        self._arrays, self.n_nodes, self.next_key = room, n_nodes, next_key


def _of_no_keys(shape: Sequence[int]) -> _Arrays:
    """A state's arrays, [levels, rows, head_dim_v]."""
    import numpy as np

    return (np.full(shape[:2], -np.inf, np.float32), np.zeros(shape[:2], np.float32), np.zeros(shape, np.float32))


def _float32(arrays: Any) -> list[np.ndarray]:
    """A saved state's arrays."""
    import numpy as np

    try:
        return [np.asarray(saved, np.float32) for saved in arrays]
    except (TypeError, ValueError) as error:
        raise TypeError(f"arrays: expected row_max, row_sum and acc, three arrays of float32, found "
                        f"{type(arrays)}: {error}") from None
