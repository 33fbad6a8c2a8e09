"""Attention for Hugging Face transformers.

    import flashc.transformers

    flashc.transformers.register()
    model = AutoModel.from_pretrained(..., attn_implementation="flashc")

Supported: inference on the CPU in float32, float16 and bfloat16 (under torch.no_grad() or generate());
encoders, decoders and cross attention; grouped-query attention without repeating K and V; padded batches;
dynamic and static KV caches, decoding included; logit soft-capping (Gemma 2) and attention sinks (gpt-oss);
sliding windows; other patterns that transformers expresses as a mask; 4-D masks of the user's, bool (True = visible)
or float (added). Causal masks, with a window or padding on the left or not, are never made: they are positions here
(under torch.compile they are masks).

Refused by an error that names the argument: training (gradients, dropout), position biases (T5), top-k sparse
attention, paged caches, packed sequences without a mask, returned attention weights.
"""
from __future__ import annotations

try:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import causal_mask_function, sdpa_mask, sliding_window_causal_mask_function
    from transformers.utils import generic
    from transformers.utils.import_utils import is_tracing
except ImportError as error:
    raise ImportError("flashc.transformers needs transformers 5 (pip install transformers), which cannot be "
                      f"imported here: {error}") from error

from collections.abc import Callable
import functools
import sys
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from flashc.torch import scaled_dot_product_attention
from flashc.torch_attention import attention

__all__ = ["register"]

# What models hand to the attention function that changes its result, and what it is.
_REFUSED = {
    "position_bias": "a position bias",
    "indices": "top-k sparse attention",
    "block_indices": "block-sparse attention",
    "cache": "a paged cache",
    "output_attentions": "returning attention weights",
}
# Names that register() has told transformers not to take for FlashAttention.
_not_flash_attention: set[str] = set()


def _check(attention_mask: Any, dropout: float, extras: dict[str, Any]) -> None:
    if dropout != 0.0:
        raise ValueError(f"dropout: flashc is forward only; expected 0.0, found {dropout} "
                         "(call model.eval())")
    for name, meaning in _REFUSED.items():
        if extras.get(name) is not None and extras[name] is not False:
            raise ValueError(f"{name}: flashc does not support {meaning}; expected None, found "
                             f"{type(extras[name]).__name__} (use attn_implementation=\"eager\")")
    if attention_mask is None:
        if extras.get("cu_seq_lens_q") is not None:
            raise ValueError("cu_seq_lens_q: flashc needs a mask for packed sequences; expected None, "
                             "found a tensor and no attention_mask")
    elif not isinstance(attention_mask, torch.Tensor) or attention_mask.dim() != 4:
        found = f"shape {list(attention_mask.shape)}" if isinstance(attention_mask, torch.Tensor) else \
            type(attention_mask).__name__
        raise ValueError(f"attention_mask: expected None or a 4-D tensor, bool or float, found {found}")


class _Positions(torch.Tensor):
    """A causal mask [batch, 1, q_length, kv_length] that stays unmade: _attention takes what it says in numbers. Any
    other operation makes it (some models slice or combine masks)."""

    align: list[int]  # of query 0, per batch element, counted from behind the padding
    leftpad: list[int] | None
    window: tuple[int, int] | None
    make: Callable[[], torch.Tensor]

    @staticmethod
    def __new__(cls, shape: tuple[int, ...], *_: Any) -> _Positions:
        return torch.Tensor._make_wrapper_subclass(cls, shape, dtype=torch.bool)

    def __init__(self, shape: tuple[int, ...], align: list[int], leftpad: list[int] | None, window: int | None,
                 make: Callable[[], torch.Tensor]) -> None:
        self.align, self.leftpad, self.make = align, leftpad, make
        self.window = None if window is None else (window - 1, 0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(align={self.align}, leftpad={self.leftpad}, window={self.window})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(cls, lambda mask: mask.make(), (args, kwargs or {}))
        return func(*args, **kwargs)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query [batch, heads, seqlen_q, dim], key and value [batch, heads_k, seqlen_k, dim]: the attention
    output [batch, seqlen_q, heads, dim], contiguous, and no weights."""
    _check(attention_mask, dropout, kwargs)
    seqlen_q, seqlen_k = query.shape[2], key.shape[2]
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    # A single query is the newest one and sees all keys; a mask has causality in it already.
    is_causal = seqlen_q > 1 and attention_mask is None and is_causal
    if is_causal and seqlen_q != seqlen_k:
        raise ValueError(f"attention_mask: expected a mask for {seqlen_q} causal queries over "
                         f"{seqlen_k} keys, found None, which does not say at which key the queries start")
    softcap, sinks = kwargs.get("softcap") or None, kwargs.get("s_aux")
    if sinks is not None:
        sinks = sinks.detach()
    if isinstance(attention_mask, _Positions):
        output = attention(query, key, value, is_causal=True, align=attention_mask.align,
                           leftpad=attention_mask.leftpad, window=attention_mask.window, scale=scaling,
                           softcap=softcap, sinks=sinks)
    elif softcap is not None or sinks is not None:
        output = attention(query, key, value, attention_mask, is_causal=is_causal,
                           align="top-left" if is_causal else None, scale=scaling, softcap=softcap, sinks=sinks)
    else:
        output = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, is_causal=is_causal,
                                              scale=scaling, enable_gqa=key.shape[1] != query.shape[1])
    # No copy where query came from [batch, seqlen_q, heads, dim], as it does in nearly every model.
    return output.transpose(1, 2).contiguous(), None


def _window_of(mask_function: Any) -> int | None:
    """The window of a causal mask function: 0 is none; None: it is another function."""
    if mask_function is causal_mask_function:
        return 0
    known = sliding_window_causal_mask_function(1)
    try:
        (overlay, causal), = (cell.cell_contents for cell in mask_function.__closure__)
        (known_overlay, _), = (cell.cell_contents for cell in known.__closure__)
        found = (mask_function.__code__, overlay.__code__, causal)
        if found == (known.__code__, known_overlay.__code__, causal_mask_function):
            window, = (cell.cell_contents for cell in overlay.__closure__)
            return window if isinstance(window, int) else None
    except (AttributeError, TypeError, ValueError):
        pass
    return None


def _leftpad(padding: torch.Tensor | None, first: int, n_keys: int) -> list[int] | None:
    """Of a 2-D mask [batch, keys] of n_keys from number first on: how many of each row are hidden in front. None: not
    only in front. No mask: []."""
    if padding is None:
        return []
    padding = padding[:, first:first + n_keys].bool()
    if padding.shape[1] != n_keys:
        return None
    if bool(padding.all()):
        return []
    hidden = n_keys - padding.sum(1)
    in_front = (torch.arange(n_keys) >= hidden[:, None]) == padding
    return hidden.tolist() if bool(in_front.all()) else None


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: int = 0,
    mask_function: Any = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **kwargs: Any,
) -> torch.Tensor | None:
    """A bool mask [batch_size, 1, q_length, kv_length], True = visible; None where _attention needs none."""
    # A prefill into a static cache has more keys than queries; sdpa_mask leaves its mask out too, and then
    # the attention function cannot tell it from the last queries of a longer sequence.
    skip = allow_is_causal_skip and (q_length == 1 or q_length == kv_length)
    make = functools.partial(sdpa_mask, batch_size, q_length, kv_length, q_offset, kv_offset, mask_function,
                             attention_mask, local_size, **kwargs)
    window = None if is_tracing(attention_mask) or is_tracing(q_offset) else _window_of(mask_function)
    if window is None:
        return make(allow_is_causal_skip=skip)
    position = int(q_offset) - kv_offset
    leftpad = _leftpad(attention_mask, kv_offset, position + q_length)
    if leftpad is None or position + q_length > kv_length:
        return make(allow_is_causal_skip=skip)
    hides_by_window = 0 < window < position + q_length
    if skip and not leftpad and not hides_by_window and position + q_length == kv_length:
        return None
    align = [position - pad for pad in leftpad or [0]]
    return _Positions((batch_size, 1, q_length, kv_length), align, leftpad or None, window if hides_by_window else None,
                      functools.partial(make, allow_is_causal_skip=False))


def _tell_apart_from_flash_attention(name: str) -> None:
    """transformers takes every implementation whose name contains "flash" for FlashAttention: it looks for
    that package, and models then pass packed sequences. Its one test for that leaves this name out."""
    _not_flash_attention.add(name)
    original = generic.is_flash_attention_requested
    if not original(requested_attention_implementation=name):
        return

    @functools.wraps(original)
    def is_flash_attention_requested(config=None, requested_attention_implementation=None, version=None):
        found = requested_attention_implementation if config is None else config._attn_implementation
        if found in _not_flash_attention and (config is None or requested_attention_implementation is None):
            return False
        return original(config, requested_attention_implementation, version)

    # Modules import it by name, so those that have it already are told as well.
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get("is_flash_attention_requested") is original:
            module.is_flash_attention_requested = is_flash_attention_requested


def register(name: str = "flashc") -> None:
    """Makes attn_implementation=name mean flashc, for models loaded or switched (set_attn_implementation)
    from now on.

    Registers an attention function and the mask function that belongs to it. If name contains "flash", as the
    default does, transformers' own test for FlashAttention (is_flash_attention_requested) is wrapped to leave
    this name out; it is the only thing of transformers that changes. May be called again, with other names
    too.
    """
    if "flash" in name:
        _tell_apart_from_flash_attention(name)
    AttentionInterface.register(name, _attention)
    AttentionMaskInterface.register(name, _mask)
