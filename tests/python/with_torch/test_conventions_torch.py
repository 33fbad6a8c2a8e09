"""README's table "Names and conventions elsewhere", asked of PyTorch, transformers and, where it is installed, JAX."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="these tests need torch, which is not installed")

from torch.nn.attention import bias as torch_bias
from torch.nn.attention.flex_attention import AuxRequest, flex_attention
from torch.nn.functional import scaled_dot_product_attention as sdpa

import flashc

HEADS, HEADS_K, ROWS, KEYS, DIM = 4, 2, 5, 37, 32
TOLERANCE = dict(rtol=1e-5, atol=2e-6)


@pytest.fixture
def arrays():
    torch.manual_seed(3)
    return torch.randn(2, HEADS, ROWS, DIM), torch.randn(2, HEADS_K, KEYS, DIM), torch.randn(2, HEADS_K, KEYS, DIM)


def test_sdpa_is_causal_is_top_left(arrays):
    q, k, v = arrays
    want = sdpa(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(flashc.attention(q, k, v, causal=True, align="top-left"), want, **TOLERANCE)


@pytest.mark.parametrize("make, align", [(torch_bias.causal_upper_left, "top-left"),
                                         (torch_bias.causal_lower_right, "bottom-right")])
def test_causal_biases(arrays, make, align):
    q, k, v = arrays
    k, v = (x.repeat_interleave(HEADS // HEADS_K, 1) for x in (k, v))
    want = sdpa(q, k, v, attn_mask=make(ROWS, KEYS))
    torch.testing.assert_close(flashc.attention(q, k, v, causal=True, align=align), want, **TOLERANCE)


def test_masks(arrays):
    """True takes part; a row that sees nothing is 0."""
    q, k, v = arrays
    mask = torch.rand(ROWS, KEYS) < 0.5
    mask[2] = False
    want = sdpa(q, k, v, attn_mask=mask, enable_gqa=True)
    found, lse = flashc.attention(q, k, v, mask=mask, return_lse=True)
    torch.testing.assert_close(found, want, **TOLERANCE)
    assert not found[:, :, 2].any() and lse[:, :, 2].isneginf().all()


def test_lse_of_the_cpu_operator_is_natural(arrays):
    q, k, v = (x.repeat_interleave(HEADS // x.shape[1], 1) for x in arrays)
    want, want_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    found, lse = flashc.attention(q, k, v, return_lse=True)
    torch.testing.assert_close(found, want, **TOLERANCE)
    torch.testing.assert_close(lse, want_lse, **TOLERANCE)


def alibi(score, b, h, q_idx, kv_idx):
    return score - 2.0 ** -(h + 1) * abs(q_idx - kv_idx)


def capped(score, b, h, q_idx, kv_idx):
    return 1.5 * torch.tanh(score / 1.5)


def window(score, b, h, q_idx, kv_idx):
    return torch.where((kv_idx <= q_idx) & (q_idx - kv_idx <= 7), score, -math.inf)


SLOPES = np.exp2(-np.arange(1.0, HEADS + 1)).astype(np.float32)
FLEX = [(alibi, dict(alibi_slopes=SLOPES, align="top-left")), (capped, dict(softcap=1.5)),
        (window, dict(window=(7, 0), align="top-left"))]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("score_mod, options", FLEX, ids=[f.__name__ for f, _ in FLEX])
def test_flex_attention(arrays, score_mod, options):
    """The score_mod in PyTorch's words, flashc's own feature, and the same score_mod in NumPy's: one result and LSE."""
    q, k, v = arrays
    want, aux = flex_attention(q, k, v, score_mod=score_mod, enable_gqa=True, return_aux=AuxRequest(lse=True))
    found, lse = flashc.attention(q, k, v, return_lse=True, **options)
    torch.testing.assert_close(found, want, **TOLERANCE)
    torch.testing.assert_close(lse, aux.lse, **TOLERANCE)

    def on_numpy(score, b, h, q_idx, kv_idx):
        return score_mod(torch.from_numpy(score), b, h, torch.from_numpy(q_idx), torch.from_numpy(kv_idx)).numpy()

    found = flashc.attention(q, k, v, score_mod=on_numpy)
    torch.testing.assert_close(found, want, **TOLERANCE)


def test_transformers_windows():
    """sliding_window counts the query's own key, or, of encoders, so many keys to both sides of it."""
    masking = pytest.importorskip("transformers.masking_utils", reason="needs transformers, which is not installed")
    size, at = 8, torch.arange(20)
    causal = masking.sliding_window_causal_mask_function(size)(0, 0, at[:, None], at[None])
    both = masking.sliding_window_bidirectional_overlay(size)(0, 0, at[:, None], at[None])
    x = torch.randn(2, 20, DIM)
    for mask, options in ((causal, dict(window=(size - 1, 0), causal=True)), (both, dict(window=(size, size)))):
        want = flashc.attention(x, x, x, mask=mask)
        torch.testing.assert_close(flashc.attention(x, x, x, align="top-left", **options), want, **TOLERANCE)


@pytest.mark.parametrize("options, ours", [
    (dict(is_causal=True), dict(causal=True, align="top-left")),
    (dict(local_window_size=(3, 2)), dict(window=(3, 2), align="top-left")),
    (dict(local_window_size=3), dict(window=(3, 3), align="top-left")),
    (dict(is_causal=True, local_window_size=(3, 0)), dict(causal=True, window=(3, 0), align="top-left")),
    (dict(key_value_seq_lengths=[30, 12]), dict(seqlens_k=[30, 12])),
], ids=str)
def test_jax(arrays, options, ours):
    jax = pytest.importorskip("jax", reason="NOT TESTED: jax is not installed")
    q, k, v = (x.transpose(1, 2).contiguous().numpy() for x in arrays)
    if "key_value_seq_lengths" in options:
        options = dict(key_value_seq_lengths=jax.numpy.array(options["key_value_seq_lengths"]))
    want, want_lse = jax.nn.dot_product_attention(q, k, v, return_residual=True, **options)
    found, lse = flashc.attention(q, k, v, layout="bshd", return_lse=True, **ours)
    np.testing.assert_allclose(found, np.asarray(want), **TOLERANCE)
    np.testing.assert_allclose(lse.swapaxes(1, 2), np.asarray(want_lse), **TOLERANCE)
