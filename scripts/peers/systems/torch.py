"""PyTorch: torch.nn.functional.scaled_dot_product_attention, eager, in inference mode; for what that has not,
flex_attention, compiled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from ..cases import Case
from ..reference import Arrays
from . import Call, added, bshd, pages, with_sink_key

torch.set_grad_enabled(False)


def about() -> str:
    return f"torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()})"


def _tensor(x: np.ndarray) -> torch.Tensor:
    """The array as a tensor; numpy's bfloat16 is unknown to torch."""
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def variants(case: Case) -> list[str]:
    """Both layouts; where V is narrower than K, which its fused kernel refuses, V widened in the call too. What codes
    stand for as bf16 as well. Without padding: nested tensors, or a call for each sequence."""
    if case.softcap:
        return ["flex_attention", "written out"]
    if case.page:
        return ["pages gathered"]
    if case.lengths:
        return ["padded", "nested", "one by one"]
    found = ["bhsd", "bshd"] + (["bhsd, V padded"] if case.head_dim_v < case.head_dim else [])
    found += ["bhsd, bf16"] if case.cache else []
    return found + (["flex_attention"] if case.window or case.alibi or case.sinks else [])


def build(variant: str, case: Case, arrays: Arrays, copies: int) -> Call:
    torch.set_num_threads(case.threads)
    makers = {"flex_attention": _flex, "written out": _written_out, "pages gathered": _gathered}
    makers |= {"nested": _nested, "one by one": _one_by_one}
    result: list[torch.Tensor] = []
    call = makers.get(variant.removesuffix(", bf16"), _fused)(variant, case, arrays, copies)

    @torch.inference_mode()
    def run(copy: int) -> None:
        result[:] = [call(copy)]

    return Call(run, lambda: _dense(case, result[0]).float().numpy())


def _dense(case: Case, o: torch.Tensor) -> torch.Tensor:
    return torch.nested.to_padded_tensor(o, 0.0, (*o.shape[:2], case.seqlen_q, case.head_dim_v)) if o.is_nested else o


def _fused(variant: str, case: Case, arrays: Arrays, copies: int) -> Callable[[int], torch.Tensor]:
    def lay(x: np.ndarray) -> torch.Tensor:
        laid = _tensor(bshd(x)).transpose(1, 2) if variant == "bshd" else _tensor(x.copy())
        return laid.bfloat16() if variant.endswith("bf16") else laid

    # A mask and is_causal exclude each other.
    masked = bool(case.window or case.alibi or case.sinks or case.lengths)
    sum_of_masks = added(case, arrays, causal=masked)
    k, v = arrays.k, arrays.v
    if case.sinks:
        k, v, sum_of_masks = with_sink_key(case, arrays, sum_of_masks)
    q = lay(arrays.q)
    kv = [(lay(k), lay(v)) for _ in range(copies)]
    mask = None if sum_of_masks is None else _tensor(sum_of_masks).to(q.dtype)
    if mask is not None and arrays.bias is None and not case.alibi and not case.sinks:
        mask = mask == 0
    causal = case.causal and not masked
    grouped = case.heads != case.heads_k
    padding = case.head_dim - case.head_dim_v if variant.endswith("padded") else 0

    def call(copy: int) -> torch.Tensor:
        k, v = kv[copy]
        if padding:
            v = F.pad(v, (0, padding))
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)
        return o[..., : case.head_dim_v] if padding else o

    return call


def _flex(variant: str, case: Case, arrays: Arrays, copies: int) -> Callable[[int], torch.Tensor]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q = _tensor(arrays.q)
    kv = [(_tensor(arrays.k.copy()), _tensor(arrays.v.copy())) for _ in range(copies)]
    slopes, sinks = (None if x is None else _tensor(x) for x in (arrays.slopes, arrays.sinks))

    def score_mod(score, b, h, i, j):  # type: ignore[no-untyped-def]
        if case.softcap:
            score = case.softcap * torch.tanh(score / case.softcap)
        return score if slopes is None else score - slopes[h] * (i - j).abs()

    def visible(b, h, i, j):  # type: ignore[no-untyped-def]
        return (j <= i) & (j > i - case.window) if case.window else j <= i

    blocks = create_block_mask(visible, None, None, case.seqlen_q, case.seqlen_k, "cpu") if case.causal else None
    compiled = torch.compile(flex_attention, dynamic=False)
    grouped = case.heads != case.heads_k

    def call(copy: int) -> torch.Tensor:
        options = {"score_mod": score_mod, "block_mask": blocks, "enable_gqa": grouped}
        if sinks is None:
            return compiled(q, *kv[copy], **options)
        o, lse = compiled(q, *kv[copy], **options, return_lse=True)
        return o * torch.sigmoid(lse - sinks[:, None])[..., None]

    return call


def _written_out(variant: str, case: Case, arrays: Arrays, copies: int) -> Callable[[int], torch.Tensor]:
    q, k, v = (_tensor(x) for x in (arrays.q, arrays.k, arrays.v))
    sum_of_masks = added(case, arrays)
    mask = None if sum_of_masks is None else _tensor(sum_of_masks)

    def call(copy: int) -> torch.Tensor:
        scores = torch.matmul(q * case.head_dim**-0.5, k.transpose(2, 3))
        scores.div_(case.softcap).tanh_().mul_(case.softcap)
        return torch.softmax(scores if mask is None else scores.add_(mask), -1) @ v

    return call


def _gathered(variant: str, case: Case, arrays: Arrays, copies: int) -> Callable[[int], torch.Tensor]:
    """The pages copied together, then attention."""
    q = _tensor(arrays.q)
    (pool_k, table), (pool_v, _) = pages(case, arrays.k), pages(case, arrays.v)
    kv = [(_tensor(pool_k.copy()), _tensor(pool_v.copy())) for _ in range(copies)]
    found = torch.from_numpy(table)

    def whole(pool: torch.Tensor) -> torch.Tensor:
        heads, _, dim = pool.shape[1:]
        return pool[found].transpose(1, 2).reshape(case.batch, heads, case.seqlen_k, dim)

    def call(copy: int) -> torch.Tensor:
        k, v = (whole(pool) for pool in kv[copy])
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=case.heads != case.heads_k)

    return call


def _sequences(case: Case, x: np.ndarray) -> list[torch.Tensor]:
    """[heads, length, dim] each."""
    return [_tensor(x[b, :, :length].copy()) for b, length in enumerate(case.lengths)]


def _nested(variant: str, case: Case, arrays: Arrays, copies: int) -> Callable[[int], torch.Tensor]:
    group = case.heads // case.heads_k
    arrays = Arrays(arrays.q, *(x.repeat(group, axis=1) for x in (arrays.k, arrays.v)))

    def jagged(x: np.ndarray) -> torch.Tensor:
        parts = [part.transpose(0, 1) for part in _sequences(case, x)]
        return torch.nested.nested_tensor(parts, layout=torch.jagged).transpose(1, 2)

    q, k, v = (jagged(x) for x in (arrays.q, arrays.k, arrays.v))
    return lambda copy: F.scaled_dot_product_attention(q, k, v, is_causal=case.causal)


def _one_by_one(variant: str, case: Case, arrays: Arrays, copies: int) -> Callable[[int], torch.Tensor]:
    parts = [[x[None] for x in xs] for xs in zip(*(_sequences(case, x) for x in (arrays.q, arrays.k, arrays.v)))]
    result = torch.zeros((case.batch, case.heads, case.seqlen_q, case.head_dim_v))

    def call(copy: int) -> torch.Tensor:
        for b, (q, k, v) in enumerate(parts):
            o = F.scaled_dot_product_attention(q, k, v, is_causal=case.causal, enable_gqa=case.heads != case.heads_k)
            result[b, :, : case.lengths[b]] = o[0]
        return result

    return call
