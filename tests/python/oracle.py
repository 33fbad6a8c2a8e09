"""Attention in plain float64 NumPy, three passes, and flashc.h's bound on the error of flashc against it."""
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16), "bf16": BFLOAT16}

# flashc.h, with u = 2^-24 and c = 4; T is at most n:
#   |O - exact|   <= u (8 + cA + 2(n + T)) sum p|v| + half an ulp + underflow
#   |LSE - exact| <= u ((14 + c/2) max(1, |LSE|, A) + 2(n + T))
U = 2.0**-24
BF16_ROUNDOFF = 2.0**-8  # of softmax weights, where products are made in bf16
O_CONSTANT, O_PER_LOGIT, LSE_PER_LOGIT, PER_CHAIN_STEP = 8, 4, 16, 2
SMALLEST_NORMAL, SUBNORMAL_STEP = 2.0**-126, 2.0**-149
# An f32's half ulp is U relative; of the others by their stored bits.
HALF_ULP = {DTYPES["f32"]: 2.0**-24, DTYPES["f16"]: 2.0**-11, DTYPES["bf16"]: 2.0**-8}
SMALLEST_STEP = {DTYPES["f32"]: 2.0**-149, DTYPES["f16"]: 2.0**-24, DTYPES["bf16"]: 2.0**-133}

Array = npt.NDArray[Any]


class Exact(NamedTuple):
    """Axes [batch, heads, rows, ...], float64."""
    o: Array
    lse: Array
    magnitude: Array  # A: max over visible keys of |scale| sum |q k| + |bias|
    weighted_v: Array  # sum_j p_j |v_j|
    sum_v: Array  # sum_j |v_j| over visible keys
    n: int


def attention(q: Array, k: Array, v: Array, *, scale: float | None = None, offsets: list[int] | None = None,
              mask: Array | None = None, bias: Array | None = None) -> Exact:
    """q, k, v: [batch, heads, rows, dim], any type; offsets: causal, the position of query 0 of each batch element."""
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    group = q.shape[1] // k.shape[1] if k.shape[1] else 1
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    batch, heads, rows, dim = q.shape
    keys = k.shape[2]
    # The default scale is an f32 number.
    scale = float(np.float32(1) / np.sqrt(np.float32(dim))) if scale is None else float(np.float32(scale))
    scores = scale * np.einsum("bhid,bhjd->bhij", q, k)
    magnitude = abs(scale) * np.einsum("bhid,bhjd->bhij", abs(q), abs(k))
    visible = np.ones(scores.shape, bool)
    if bias is not None:
        bias = bias.astype(np.float64)
        scores = scores + bias
        visible &= np.broadcast_to(bias != -np.inf, visible.shape)
        magnitude = magnitude + np.where(np.isfinite(bias), abs(bias), 0)
    if mask is not None:
        visible &= mask
    for b, offset in enumerate(offsets or []):
        visible[b] &= np.arange(keys)[None, :] <= np.arange(rows)[:, None] + offset
    scores = np.where(visible, scores, -np.inf)
    row_max = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.where(visible, np.exp(scores - np.where(np.isfinite(row_max), row_max, 0)), 0)
    total = weights.sum(axis=-1, keepdims=True)
    p = weights / np.where(total > 0, total, 1)
    with np.errstate(divide="ignore"):
        lse = np.where(total > 0, row_max + np.log(total), -np.inf)[..., 0]
    return Exact(p @ v, lse, np.where(visible, magnitude, 0).max(axis=-1, initial=0), p @ abs(v),
                 visible.astype(np.float64) @ abs(v), keys)


def o_bound(exact: Exact, dtype: np.dtype[Any], bf16: bool) -> Array:
    chain = 2 * exact.n  # n + T
    factor = O_CONSTANT + O_PER_LOGIT * exact.magnitude[..., None] + PER_CHAIN_STEP * chain
    weights = BF16_ROUNDOFF if bf16 else 0.0
    error = (U * factor + weights) * exact.weighted_v + SMALLEST_NORMAL * exact.sum_v + SUBNORMAL_STEP * chain
    return error + np.maximum(HALF_ULP[dtype] * (abs(exact.o) + error), SMALLEST_STEP[dtype])


def lse_bound(exact: Exact) -> Array:
    size = np.maximum(1, exact.magnitude)
    size = np.where(np.isfinite(exact.lse), np.maximum(size, abs(exact.lse)), size)
    return U * (LSE_PER_LOGIT * size + PER_CHAIN_STEP * 2 * exact.n)


def check(o: Array, exact: Exact, lse: Array | None = None, note: object = "", bf16: bool = False) -> None:
    """o, lse: of flashc, [batch, heads, rows, ...]. Raises AssertionError outside the bound. bf16: computed in it, from
    q, k and v that are bfloat16."""
    assert o.shape == exact.o.shape, (o.shape, exact.o.shape, note)
    error = abs(o.astype(np.float64) - exact.o)
    outside = ~(error <= o_bound(exact, o.dtype, bf16))
    where = np.argwhere(outside)[:3].tolist()
    assert not where, f"{outside.sum()} of {o.size} outside the bound, the first at {where}; {note}"
    assert (np.asarray(o)[np.isneginf(exact.lse)] == 0).all(), f"rows without keys must be 0; {note}"
    if lse is None:
        return
    assert lse.shape == exact.lse.shape and lse.dtype == np.float32, (lse.shape, lse.dtype, note)
    empty = np.isneginf(exact.lse)
    assert (np.isneginf(lse) == empty).all(), f"LSE must be -inf exactly where no key is visible; {note}"
    error = abs(lse[~empty].astype(np.float64) - exact.lse[~empty])
    assert (error <= lse_bound(exact)[~empty]).all(), f"LSE off by up to {error.max()}; {note}"


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str | np.dtype[Any] = "f32") -> Array:
    """Normally distributed numbers of a type of DTYPES."""
    return rng.standard_normal(shape, np.float32).astype(DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype)
