"""flashc, through its Python package as pip installs it."""

from __future__ import annotations

import flashc
import numpy as np

from ..cases import Case
from ..reference import Arrays
from . import Call


def about() -> str:
    info = flashc.info()
    return f"flashc {info.version} ({' '.join(info.cpu_features)}; BLAS {info.blas})"


def variants(case: Case) -> list[str]:
    return ["attention"]


def build(variant: str, case: Case, arrays: Arrays, copies: int) -> Call:
    q, bias = arrays.q, arrays.bias
    kv = [(arrays.k.copy(), arrays.v.copy()) for _ in range(copies)]
    o = np.empty((*q.shape[:3], case.head_dim_v), q.dtype)
    align = "top-left" if case.causal else None
    window = (case.window - 1, -1) if case.window else None

    def run(copy: int) -> None:
        k, v = kv[copy]
        flashc.attention(
            q, k, v, causal=case.causal, align=align, window=window, bias=bias, out=o, num_threads=case.threads
        )

    return Call(run, lambda: o)
