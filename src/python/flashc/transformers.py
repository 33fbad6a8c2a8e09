"""Attention for Hugging Face transformers.

    import flashc.transformers

    flashc.transformers.register()
    model = AutoModel.from_pretrained(..., attn_implementation="flashc")

Supported: inference on the CPU in float32, float16 and bfloat16 (under torch.no_grad() or generate());
encoders, decoders and cross attention; grouped-query attention without repeating K and V; padded batches;
dynamic and static KV caches, decoding included; logit soft-capping (Gemma 2) and attention sinks (gpt-oss);
sliding windows and other patterns that transformers expresses as a mask; 4-D masks of the user's, bool (True =
visible) or float (added).

Refused by an error that names the argument: training (gradients, dropout), position biases (T5), top-k sparse
attention, paged caches, packed sequences without a mask, returned attention weights.
"""
from __future__ import annotations

try:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask
    from transformers.utils import generic
except ImportError as error:
    raise ImportError("flashc.transformers needs transformers 5 (pip install transformers), which cannot be "
                      f"imported here: {error}") from error

import functools
import sys
from typing import Any

import torch

import flashc
from flashc.torch import _new_output, scaled_dot_product_attention

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


@torch.compiler.disable  # the operator that torch.compile keeps whole has neither
def _attention_with(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None,
                    is_causal: bool, scale: float | None, softcap: float | None,
                    sinks: torch.Tensor | None) -> torch.Tensor:
    """[batch, heads, seqlen_q, dim], as scaled_dot_product_attention; sinks: [heads]."""
    bias = None
    if mask is not None and mask.dtype != torch.bool:
        mask, bias = None, mask
    if sinks is not None:
        sinks = sinks.detach().reshape(-1).to(torch.float32).contiguous()
    out = _new_output(query, value, list(query.shape[:2]))
    torch.get_num_threads()  # see flashc.torch
    return flashc.attention(query, key, value, scale=scale, causal=is_causal, align="top-left" if is_causal else None,
                            mask=mask, bias=bias, softcap=softcap, sinks=sinks, out=out)


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
    softcap, sinks = kwargs.get("softcap"), kwargs.get("s_aux")
    if softcap or sinks is not None:
        output = _attention_with(query, key, value, attention_mask, is_causal, scaling, softcap or None, sinks)
    else:
        output = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, is_causal=is_causal,
                                              scale=scaling, enable_gqa=key.shape[1] != query.shape[1])
    # No copy where query came from [batch, seqlen_q, heads, dim], as it does in nearly every model.
    return output.transpose(1, 2).contiguous(), None


def _mask(batch_size: int, q_length: int, kv_length: int, *args: Any, allow_is_causal_skip: bool = True,
          **kwargs: Any) -> torch.Tensor | None:
    """A bool mask [batch_size, 1, q_length, kv_length], True = visible; None where _attention needs none."""
    # A prefill into a static cache has more keys than queries; sdpa_mask leaves its mask out too, and then
    # the attention function cannot tell it from the last queries of a longer sequence.
    skip = allow_is_causal_skip and (q_length == 1 or q_length == kv_length)
    return sdpa_mask(batch_size, q_length, kv_length, *args, allow_is_causal_skip=skip, **kwargs)


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
