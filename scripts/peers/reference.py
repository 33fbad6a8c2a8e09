"""The arrays of a case, the same for every system, and what is right: plain float64."""

from __future__ import annotations

import dataclasses
import pathlib
import zlib

import ml_dtypes
import numpy as np

from .cases import Case

NUMPY_TYPE = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
# Largest error of a row of the result, relative to the row (both as Euclidean norms). Simulated in NumPy for
# 1 to 16,384 keys, worst of 512 to 4,096 rows: f16 arithmetic leaves up to 4.2e-4, with scores rounded to f16
# as well 1.5e-3; bf16 arithmetic 3.4e-3, with rounded scores 1.8e-2. f32 leaves 2e-6. The limits are about
# twice that, ten times for f32, where nothing is near. bf16 arithmetic on f16 arrays is off by 4.4e-3.
ERROR_LIMIT = {"f32": 2e-5, "f16": 3e-3, "bf16": 3e-2}
RIGHT, REDUCED, WRONG = "right", "reduced", "wrong"
# Operations of the float64 check; beyond it evenly spread query rows are checked instead of all.
CHECK_FLOPS = 4e10
_BLOCK = 256


@dataclasses.dataclass
class Arrays:
    """q, k, v as Case says, of its type; bias, slopes and sinks f32, None where the case has none.

    Of a cache of codes, k and v are what the codes stand for, exactly; k_codes and v_codes are int8 with f32 scales
    [batch, heads_k, seqlen_k], or q8_0's bytes, [batch, heads_k, seqlen_k, head_dim / 32 * 34].
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    bias: np.ndarray | None = None
    slopes: np.ndarray | None = None
    sinks: np.ndarray | None = None
    k_codes: np.ndarray | None = None
    v_codes: np.ndarray | None = None
    k_scale: np.ndarray | None = None
    v_scale: np.ndarray | None = None

    def items(self) -> list[tuple[str, np.ndarray]]:
        return [(name, x) for name, x in vars(self).items() if x is not None]


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """Shapes of the case's arrays, and of the result o."""
    both = (case.batch, case.heads_k, case.seqlen_k)
    found = {
        "q": (case.batch, case.heads, case.seqlen_q, case.head_dim),
        "k": (*both, case.head_dim),
        "v": (*both, case.head_dim_v),
        "o": (case.batch, case.heads, case.seqlen_q, case.head_dim_v),
    }
    if case.bias:
        found["bias"] = (1, case.heads if case.bias == "head" else 1, case.seqlen_q, case.seqlen_k)
    found |= {name: (case.heads,) for name, there in (("slopes", case.alibi), ("sinks", case.sinks)) if there}
    for name, dim in (("k", case.head_dim), ("v", case.head_dim_v)) if case.cache else ():
        found[f"{name}_codes"] = (*both, dim if case.cache == "i8" else dim // 32 * 34)
        if case.cache == "i8":
            found[f"{name}_scale"] = both
    return found


def dtype_of(case: Case, name: str) -> np.dtype:
    if name in ("q", "k", "v"):
        return NUMPY_TYPE[case.dtype]
    if name.endswith("_codes"):
        return np.dtype(np.int8 if case.cache == "i8" else np.uint8)
    return np.dtype(np.float32)


def quantise(cache: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Codes, their scales if they are not among the codes, and what they stand for. Scales have the bits of f16, so
    that their products with codes are exact in f32."""
    blocks = x.reshape(*x.shape[:-1], -1, x.shape[-1] if cache == "i8" else 32)
    scales = (np.abs(blocks).max(axis=-1, keepdims=True) / 127).astype(np.float16)
    codes = np.clip(np.rint(blocks / np.maximum(scales.astype(np.float32), 1e-30)), -127, 127).astype(np.int8)
    exact = (codes * scales.astype(np.float32)).reshape(x.shape)
    if cache == "i8":
        return codes.reshape(x.shape), scales.astype(np.float32)[..., 0, 0], exact
    packed = np.concatenate([scales.view(np.uint8), codes.view(np.uint8)], axis=-1)
    return packed.reshape(*x.shape[:-1], -1), None, exact


def make_arrays(case: Case, seed: int) -> Arrays:
    """Standard-normal numbers, rounded to the type. Every case has its own, whatever else is run."""
    rng = np.random.default_rng([seed, zlib.crc32(case.name.encode())])
    found = shapes(case)
    draw = {
        name: rng.standard_normal(found[name], dtype=np.float32)
        for name in ("q", "k", "v", "bias", "sinks")
        if name in found
    }
    if case.alibi:  # 2^(-8 / heads), its square, and so on
        draw["slopes"] = 2.0 ** (-8.0 / case.heads * np.arange(1, case.heads + 1, dtype=np.float32))
    for name in ("k", "v") if case.cache else ():
        draw[f"{name}_codes"], scale, draw[name] = quantise(case.cache, draw[name])
        draw |= {} if scale is None else {f"{name}_scale": scale}
    for b, length in enumerate(case.lengths):
        for name in ("q", "k", "v"):
            draw[name][b, :, length:] = 0.0
    return Arrays(**{name: x.astype(dtype_of(case, name)) for name, x in draw.items()})


def save(folder: pathlib.Path, arrays: Arrays) -> None:
    """Raw little-endian files, one an array."""
    for name, x in arrays.items():
        x.tofile(folder / f"{name}.bin")


def load(folder: pathlib.Path, case: Case) -> Arrays:
    return Arrays(
        **{
            name: np.fromfile(folder / f"{name}.bin", dtype_of(case, name)).reshape(shape)
            for name, shape in shapes(case).items()
            if name != "o"
        }
    )


def checked_rows(case: Case) -> np.ndarray:
    """The query rows to check: all, or as many as CHECK_FLOPS allows, first and last included."""
    count = int(min(1.0, CHECK_FLOPS / case.flops) * case.seqlen_q)
    return np.unique(np.linspace(0, case.seqlen_q - 1, max(count, min(16, case.seqlen_q))).astype(np.int64))


def attention(case: Case, arrays: Arrays, rows: np.ndarray) -> np.ndarray:
    """[batch, heads, len(rows), head_dim_v] float64: these query rows, every key they see at once."""
    result = np.empty((case.batch, case.heads, len(rows), case.head_dim_v))
    group = case.heads // case.heads_k
    for b in range(case.batch):
        for h in range(case.heads):
            k, v = (x[b, h // group].astype(np.float64) for x in (arrays.k, arrays.v))
            for start in range(0, len(rows), _BLOCK):
                block = rows[start : start + _BLOCK]
                seen = int(block[-1]) + 1 if case.causal else case.seqlen_k
                seen = min(seen, case.lengths[b]) if case.lengths else seen
                scores = arrays.q[b, h, block].astype(np.float64) @ k[:seen].T * case.head_dim**-0.5
                if case.softcap:
                    scores = case.softcap * np.tanh(scores / case.softcap)
                if arrays.slopes is not None:
                    scores -= float(arrays.slopes[h]) * np.abs(block[:, None] - np.arange(seen))
                if arrays.bias is not None:
                    scores += arrays.bias[0, h % arrays.bias.shape[1], block, :seen]
                if case.causal:
                    scores[np.arange(seen) > block[:, None]] = -np.inf
                if case.window:
                    scores[np.arange(seen) <= block[:, None] - case.window] = -np.inf
                highest = scores.max(axis=1, keepdims=True)
                scores -= highest
                np.exp(scores, out=scores)
                total = scores.sum(axis=1, keepdims=True)
                if arrays.sinks is not None:
                    total += np.exp(float(arrays.sinks[h]) - highest)
                result[b, h, start : start + _BLOCK] = scores @ v[:seen] / total
        if case.lengths:
            result[b, :, rows >= case.lengths[b]] = 0.0
    return result


@dataclasses.dataclass(frozen=True)
class Verdict:
    status: str  # RIGHT, REDUCED (right with less precision than the type has) or WRONG
    row_error: float  # largest relative error of a row
    max_error: float  # largest absolute error of an element
    rows: int  # query rows of each head that were checked

    def __str__(self) -> str:
        return f"{self.status}, row error {self.row_error:.1e}, largest error {self.max_error:.1e}"


def judge(dtype: str, result: np.ndarray, exact: np.ndarray, rows: np.ndarray) -> Verdict:
    """result [batch, heads, seqlen_q, head_dim_v]; exact: only these rows. NaN anywhere is wrong."""
    if not np.isfinite(result).all():
        return Verdict(WRONG, float("inf"), float("inf"), len(rows))
    difference = result[:, :, rows].astype(np.float64) - exact
    norms = np.maximum(np.linalg.norm(exact, axis=-1), np.finfo(np.float64).tiny)
    row_error = float((np.linalg.norm(difference, axis=-1) / norms).max())
    status = (
        RIGHT if row_error <= ERROR_LIMIT[dtype] else REDUCED if row_error <= ERROR_LIMIT["bf16"] else WRONG
    )
    return Verdict(status, row_error, float(np.abs(difference).max()), len(rows))
