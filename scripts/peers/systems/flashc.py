"""flashc, through its Python package as pip installs it."""

from __future__ import annotations

from typing import Any

import flashc
import numpy as np

from ..cases import Case
from ..reference import Arrays
from . import Call, pages


def about() -> str:
    info = flashc.info()
    return f"flashc {info.version} ({' '.join(info.cpu_features)}; BLAS {info.blas})"


def variants(case: Case) -> list[str]:
    return ["attention"]


def build(variant: str, case: Case, arrays: Arrays, copies: int) -> Call:
    q, given = arrays.q, {"k": arrays.k, "v": arrays.v}
    if case.cache:
        given = {"k": arrays.k_codes, "v": arrays.v_codes}
    if case.cache == "i8":
        given |= {"k_scale": arrays.k_scale, "v_scale": arrays.v_scale}
    options: dict[str, Any] = {
        "causal": case.causal,
        "align": "top-left" if case.causal else None,
        "window": (case.window - 1, -1) if case.window else None,
        "bias": arrays.bias,
        "softcap": case.softcap or None,
        "alibi_slopes": arrays.slopes,
        "sinks": arrays.sinks,
        "num_threads": case.threads,
    }
    if case.page:
        found = {name: pages(case, x) for name, x in given.items()}
        given = {name: pool for name, (pool, _) in found.items()}
        options |= {"block_table": found["k"][1], "seqlens_k": [case.seqlen_k] * case.batch}
    if case.lengths:
        q, *rest = (_packed(case, x) for x in (q, *given.values()))
        given = dict(zip(given, rest))
        cu_seqlens = np.cumsum([0, *case.lengths])
        options |= {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens}
    caches = [{name: x.copy() for name, x in given.items()} for _ in range(copies)]
    o = np.empty((*q.shape[:-1], case.head_dim_v), q.dtype)

    def run(copy: int) -> None:
        flashc.attention(q, **caches[copy], out=o, **options)

    return Call(run, lambda: _padded(case, o) if case.lengths else o)


def _packed(case: Case, x: np.ndarray) -> np.ndarray:
    """[batch, heads, seqlen, dim] -> [heads, sum of lengths, dim]."""
    return np.concatenate([x[b, :, :length] for b, length in enumerate(case.lengths)], axis=1)


def _padded(case: Case, x: np.ndarray) -> np.ndarray:
    whole = np.zeros((case.batch, x.shape[0], case.seqlen_q, x.shape[-1]), x.dtype)
    for b, part in enumerate(np.split(x, np.cumsum(case.lengths)[:-1], axis=1)):
        whole[b, :, : part.shape[1]] = part
    return whole
