"""Attention for PyTorch with what models need beyond torch's own function: softcap, sinks, windows, positions, padding.

    from flashc.torch_attention import attention

    o = attention(query, key, value, is_causal=True, align="bottom-right", window=(1023, 0), softcap=50.0)

The same computation is the operator torch.ops.flashc.attention, which torch.compile and torch.export keep whole. CPU
tensors, forward only.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch

import flashc
from flashc._arrays import refuse_gradients
from flashc.torch import _DTYPES, _check_devices, _is_plain, _new_output, _register

__all__ = ["attention"]

_NAME = "attention"


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *,
    is_causal: bool = False,
    align: str | int | Sequence[int] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    window: tuple[int | None, int | None] | None = None,
    leftpad: Sequence[int] | None = None,
) -> torch.Tensor:
    """softmax(scale * query key^T + attn_mask) value.

    query, key, value: [B, Hq, L, E], [B, H, S, E] and [B, H, S, Ev], Hq a multiple of H: query head h reads head
        h // (Hq // H). float32, float16 or bfloat16, on the CPU, any strides; nothing is copied.
    attn_mask: broadcasts to [B, Hq, L, S]; bool (True takes part) or float (added).
    is_causal, window: keys after a query's position are hidden, or those more than window = (left, right) from it
        (None or -1: any number; its own key counts in neither).
    align: the positions: "top-left", "bottom-right" (the last query is at the last key), or that of query 0, one for
        all or one per batch element. Needed with is_causal and window.
    leftpad: how many rows of key and value are padding in front, per batch element; positions count from behind it.
    scale, softcap, sinks: as flashc.attention(); sinks [Hq].

    Returns [B, Hq, L, Ev] of query's type, in the memory order of torch.nn.functional.scaled_dot_product_attention.
    Errors are those of flashc.attention() and of flashc.torch.
    """
    if window is not None and not (isinstance(window, tuple) and len(window) == 2):
        raise TypeError(f"window: expected a tuple of two ints, found {window!r}")
    if hasattr(align, "tolist"):  # a tensor or an array
        align = align.tolist()
    pads = None if leftpad is None else list(leftpad)
    positions: list[int] | None
    if align == "top-left":
        positions = [0]
    elif align == "bottom-right":
        last = key.shape[-2] - query.shape[-2]
        positions = [last] if pads is None else [last - pad for pad in pads]
    elif align is None or isinstance(align, str):
        if align is not None or is_causal or window is not None:
            raise ValueError(f"align: expected 'top-left', 'bottom-right' or the position of query 0, found {align!r}")
        positions = None
    else:
        positions = list(align) if isinstance(align, Sequence) else [align]
    left, right = (-1 if n is None else n for n in window or (None, None))
    return _op(query, key, value, attn_mask, is_causal, scale=scale, softcap=softcap, sinks=sinks, window_left=left,
               window_right=right, positions=positions, leftpad=pads)


def _check(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None) -> None:
    """Shapes and types of the three, in this function's names; flashc.attention() checks the rest."""
    _check_devices(query, key, value, attn_mask)
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.dim() != 4:
            raise ValueError(f"{name}: expected 4 dimensions, found shape {list(x.shape)}")
        if x.dtype not in _DTYPES:
            raise TypeError(f"{name}: expected float32, float16 or bfloat16, found {x.dtype}")
    (batch, heads, _, cols), (batch_k, heads_k, _, cols_k) = query.shape, key.shape
    if batch != batch_k or cols != cols_k:
        raise ValueError(f"key: expected query's first and last dimension, {batch} and {cols}, found shape "
                         f"{list(key.shape)}")
    if key.shape[:3] != value.shape[:3]:
        raise ValueError(f"value: expected key's shape but for the last dimension, {list(key.shape)}, found "
                         f"{list(value.shape)}")
    if heads_k != 0 and heads % heads_k != 0:
        raise ValueError(f"key: expected a number of heads that divides query's, {heads}, found {heads_k}")


def _compute(query, key, value, attn_mask=None, is_causal=False, *, scale=None, softcap=None, sinks=None,
             window_left=-1, window_right=-1, positions=None, leftpad=None):
    _check(query, key, value, attn_mask)
    out = _new_output(query, value, list(query.shape[:2]))
    mask, bias = attn_mask, None
    if mask is not None and mask.dtype != torch.bool:
        mask, bias = None, mask
    if sinks is not None:
        sinks = sinks.reshape(-1).to(torch.float32).contiguous()
    if positions is not None:
        positions = positions[0] if len(positions) == 1 else positions
    window = (window_left, window_right)
    torch.get_num_threads()  # see flashc.torch
    return flashc.attention(query, key, value, scale=scale, causal=is_causal, align=positions, mask=mask, bias=bias,
                            softcap=softcap, sinks=sinks, window=None if window == (-1, -1) else window,
                            leftpad_k=leftpad, out=out)


def _fake(query, key, value, attn_mask=None, is_causal=False, **_):
    _check(query, key, value, attn_mask)
    return _new_output(query, value, list(query.shape[:2]))


def _autograd(query, key, value, attn_mask=None, is_causal=False, *, sinks=None, **options):
    refuse_gradients(query=query, key=key, value=value, attn_mask=attn_mask, sinks=sinks)
    if _is_plain(query, key, value, attn_mask):
        return _compute(query, key, value, attn_mask, is_causal, sinks=sinks, **options)
    with torch._C._AutoDispatchBelowAutograd():
        return _op(query, key, value, attn_mask, is_causal, sinks=sinks, **options)


def _autocast(query, key, value, attn_mask=None, is_causal=False, **options):
    dtype = torch.get_autocast_dtype("cpu")
    query, key, value = (x.to(dtype) for x in (query, key, value))
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)):
        return _op(query, key, value, attn_mask, is_causal, **options)


_op = _register(_NAME, "(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, bool is_causal=False, *, "
                "float? scale=None, float? softcap=None, Tensor? sinks=None, SymInt window_left=-1, "
                "SymInt window_right=-1, SymInt[]? positions=None, SymInt[]? leftpad=None) -> Tensor",
                _compute, _autograd, _autocast, _fake)
