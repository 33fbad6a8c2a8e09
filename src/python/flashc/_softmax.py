"""Softmax, the mergeable online-softmax state, partial results, the step-by-step trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import _core
from ._arrays import index, kind_of, refuse_gradients
from ._call import is_bshd, new_lse

# flashc_trace_step, all of them float64.
_TRACE_FIELDS = (
    "x", "row_max", "denom_standard", "denom_online", "scale", "correction", "p_standard", "p_online",
)


def softmax(x: Any, *, out: Any = None, return_lse: bool = False) -> Any:
    """Softmax over the last axis.

    x: [..., n], float32, float16 or bfloat16, contiguous last axis, rows at one constant stride. -inf leaves an
    element out; a row of nothing but -inf gives zeros. out: x's shape and type, may be x. Returns out or a new y of
    x's kind, or (y, lse) with lse [...] float32, the natural log of the sum of exp.
    """
    x, kind = kind_of(x, "x")
    refuse_gradients(x=x, out=out)
    y = kind.empty(x, tuple(x.shape), None) if out is None else out
    lse = kind.empty(x, tuple(x.shape[:-1]), "float32") if return_lse else None
    _core.softmax(x, y, lse)
    y = kind.result(x, y) if out is None else out
    if return_lse:
        return y, kind.result(x, lse)
    return y


def _parts(parts: Sequence[Any], argument: str) -> tuple[Any, ...]:
    try:
        return tuple(parts)
    except TypeError:
        raise TypeError(f"{argument}: expected a sequence of arrays, found {parts!r}") from None


def merge_partials(o_parts: Sequence[Any], lse_parts: Sequence[Any], *, layout: str = "bhsd") -> tuple[Any, Any]:
    """Merges attention results over disjoint keys into exact attention over their union, in a fixed binary tree.

    o_parts, lse_parts: the o and lse (natural log) of attention(), float32, C-contiguous; at least one of each. A row
    whose lse is -inf is the identity, whatever its o holds.
    layout: "bhsd", o [..., head_dim_v] and lse [...], or "bshd", o [batch, seqlen, heads, head_dim_v] or [seqlen,
    heads, head_dim_v] and lse [batch, heads, seqlen] or [heads, seqlen]: as attention() had it. Where seqlen is the
    number of heads the shapes do not tell.

    Returns (o, lse) in the same layout, of the kind of o_parts[0]. merge_states is another name of this function.
    """
    bshd = is_bshd(layout)
    o_tuple, lse_tuple = _parts(o_parts, "o_parts"), _parts(lse_parts, "lse_parts")
    if not o_tuple:
        raise ValueError("o_parts: expected at least one array, found none")
    first, kind = kind_of(o_tuple[0], "o_parts")
    for o_part, lse_part in zip(o_tuple, lse_tuple):
        refuse_gradients(o_parts=o_part, lse_parts=lse_part)
    o = kind.empty(first, tuple(first.shape), "float32")
    if bshd and not 2 <= len(first.shape) <= 4:
        raise ValueError(f"o_parts: expected 2, 3 or 4 axes in layout 'bshd', found {len(first.shape)}: "
                         f"{list(first.shape)}")
    lse = new_lse(first, kind, bshd)
    _core.merge_partials(o_tuple, lse_tuple, o, lse, bshd)
    return kind.result(first, o), kind.result(first, lse)


merge_states = merge_partials  # as other libraries call it


def _size(size: int, argument: str) -> int:
    value = index(size, argument)
    if value < 0:
        raise ValueError(f"{argument}: expected 0 or more, found {value}")
    return value


class SoftmaxState:
    """The online softmax over any set of keys seen so far, for `rows` query rows.

    row_max [rows] = max s_j, row_sum [rows] = sum exp(s_j - row_max), acc [rows, head_dim_v] = sum exp(s_j - row_max)
    v_j: NumPy arrays, float32. States over disjoint keys merge. One thread at a time per state.
    """

    def __init__(self, rows: int, head_dim_v: int = 0) -> None:
        import numpy

        rows, head_dim_v = _size(rows, "rows"), _size(head_dim_v, "head_dim_v")
        self.row_max = numpy.empty(rows, numpy.float32)
        self.row_sum = numpy.empty(rows, numpy.float32)
        self.acc = numpy.empty((rows, head_dim_v), numpy.float32)
        _core.state_init(*self._arrays())

    def _arrays(self) -> tuple[Any, Any, Any]:
        return self.row_max, self.row_sum, self.acc

    def update(self, scores: Any, v: Any = None) -> None:
        """Takes n more keys: scores [rows, n] float32, natural units, -inf hides; v [n, head_dim_v] float32."""
        refuse_gradients(scores=scores, v=v)
        if v is None and self.acc.shape[1] != 0:
            raise ValueError(f"v: expected [n, {self.acc.shape[1]}], found None")
        _core.state_update(*self._arrays(), scores, v)

    def merge(self, other: SoftmaxState) -> None:
        """Takes the keys of another state, which stays as it is."""
        if not isinstance(other, SoftmaxState):
            raise TypeError(f"other: expected a SoftmaxState, found an object of type {type(other)}")
        _core.state_merge(*self._arrays(), *other._arrays())

    def finish(self) -> tuple[Any, Any]:
        """(o [rows, head_dim_v], lse [rows]), float32; the state stays as it is."""
        import numpy

        o, lse = numpy.empty_like(self.acc), numpy.empty_like(self.row_max)
        _core.state_finish(*self._arrays(), o if self.acc.shape[1] else None, lse)
        return o, lse


def trace(x: Any) -> Any:
    """The online softmax step by step, in float64.

    x: sequence of n finite numbers. Returns a NumPy structured array [n]: x, row_max (m_i), denom_standard (d_i, with
    the final max), denom_online (d'_i, with the running max), scale (exp(m_N - m_i): d'_i = d_i * scale), correction
    (exp(m_{i-1} - m_i), what the step multiplied the old sum by), p_standard, p_online.
    """
    import numpy

    if isinstance(x, numpy.ma.MaskedArray):  # asarray() forgets the mask
        raise TypeError("x: expected numbers without a mask, found numpy.ma.MaskedArray; pass compressed()")
    try:
        x = numpy.asarray(x).astype(numpy.float64, order="C", casting="same_kind", copy=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"x: expected a sequence of numbers, found {type(x)}: {error}") from None
    if x.ndim != 1:
        raise ValueError(f"x: expected 1 axis, found {x.ndim}: {list(x.shape)}")
    steps = numpy.empty(len(x), [(name, numpy.float64) for name in _TRACE_FIELDS])
    _core.trace(x, steps.view(numpy.uint8))
    return steps
