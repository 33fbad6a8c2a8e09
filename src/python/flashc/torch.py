"""Attention for PyTorch: the signature and meaning of torch.nn.functional.scaled_dot_product_attention.

    from flashc.torch import scaled_dot_product_attention

    o = scaled_dot_product_attention(query, key, value, is_causal=True)

The same computation is the operator torch.ops.flashc.scaled_dot_product_attention, which torch.compile
and torch.export keep whole. CPU tensors, forward only.
"""
from __future__ import annotations

try:
    import torch
except ImportError as error:
    raise ImportError("flashc.torch needs PyTorch, which cannot be imported here; install it "
                      "(https://pytorch.org/get-started/locally)") from error

import math
from typing import Any, NoReturn

from flashc import _core
from flashc._arrays import refuse_gradients

__all__ = ["scaled_dot_product_attention"]

_NAME = "scaled_dot_product_attention"
_DTYPES = frozenset((torch.float32, torch.float16, torch.bfloat16))
# What a dense CPU tensor dispatches to if nothing (functorch, a subclass, a lazy negation) lies on top of it.
_PLAIN = torch._C._dispatch_keys(torch.empty(0))


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """softmax(scale * query key^T + attn_mask) value, as torch.nn.functional.scaled_dot_product_attention.

    query, key, value: [..., Hq, L, E], [..., H, S, E] and [..., H, S, Ev], two or more dimensions.
        float32, float16 or bfloat16, all the same, on the CPU, any strides; nothing is copied. Leading
        dimensions broadcast.
    attn_mask: broadcasts to [..., Hq, L, S]; bool (True takes part) or float32 or query's type (added).
    is_causal: query i sees the keys j <= i (top-left, also where L and S differ); not with attn_mask.
    scale: None is 1/sqrt(E).
    enable_gqa: key and value may have fewer heads, if that number divides query's.

    It runs on torch.get_num_threads() threads, or fewer if the container's CPU quota says so. Any number of
    threads gives the same bits.

    Returns [..., Hq, L, Ev] of query's type. If a 4-D query lies in memory as [B, L, H, E] the result lies as
    [B, L, H, Ev]; otherwise it is contiguous. A query that sees no key gives zeros.

    Raises ValueError for dropout_p > 0 and for shapes, devices and arguments that do not fit, TypeError for
    other types, RuntimeError where a gradient would be needed: flashc is forward only.
    """
    return _op(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)


def _shapes(*tensors: torch.Tensor) -> str:
    return ", ".join(f"{name} {list(x.shape)}" for name, x in zip(("query", "key", "value"), tensors))


def _check_devices(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                   attn_mask: torch.Tensor | None) -> None:
    for name, x in (("query", query), ("key", key), ("value", value), ("attn_mask", attn_mask)):
        if x is None:
            continue
        if x.device.type not in ("cpu", "meta") or x.layout != torch.strided:
            raise ValueError(f"{name}: flashc runs on the CPU; expected a dense CPU tensor, found one on "
                             f"{x.device} ({x.layout})")
        if x.device != query.device:
            raise ValueError(f"{name}: expected a tensor on query's device, {query.device}, "
                             f"found one on {x.device}")


def _refuse_inputs(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> NoReturn:
    """Says what is wrong with types or shapes that _lead found not to fit."""
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.dtype not in _DTYPES:
            raise TypeError(f"{name}: expected float32, float16 or bfloat16, found {x.dtype}")
        if x.dtype != query.dtype:
            raise TypeError(f"{name}: expected query's type, {query.dtype}, found {x.dtype}")
        if x.dim() < 2:
            raise ValueError(f"{name}: expected at least 2 dimensions, found shape {list(x.shape)}")
    if key.shape[-1] != query.shape[-1]:
        raise ValueError(f"key: expected query's last dimension, {query.shape[-1]}, found {key.shape[-1]} "
                         f"({_shapes(query, key)})")
    raise ValueError(f"value: expected one row per key, {key.shape[-2]}, found {value.shape[-2]} "
                     f"({_shapes(query, key, value)})")


def _grouped_leads(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[list[int], ...]:
    """The leading dimensions of query, key and value as if key and value had a copy per head of query."""
    if query.dim() < 3 or key.dim() < 3 or value.dim() < 3:
        raise ValueError("enable_gqa: expected query, key and value of at least 3 dimensions, found "
                         + _shapes(query, key, value))
    heads, heads_k, heads_v = (x.shape[-3] for x in (query, key, value))
    if heads_k != heads_v or heads_k == 0 or heads % heads_k != 0:
        raise ValueError(f"enable_gqa: expected key and value with the same number of heads, a divisor of "
                         f"query's {heads}; found {heads_k} and {heads_v} ({_shapes(query, key, value)})")
    return tuple([*x.shape[:-3], heads] for x in (query, key, value))


def _check_mask(attn_mask: torch.Tensor, dtype: torch.dtype, is_causal: bool, scores: list[int]) -> None:
    if is_causal:
        raise ValueError("attn_mask, is_causal: expected at most one of them, found both")
    if attn_mask.dtype not in (torch.bool, torch.float32, dtype):
        raise TypeError(f"attn_mask: expected bool, float32 or query's type, {dtype}, "
                        f"found {attn_mask.dtype}")
    shape = attn_mask.shape
    pairs = zip(shape[::-1], scores[::-1])
    if len(shape) > len(scores) or any(have != 1 and have != want for have, want in pairs):
        raise ValueError(f"attn_mask: expected a shape that broadcasts to {scores}, found {list(shape)}")


def _lead(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None,
          dropout_p: float, is_causal: bool, scale: float | None, enable_gqa: bool) -> tuple[list[int], bool]:
    """Checks everything but the devices. Returns the leading dimensions of the result (all but [L, Ev])
    and whether query, key and value have them too. It runs in every call: messages are made elsewhere, and a
    shape is asked for once."""
    if dropout_p != 0.0:
        raise ValueError(f"dropout_p: flashc is forward only and has no dropout; expected 0.0, "
                         f"found {dropout_p}")
    if scale is not None and not math.isfinite(scale):
        raise ValueError(f"scale: expected a finite number or None, found {scale}")
    dtype, shapes = query.dtype, (query.shape, key.shape, value.shape)
    if dtype not in _DTYPES or not dtype == key.dtype == value.dtype or min(map(len, shapes)) < 2:
        _refuse_inputs(query, key, value)
    (*lead, rows, cols), (*lead_k, keys, cols_k), (*lead_v, keys_v, _) = shapes
    if cols != cols_k or keys != keys_v:
        _refuse_inputs(query, key, value)
    scores_lead, same = lead, lead == lead_k == lead_v
    if not same or enable_gqa and not lead:
        leads = _grouped_leads(query, key, value) if enable_gqa else (lead, lead_k, lead_v)
        try:
            scores_lead = list(torch.broadcast_shapes(*leads[:2]))
            lead = list(torch.broadcast_shapes(scores_lead, leads[2]))
        except RuntimeError:
            raise ValueError(f"query, key, value: expected leading dimensions that broadcast, found "
                             f"{_shapes(query, key, value)}; enable_gqa={enable_gqa}") from None
    if attn_mask is not None:
        _check_mask(attn_mask, dtype, is_causal, [*scores_lead, rows, keys])
    return lead, same


def _new_output(query: torch.Tensor, value: torch.Tensor, lead: list[int]) -> torch.Tensor:
    """An empty result, in the memory order that torch's own CPU attention gives it."""
    rows, cols = query.shape[-2], value.shape[-1]
    stride = query.stride()
    if len(lead) == 2 and len(stride) == 4 and stride[1] < stride[2]:
        return query.new_empty((lead[0], rows, lead[1], cols)).transpose(1, 2)
    return query.new_empty((*lead, rows, cols))


def _run(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None,
         scale: float | None, is_causal: bool, out: torch.Tensor) -> None:
    """Fills out. query, key and value have out's leading dimensions, but for fewer heads in key and value."""
    if out.dim() <= 4:
        bias = None
        if mask is not None and mask.dtype != torch.bool:
            mask, bias = None, mask
        align = "top-left" if is_causal else None
        # Makes torch's thread count this thread's OpenMP default, which is what flashc's 0 below means
        # (within the container's CPU quota). In a thread where torch has not computed yet the two would
        # differ otherwise.
        torch.get_num_threads()
        # flashc.attention without its questions of what kind the arrays are.
        _core.attention(query, key, value, out, None, mask, bias, scale, is_causal, align, False, 0,
                        None, None, None, None, None, None)
        return
    # The library has one batch dimension: merge the first two where the strides allow it, else go one by one.
    if mask is not None:
        mask = mask.expand(*out.shape[:-1], key.shape[-2])
    tensors = (query, key, value, out) if mask is None else (query, key, value, out, mask)
    try:
        parts = [tuple(x.view(x.shape[0] * x.shape[1], *x.shape[2:]) for x in tensors)]
    except RuntimeError:
        parts = list(zip(*(x.unbind(0) for x in tensors)))
    for part_query, part_key, part_value, part_out, *part in parts:
        _run(part_query, part_key, part_value, part[0] if part else None, scale, is_causal, part_out)


def _compute(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None,
             dropout_p: float, is_causal: bool, scale: float | None, enable_gqa: bool) -> torch.Tensor:
    lead, same = _lead(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    out = _new_output(query, value, lead)
    if not same:
        query = query.expand(*lead, -1, -1)
        lead_k = (*lead[:-1], key.shape[-3]) if enable_gqa else lead
        key, value = key.expand(*lead_k, -1, -1), value.expand(*lead_k, -1, -1)
    _run(query, key, value, attn_mask, scale, is_causal, out)
    return out


def _kernel(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None,
            enable_gqa=False):
    """The operator on tensors of any device."""
    _check_devices(query, key, value, attn_mask)
    return _compute(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)


def _fake(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None,
          enable_gqa=False):
    """The operator on tensors without data: the same checks, and the shape and strides of the result."""
    _check_devices(query, key, value, attn_mask)
    lead, _ = _lead(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    return _new_output(query, value, lead)


def _is_plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
              attn_mask: torch.Tensor | None) -> bool:
    """Whether these are dense CPU tensors and the dispatcher has nothing left to do with them."""
    keys = torch._C._dispatch_keys
    return (keys(query) == _PLAIN and keys(key) == _PLAIN and keys(value) == _PLAIN
            and (attn_mask is None or keys(attn_mask) == _PLAIN)
            and torch._C._len_torch_dispatch_stack() == 0)


def _autograd(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None,
              enable_gqa=False):
    """Refuses gradients, then computes."""
    refuse_gradients(query=query, key=key, value=value, attn_mask=attn_mask)
    # A second way through the dispatcher costs as much again as the first.
    if _is_plain(query, key, value, attn_mask):
        return _compute(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    with torch._C._AutoDispatchBelowAutograd():
        return _op(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)


def _autocast(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None,
              enable_gqa=False):
    """Under torch.autocast torch runs its own operator in the lower precision; so does this one."""
    dtype = torch.get_autocast_dtype("cpu")
    query, key, value = (x.to(dtype) for x in (query, key, value))
    if attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = attn_mask.to(dtype)
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)):
        return _op(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)


# Library.define, not custom_op: one hop from the dispatcher into Python, without custom_op's wrappers.
_library = torch.library.Library("flashc", "DEF")


def _register(name: str, schema: str, kernel: Any, autograd: Any, autocast: Any, fake: Any) -> Any:
    """Makes an operator of torch.ops.flashc, and returns it."""
    _library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    # All backends, so that a tensor on another device gets this library's message.
    _library.impl(name, kernel, "CompositeExplicitAutograd")
    _library.impl(name, autograd, "Autograd")
    _library.impl(name, autocast, "AutocastCPU")
    torch.library.register_fake(f"flashc::{name}", fake, lib=_library)
    return getattr(torch.ops.flashc, name).default


_op = _register(_NAME, "(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, "
                "float dropout_p=0.0, bool is_causal=False, *, float? scale=None, bool enable_gqa=False) "
                "-> Tensor", _kernel, _autograd, _autocast, _fake)
