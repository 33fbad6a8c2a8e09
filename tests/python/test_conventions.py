"""README's table "Names and conventions elsewhere": what each framework means, written out in float64, is what the
named call of flashc gives. Where a framework runs here it is asked itself: test_onnx.py and
with_torch/test_conventions_torch.py.
"""
import numpy as np
import pytest

import flashc

HEADS, HEADS_K, ROWS, KEYS, DIM = 4, 2, 5, 37, 32
GROUP = HEADS // HEADS_K
RNG = np.random.default_rng(11)
Q, K, V = (RNG.standard_normal((h, n, DIM)).astype(np.float32)
           for h, n in ((HEADS, ROWS), (HEADS_K, KEYS), (HEADS_K, KEYS)))
I, J = np.arange(ROWS)[:, None], np.arange(KEYS)[None]
AT = I + KEYS - ROWS  # positions where the last query is the last key's
LAST = {"causal": True, "align": "bottom-right"}
SLOPES = 2.0 ** -np.arange(1, HEADS + 1)


def scaled(scale=DIM ** -0.5):
    """[heads, rows, keys]: query head h reads K/V head h // group."""
    return scale * np.einsum("hid,hjd->hij", Q.astype(np.float64), np.repeat(K, GROUP, 0).astype(np.float64))


def softmax(scores, visible=True, sink=None):
    """O and LSE, in natural log; a row that sees nothing gives 0 and -inf."""
    scores = np.where(visible, scores, -np.inf)
    terms = np.exp(scores)
    total = terms.sum(-1) + (0 if sink is None else np.exp(sink)[:, None])
    with np.errstate(divide="ignore"):
        lse = np.log(total)
    return np.einsum("hij,hjd->hid", terms / np.where(total > 0, total, 1)[..., None], np.repeat(V, GROUP, 0)), lse


def check(expected, base=np.e, shift=0.0, **options):
    """flashc's O, and its LSE in the framework's base; shift: what the framework adds to every score of a row."""
    o, lse = flashc.attention(Q, K, V, return_lse=True, **options)
    np.testing.assert_allclose(o, expected[0], rtol=0, atol=2e-6)
    np.testing.assert_allclose((lse + shift) / np.log(base), expected[1], rtol=1e-5, atol=1e-5)


def test_flash_attention():
    """causal, window_size, alibi_slopes: positions from the bottom right corner; both ends of the window count."""
    left, right = 7, 2
    check(softmax(scaled(), J <= AT), **LAST)
    check(softmax(scaled(), (J >= AT - left) & (J <= AT + right)), window=(left, right), align="bottom-right")
    alibi = -SLOPES[:, None, None] * abs(AT - J)
    check(softmax(1.5 * np.tanh(scaled() / 1.5) + alibi, J <= AT), softcap=1.5,
          alibi_slopes=SLOPES.astype(np.float32), **LAST)
    # More queries than keys: the first see none.
    o, lse = flashc.attention(Q, K[:, :2], V[:, :2], return_lse=True, **LAST)
    assert not o[:, :3].any() and np.isneginf(lse[:, :3]).all() and o[:, 3:].all()


def test_flashinfer():
    """window_left counts keys before the position; LSE to base 2; ALiBi slope * (kv_idx - qo_idx), which is a constant
    of the row away; a cap of 0 is none; ALiBi and a cap together come in the other order there: as a bias and
    score_mod."""
    check(softmax(scaled(), (J <= AT) & (J >= AT - 7)), window=(7, -1), **LAST)
    o, lse = softmax(scaled(), J <= AT)
    check((o, lse / np.log(2)), base=2, **LAST)
    alibi = SLOPES[:, None, None] * (J - I)
    o, lse = softmax(scaled() + alibi, J <= AT)
    row = SLOPES[:, None] * (KEYS - ROWS)
    check((o, lse), shift=row, alibi_slopes=SLOPES.astype(np.float32), **LAST)
    both = 1.5 * np.tanh((scaled() / 1.5 + alibi))
    tilt = alibi.astype(np.float32)

    def cap(score, b, h, q_idx, kv_idx):
        return 1.5 * np.tanh(score / 1.5 + tilt[h, q_idx, kv_idx])
    check(softmax(both, J <= AT), score_mod=cap, **LAST)


def test_vllm():
    """sliding_window counts the query's own key; ALiBi is slope * (j - context length), a constant of the row away;
    sinks."""
    window, context = 8, KEYS - ROWS
    check(softmax(scaled(), (J <= AT) & (AT - J < window)), window=(window - 1, 0), **LAST)
    o, lse = softmax(scaled() + SLOPES[:, None, None] * (J - context), J <= AT)
    check((o, lse), shift=(SLOPES[:, None, None] * I)[..., 0], alibi_slopes=SLOPES.astype(np.float32), **LAST)
    sinks = RNG.standard_normal(HEADS).astype(np.float32)
    check(softmax(scaled(), J <= AT, sinks), sinks=sinks, **LAST)


def test_ggml():
    """Cap, then slope * mask; slopes by max_bias and the number of heads; llama.cpp's windows count the query's own
    key."""
    max_bias, whole = 8.0, 2 ** int(np.log2(HEADS))
    slopes = [2 ** (-max_bias / whole * (h + 1)) if h < whole else 2 ** (-max_bias / 2 / whole * (2 * (h - whole) + 1))
              for h in range(HEADS)]
    mask = np.where(J <= AT, -abs(AT - J).astype(np.float64), -np.inf)
    expected = softmax(3 * np.tanh(scaled() / 3) + np.array(slopes)[:, None, None] * mask)
    check(expected, softcap=3.0, alibi_slopes=np.array(slopes, np.float32), **LAST)
    half = mask.astype(np.float16)  # the mask itself, without max_bias
    check(softmax(scaled() + mask), bias=half)
    check(softmax(scaled(), (J <= AT) & (AT - J < 8)), window=(7, 0), **LAST)


def test_jax():
    """is_causal from the top left; local_window_size=(left, right) counts both ends, one number is for both sides."""
    check(softmax(scaled(), J <= I), causal=True, align="top-left")
    check(softmax(scaled(), (J >= I - 3) & (J <= I + 2)), window=(3, 2), align="top-left")


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_flashinfer_pages(layout):
    """K and V in one array [pages, 2, ...]; pages of sequence b are kv_indices[kv_indptr[b]:kv_indptr[b + 1]], the last
    one with kv_last_page_len[b] rows."""
    size, lengths = 8, [KEYS, 9, 16]
    pages = [-(-n // size) for n in lengths]
    indptr = np.cumsum([0, *pages])
    indices = RNG.permutation(sum(pages) + 3)[:sum(pages)].astype(np.int32)
    last = [n - (p - 1) * size for n, p in zip(lengths, pages)]
    cache = np.full((sum(pages) + 3, 2, size, HEADS_K, DIM), np.nan, np.float32)
    for b, n in enumerate(lengths):
        for j in range(n):
            page = cache[indices[indptr[b] + j // size], :, j % size]
            page[0], page[1] = K[:, j], V[:, j]
    bshd = layout == "NHD"
    if not bshd:
        cache = np.ascontiguousarray(cache.swapaxes(2, 3))
    # What flashc wants: a row of pages for each sequence, and lengths.
    table = np.full((len(lengths), max(pages)), -1, np.int32)
    for b, n in enumerate(pages):
        table[b, :n] = indices[indptr[b]:indptr[b + 1]]
    seqlens_k = [(n - 1) * size + rest for n, rest in zip(pages, last)]
    assert seqlens_k == lengths
    q = np.broadcast_to(Q, (3, *Q.shape))
    q = np.ascontiguousarray(q.swapaxes(1, 2)) if bshd else q
    o = flashc.attention(q, cache[:, 0], cache[:, 1], block_table=table, seqlens_k=seqlens_k,
                         layout="bshd" if bshd else "bhsd", **LAST)
    for b, n in enumerate(lengths):
        alone = flashc.attention(Q, K[:, :n], V[:, :n], **LAST)
        assert np.array_equal(o[b].swapaxes(0, 1) if bshd else o[b], alone)
