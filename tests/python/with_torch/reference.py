"""Attention in float64, three plain passes over the whole score matrix, and the error bound of flashc.h."""

import math

import torch

U = 2.0**-24  # unit roundoff of f32, in which flashc computes
HALF_ULP = {
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}  # relative, of a rounding
SMALLEST = {
    torch.float32: 2.0**-150,
    torch.float16: 2.0**-25,
    torch.bfloat16: 2.0**-134,
}  # half the least denormal


def attention(query, key, value, attn_mask=None, is_causal=False, scale=None, enable_gqa=False):
    """(result, bound), both float64 [..., Hq, L, Ev]. bound is what flashc.h allows on these inputs, with the
    number of key tiles at its largest, the number of keys."""
    dtype = query.dtype
    query, key, value = query.double(), key.double(), value.double()
    if enable_gqa:
        group = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(group, -3), value.repeat_interleave(group, -3)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = query @ key.transpose(-1, -2) * scale
    sizes = query.abs() @ key.abs().transpose(-1, -2) * abs(scale)  # A of the bound, per score
    rows, keys = scores.shape[-2:]
    hidden = torch.zeros(rows, keys, dtype=torch.bool)
    if is_causal:
        hidden = torch.arange(keys) > torch.arange(rows)[:, None]
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        hidden = hidden | ~attn_mask
    elif attn_mask is not None:
        scores = scores + attn_mask.double()
        sizes = sizes + attn_mask.double().abs()
    hidden = (hidden | scores.isneginf()).expand(scores.shape)
    scores = scores.masked_fill(hidden, -math.inf)
    seen = ~hidden.all(-1, keepdim=True)
    if keys == 0:
        weights, size = scores, scores.new_zeros(*scores.shape[:-1], 1)
    else:
        largest = torch.where(seen, scores.amax(-1, keepdim=True), 0.0)
        weights = torch.exp(scores - largest)
        weights = weights / torch.where(seen, weights.sum(-1, keepdim=True), 1.0)
        size = sizes.masked_fill(hidden, 0.0).amax(-1, keepdim=True)
    result = weights @ value
    # Products of bfloat16 may be made in it: the weights are rounded then.
    rounded = 2.0**-8 if dtype == torch.bfloat16 else 0.0
    computed = (U * (8 + 4 * size + 4 * keys) + rounded) * (weights @ value.abs())
    underflow = 2.0**-126 * value.abs().sum(-2, keepdim=True) + 2.0**-149 * 2 * keys
    rounding = HALF_ULP[dtype] * (result.abs() + computed) + SMALLEST[dtype]
    return result, computed + underflow + rounding


def assert_close(found, query, *args, **kwargs):
    """found is flashc's result for these arguments: right type, right shape, inside the stated bound."""
    want, bound = attention(query, *args, **kwargs)
    assert found.dtype == query.dtype
    assert found.shape == want.shape
    excess = (found.double() - want).abs() - bound
    assert (
        not (excess > 0).any() and not excess.isnan().any()
    ), f"off by up to {(found.double() - want).abs().max():.3g}, allowed there {bound.max():.3g}"
