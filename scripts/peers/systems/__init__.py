"""One module for each system that is compared. Each has

about() -> str                                 its version, in words
variants(case) -> list[str]                    ways to compute the case; the fastest right one is taken
build(variant, case, arrays, copies) -> Call   ready to run; arrays are brought into its layout here, untimed

A variant that cannot do the case raises, in build or at the first call. Modules import their system when they
are imported, in a process that has nothing else in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..cases import Case
from ..reference import Arrays

# What the worker can import as peers.systems.NAME, in the order of the tables.
NAMES = ("flashc", "torch", "onnxruntime", "openvino", "jax")


class Call(NamedTuple):
    """run(copy) computes on this copy of K and V; output() is the last result, shaped as o of the case."""

    run: Callable[[int], object]
    output: Callable[[], np.ndarray]


def added(case: Case, arrays: Arrays, causal: bool = True) -> np.ndarray | None:
    """What a system without the case's features must add to the scores, [batch, heads, seqlen_q, seqlen_k], the first
    two perhaps 1: bias, ALiBi, -inf for keys beyond lengths, and with causal beyond causal and window. None: nothing.
    """
    parts = [] if arrays.bias is None else [arrays.bias]
    queries, keys = np.arange(case.seqlen_q)[:, None], np.arange(case.seqlen_k)
    if arrays.slopes is not None:
        parts.append(-arrays.slopes[:, None, None] * np.abs(queries - keys).astype(np.float32))
    hidden = np.zeros((1, 1, 1, 1), bool)
    if case.lengths:
        hidden = hidden | (keys >= np.array(case.lengths)[:, None, None, None])
    if case.causal and causal:
        hidden = hidden | (keys > queries)
        if case.window:
            hidden = hidden | (keys <= queries - case.window)
    if hidden.any():
        parts.append(np.where(hidden, np.float32(-np.inf), np.float32(0)))
    if not parts:
        return None
    total = sum(parts)
    heads = total.shape[-3:-2] or (1,)
    shape = (case.batch if case.lengths else 1, *heads, case.seqlen_q, case.seqlen_k)
    return np.ascontiguousarray(np.broadcast_to(total, shape))


def with_sink_key(case: Case, arrays: Arrays, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K and V with one more row, of zeros, and what to add: a key that has the sink's logit for its score."""
    shape = [*(mask.shape[:1] if mask is not None else (1,)), case.heads, case.seqlen_q]
    plain = np.zeros((*shape, case.seqlen_k), np.float32) + (0 if mask is None else mask)
    column = np.broadcast_to(arrays.sinks[:, None, None], (*shape, 1))
    k, v = (np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 0))) for x in (arrays.k, arrays.v))
    return k, v, np.concatenate([plain, column], axis=-1)


def pages(case: Case, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pages [count, heads_k, page, ...] in no order, and the table [batch, pages of a sequence] that finds them."""
    batch, heads, rows = x.shape[:3]
    each = rows // case.page
    order = np.random.default_rng(0).permutation(batch * each).astype(np.int32)
    parts = x.reshape(batch, heads, each, case.page, *x.shape[3:]).swapaxes(1, 2)
    pool = np.empty((batch * each, heads, case.page, *x.shape[3:]), x.dtype)
    pool[order] = parts.reshape(pool.shape)
    return pool, order.reshape(batch, each)


def bshd(x: np.ndarray) -> np.ndarray:
    """[batch, heads, seqlen, dim] -> [batch, seqlen, heads, dim], and back; packed."""
    return np.ascontiguousarray(x.swapaxes(1, 2))
