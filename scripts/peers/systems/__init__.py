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

# What the worker can import as peers.systems.NAME, in the order of the tables.
NAMES = ("flashc", "torch", "onnxruntime", "openvino", "jax")


class Call(NamedTuple):
    """run(copy) computes on this copy of K and V; output() is the last result, shaped as o of the case."""

    run: Callable[[int], object]
    output: Callable[[], np.ndarray]


def bshd(x: np.ndarray) -> np.ndarray:
    """[batch, heads, seqlen, dim] -> [batch, seqlen, heads, dim], and back; packed."""
    return np.ascontiguousarray(x.swapaxes(1, 2))
