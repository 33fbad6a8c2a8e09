"""flashc.AttentionState: keys and values chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from . import _core
from ._arrays import index, integers, kind_of, refuse_gradients
from ._call import (ScoreMod, features_of, is_bshd, new_lse, new_output, planned_output, sequences_of,
                    stage_of)

if TYPE_CHECKING:
    import numpy as np


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
    raises spoils the state.
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
        self._in_all = (seqlen_k, integers(seqlens_k))
        self._options = (scale, causal, align, self._bshd, num_threads, kernel, compute)
        self._block_mask = (block_mask, block_mask_tile)
        self._of_scores = (softcap, window, score_mod, alibi_slopes, sinks, seqlens_q, leftpad_k)
        self._cu_seqlens_q = cu_seqlens_q
        self._arrays: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._no_keys: Any = None
        self._taken_over = False  # the arrays are those of another state
        self._piece_n = self.n_nodes = 0
        self.next_key = 0
        """position of the next chunk's first key; may be set before the first chunk"""

    def _call(self, k: Any, v: Any, o: Any, lse: Any, last: tuple[Any, ...], *, mask: Any = None, bias: Any = None,
              k_scale: Any = None, v_scale: Any = None, seqlens_k: Any = None, cu_seqlens_k: Any = None,
              block_table: Any = None, block_table_v: Any = None, scores: Any = None,
              scores_stage: str | None = None, row_max: Any = None) -> tuple[Any, ...]:
        """The arguments of a function of _core: those of explain(), then `last`."""
        softcap, window, score_mod, alibi_slopes, sinks, seqlens_q, leftpad_k = self._of_scores
        block_mask, tile = self._block_mask
        features = features_of(softcap, window, tile, score_mod, alibi_slopes, sinks, block_mask, k_scale, v_scale,
                               seqlens_q, seqlens_k, leftpad_k, scores, None, row_max, scores_stage)
        sequences = sequences_of(self._cu_seqlens_q, cu_seqlens_k, block_table, block_table_v)
        return (self._q, k, v, o, lse, mask, bias, *self._options, sequences, features, *last)

    def _state(self) -> tuple[Any, ...]:
        assert self._arrays is not None
        return (*self._arrays, self._piece_n, self.n_nodes, self.next_key, *self._in_all)

    def _no_keys_seen(self, k: Any, v: Any, **options: Any) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], int]:
        """Arrays for so many keys as there will be in all, and the keys of a piece."""
        import numpy as np

        out = planned_output(self._q)
        levels, rows, width, piece_n = _core.attention_state_init(
            *self._call(k, v, out, None, self._in_all, **options))
        return (np.full((levels, rows), -np.inf, np.float32), np.zeros((levels, rows), np.float32),
                np.zeros((levels, rows, width), np.float32)), piece_n

    def _make_room(self, k: Any, v: Any, **options: Any) -> None:
        """For all keys, in a state that took over the arrays of another, which may be for fewer."""
        assert self._arrays is not None
        arrays, piece_n = self._no_keys_seen(k, v, **options)
        if piece_n != self._piece_n or len(arrays[0]) > len(self._arrays[0]):
            merged = SimpleNamespace()
            _core.attention_state_merge((*arrays, piece_n, 0, 0, *self._in_all), self._state(), merged)
            self._arrays, self._piece_n, self.n_nodes, self.next_key = (
                arrays, piece_n, merged.n_nodes, merged.next_key)
        self._taken_over = False

    def _begin(self, k: Any, v: Any, **options: Any) -> None:
        """Types and head counts of k and v are known with the first chunk."""
        if self._taken_over and self.next_key >= 0:
            self._make_room(k, v, **options)
        if self._arrays is not None:
            return
        import numpy as np

        arrays, self._piece_n = self._no_keys_seen(k, v, **options)
        width = arrays[2].shape[2]
        rank = len(self._q.shape) if self._cu_seqlens_q is None else 4
        batch = [self._q.shape[0] if self._cu_seqlens_q is None else len(self._cu_seqlens_q) - 1]
        heads = [] if rank == 2 else [k.shape[-2 if self._bshd else -3]]
        axes = [0, *heads] if self._bshd else [*heads, 0]
        self._no_keys = tuple(np.zeros([*(batch if rank == 4 else []), *axes, dim], np.float32)
                              for dim in (self._q.shape[-1], width))
        self._arrays = arrays  # the last: Ctrl-C leaves a state that has begun, or one that has not

    def accumulate(self, k: Any, v: Any, *, mask: Any = None, bias: Any = None, k_scale: Any = None,
                   v_scale: Any = None, seqlens_k: Any = None, cu_seqlens_k: Any = None, block_table: Any = None,
                   block_table_v: Any = None, scores: Any = None, scores_stage: str = "scaled",
                   progress: Callable[[int, int], object] | None = None) -> None:
        """Takes a chunk of keys: k and v as in attention(), of the types of caches too, packed or in pages; the others
        for the chunk's keys alone: seqlens_k says how many of the chunk's keys each batch element has, and scores are
        filled with those of its keys (at any stage but "weights", which need all keys). What progress(done, total)
        raises, as Ctrl-C, spoils the state."""
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
            row_max, row_sum, acc = other._arrays
            numbers = row_max.copy(), row_sum.copy(), acc.copy(), other._piece_n, other.n_nodes, other.next_key
            if self.next_key > other.next_key >= 0:  # it was set: of no keys so far, and the next chunk begins there
                numbers = other._one_result(self.next_key)
            self._no_keys, self._arrays, self._piece_n, self.n_nodes, self.next_key, self._taken_over = (
                other._no_keys, numbers[:3], *numbers[3:], True)
            return
        if self._taken_over and self.next_key >= 0:  # its levels may be too few for the other's keys
            numbers = self._one_result(0)
            self._arrays, self._piece_n, self.n_nodes, self.next_key = numbers[:3], *numbers[3:]
        _core.attention_state_merge(self._state(), other._state(), self)

    def _one_result(self, next_key: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int, int]:
        """This state as one partial result, of any number of keys: its arrays, piece_n, n_nodes and next_key, which is
        the larger one."""
        assert self._arrays is not None
        row_max, row_sum, acc = (x[:1].copy() for x in self._arrays)
        merged = SimpleNamespace()
        _core.attention_state_merge((row_max, row_sum, acc, 0, 0, next_key, *self._in_all), self._state(), merged)
        return row_max, row_sum, acc, 0, merged.n_nodes, merged.next_key

    def finish(self, *, out: Any = None, out_dtype: Any = None, return_lse: bool = False, row_max: Any = None) -> Any:
        """o, or (o, lse), over the keys seen so far, as attention() returns them, and row_max filled. More may
        follow."""
        if self._arrays is None:
            raise ValueError("finish: expected a chunk of keys before, found none")
        refuse_gradients(out=out, row_max=row_max)
        k, v = self._no_keys
        o = new_output(self._q, v, self._kind, out_dtype) if out is None else out
        lse = new_lse(self._q, self._kind, self._bshd) if return_lse else None
        _core.attention_finish(*self._call(k, v, o, lse, (self._state(),), row_max=row_max))
        if out is None:
            o = self._kind.result(self._q, o)
        return (o, self._kind.result(self._q, lse)) if return_lse else o

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """row_max, row_sum [levels, rows] and acc [levels, rows, head_dim_v], the state's own; None before a chunk."""
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
        for mine, saved in zip(self._arrays, taken):
            if mine.shape != saved.shape:
                raise ValueError(f"arrays: expected shape {list(mine.shape)}, found {list(saved.shape)}")
        self._arrays, self.n_nodes, self.next_key = (taken[0], taken[1], taken[2]), n_nodes, next_key


def _float32(arrays: Any) -> list[np.ndarray]:
    """Copies of a saved state's arrays."""
    import numpy as np

    try:
        return [np.array(saved, np.float32, order="C") for saved in arrays]
    except (TypeError, ValueError) as error:
        raise TypeError(f"arrays: expected row_max, row_sum and acc, three arrays of float32, found "
                        f"{type(arrays)}: {error}") from None
