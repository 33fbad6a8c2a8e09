"""ONNX's operator Attention (opsets 23 to 27) as one call of flashc.attention.

What the operator means, and what it becomes here:

  3-D Q, K, V            [batch, seqlen, heads * dim], seen as bshd without a copy
  past_key, past_value   put in front of K and V; the result is present_key, present_value
  offset                 position of query 0: past length; nonpad_kv_seqlen[b] - seqlen_q; otherwise 0
  is_causal              key j <= i + offset, so an explicit alignment (top-left without a cache)
  windows                offset + i - left <= j <= offset + i + right: window=(left, right), with that offset
  nonpad_kv_seqlen       keys j < nonpad_kv_seqlen[b]: seqlens_k
  softcap                softcap, between scale and mask in both; 0 is none
  attn_mask, boolean     a boolean mask, True = visible, as in flashc
  attn_mask, float       a bias
  short attn_mask        keys past its end are hidden, so they are not handed to flashc at all
  softmax_precision      nothing: flashc computes in f32 whatever the type
  qk_matmul_output       scores, at the stage of qk_matmul_output_mode: 0 scaled, 1 capped, 2 masked, 3 weights
"""
from typing import Any

import numpy as np

import flashc

INPUTS = ("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen")
OUTPUTS = ("Y", "present_key", "present_value", "qk_matmul_output")
DTYPES = ("float32", "float16", "bfloat16", "bool", "int64")  # bool: attn_mask, int64: lengths

_MAPPED = {"scale", "is_causal", "q_num_heads", "kv_num_heads", "softmax_precision", "left_window_size",
           "right_window_size", "softcap", "qk_matmul_output_mode"}


def missing_features(inputs: dict[str, np.ndarray], attributes: dict[str, Any]) -> list[str]:
    """What the outputs Y, present_key and present_value of this node need and attention() cannot map."""
    missing = [f"attribute {name}" for name in attributes if name not in _MAPPED]
    missing += [f"input {name}" for name in inputs if name not in INPUTS]
    missing += [f"dtype {x.dtype}" for x in inputs.values() if x.dtype.name not in DTYPES]
    return missing


def split_heads(x: np.ndarray, heads: int) -> np.ndarray:
    """[batch, seqlen, heads * dim] -> [batch, seqlen, heads, dim], a view."""
    batch, seqlen, width = x.shape
    return x.reshape(batch, seqlen, heads, width // heads)


STAGES = ("scaled", "capped", "masked", "weights")


def attention(inputs: dict[str, np.ndarray], attributes: dict[str, Any], *,
              with_scores: bool = False) -> dict[str, np.ndarray]:
    """Inputs by ONNX's names, absent ones left out -> {"Y", "present_key", "present_value"} and, with_scores,
    "qk_matmul_output"."""
    missing = missing_features(inputs, attributes)
    if missing:
        raise NotImplementedError(", ".join(missing))
    q, k, v = inputs["Q"], inputs["K"], inputs["V"]
    packed = q.ndim == 3
    if packed:
        q = split_heads(q, attributes["q_num_heads"])
        k, v = (split_heads(x, attributes["kv_num_heads"]).swapaxes(1, 2) for x in (k, v))
    seqlen_q = q.shape[1 if packed else 2]

    align: str | int | list[int] = "top-left"
    if "past_key" in inputs:
        align = inputs["past_key"].shape[2]
        k = np.concatenate((inputs["past_key"], k), axis=2)
        v = np.concatenate((inputs["past_value"], v), axis=2)
    lengths = inputs.get("nonpad_kv_seqlen")
    if lengths is not None:
        align = [int(n) - seqlen_q for n in lengths]
    present = {"present_key": k, "present_value": v}

    attn_mask = inputs.get("attn_mask")
    if attn_mask is not None:
        # ONNX fills a short mask up with False or -inf; one key wide is short too, not broadcast
        k, v = (x[:, :, :attn_mask.shape[-1]] for x in (k, v))
    bias = attn_mask if attn_mask is not None and attn_mask.dtype != bool else None
    mask = attn_mask if bias is None else None
    window = tuple(attributes.get(f"{side}_window_size", -1) for side in ("left", "right"))
    seqlens_k = None if lengths is None else np.minimum(lengths, k.shape[2])

    causal = bool(attributes.get("is_causal", 0))
    if packed:
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    scores = None
    stage = STAGES[attributes.get("qk_matmul_output_mode", 0)] if with_scores else "scaled"
    if with_scores:
        heads, keys = q.shape[2 if packed else 1], k.shape[1 if packed else 2]
        scores = np.empty((q.shape[0], heads, seqlen_q, keys), q.dtype)
    y = flashc.attention(q, k, v, scores=scores, scores_stage=stage, scale=attributes.get("scale"), causal=causal,
                         align=align, window=window, softcap=attributes.get("softcap", 0) or None, mask=mask, bias=bias,
                         seqlens_k=seqlens_k,
                         layout="bshd" if packed else "bhsd")
    outputs = {"Y": y.reshape(*y.shape[:2], -1) if packed else y, **present}
    return outputs if scores is None else {**outputs, "qk_matmul_output": scores}
