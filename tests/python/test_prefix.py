"""flashc.shared_prefix_attention(): each sequence with the prefix in front of its own keys."""
from typing import Any

import numpy as np
import pytest

import flashc

RNG = np.random.default_rng(12)
BATCH, HEADS, HEADS_K, PREFIX, OWN, DIM = 3, 4, 2, 700, 90, 16
CAUSAL: dict[str, Any] = {"causal": True, "align": "bottom-right"}


def arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [RNG.standard_normal(shape, np.float32) for shape in shapes]


def problem(rows: int) -> list[np.ndarray]:
    """q, the prefix of k and v, own k and v."""
    prefix, own = (HEADS_K, PREFIX, DIM), (BATCH, HEADS_K, OWN, DIM)
    return arrays((BATCH, HEADS, rows, DIM), prefix, prefix, own, own)


def whole(prefix: np.ndarray, own: np.ndarray) -> np.ndarray:
    return np.concatenate((np.broadcast_to(prefix, (len(own), *prefix.shape)), own), 2)


@pytest.mark.parametrize("rows", [1, 5])
def test_explanation(rows: int) -> None:
    q, prefix_k, prefix_v, k, v = problem(rows)
    on_prefix, own = flashc.explain_shared_prefix(q, prefix_k, prefix_v, k, v, num_threads=1, **CAUSAL)
    assert on_prefix.flops == 4 * DIM * BATCH * HEADS * rows * PREFIX
    assert own.flops == flashc.explain(q, k, v, **CAUSAL).flops
    assert own.kernel == flashc.explain(q, k, v).kernel and on_prefix.num_threads == own.num_threads == 1
    out, row_max = np.full_like(q, 7), np.full((BATCH, HEADS, rows), 7, np.float32)
    options: dict[str, Any] = {"scale": 0.5, "out": out, "return_lse": True, "row_max": row_max, "progress": print,
                               "num_threads": 1, **CAUSAL}
    assert flashc.explain_shared_prefix(q, prefix_k, prefix_v, k, v, **options) == (on_prefix, own)
    assert (out == 7).all() and (row_max == 7).all()
    for call in (flashc.explain_shared_prefix, flashc.shared_prefix_attention):
        for name, wrong in (("scale", np.inf), ("out", out[:1]), ("row_max", row_max[..., 0]), ("out_dtype", "f16")):
            with pytest.raises(ValueError, match=f"^{name}: "):
                call(q, prefix_k, prefix_v, k, v, **{**options, name: wrong})
    with pytest.raises(ValueError, match="prefix_v: expected 3 axes"):
        flashc.explain_shared_prefix(q, prefix_k, v, k, v)
    endless = np.broadcast_to(np.float32(0), (HEADS_K, 2**48, DIM))
    with pytest.raises(ValueError, match=r"^prefix_seqlen: expected at most 2\^48 keys together with seqlen_k"):
        flashc.explain_shared_prefix(q, endless, endless, k, v)
    with pytest.raises(ValueError, match="kernel: expected one of"):
        flashc.explain_shared_prefix(q, prefix_k, prefix_v, k, v, kernel="nope")


@pytest.mark.parametrize("rows", [1, 5])
def test_behind_the_prefix(rows: int) -> None:
    q, prefix_k, prefix_v, k, v = problem(rows)
    sinks = np.array([0, 1, -1, 2], np.float32)
    options: dict[str, Any] = {"softcap": 5.0, "sinks": sinks, "return_lse": True, **CAUSAL}
    expected, expected_lse = flashc.attention(q, whole(prefix_k, k), whole(prefix_v, v), **options)
    row_max = np.empty((BATCH, HEADS, rows), np.float32)
    o, lse = flashc.shared_prefix_attention(q, prefix_k, prefix_v, k, v, row_max=row_max, **options)
    np.testing.assert_allclose(o, expected, atol=2e-6)
    np.testing.assert_allclose(lse, expected_lse, atol=2e-6)
    assert np.isfinite(row_max).all() and (row_max <= lse).all()
    del options["align"]  # the default
    out = np.empty_like(o)
    assert flashc.shared_prefix_attention(q, prefix_k, prefix_v, k, v, out=out, **options)[0] is out
    np.testing.assert_array_equal(out, o)


def test_layouts() -> None:
    q, prefix_k, prefix_v, k, v = problem(5)
    expected = flashc.shared_prefix_attention(q, prefix_k, prefix_v, k, v, causal=True)
    bshd = [np.ascontiguousarray(x.swapaxes(-2, -3)) for x in (q, prefix_k, prefix_v, k, v)]
    got = flashc.shared_prefix_attention(*bshd, causal=True, layout="bshd")
    np.testing.assert_array_equal(got.swapaxes(1, 2), expected)
    # q as part of a longer array, in either layout: its sequences are not one behind the other.
    padded = np.zeros((BATCH, 8, HEADS, DIM), np.float32)
    padded[:, :5] = bshd[0]
    got = flashc.shared_prefix_attention(padded[:, :5], *bshd[1:], causal=True, layout="bshd")
    np.testing.assert_array_equal(got.swapaxes(1, 2), expected)
    got = flashc.shared_prefix_attention(padded[:, :5].swapaxes(1, 2), prefix_k, prefix_v, k, v, causal=True)
    np.testing.assert_array_equal(got, expected)
    plans = flashc.explain_shared_prefix(padded[:, :5], *bshd[1:], causal=True, layout="bshd")
    assert plans == flashc.explain_shared_prefix(*bshd, causal=True, layout="bshd")
    # A batch of one, without its axis.
    one = flashc.shared_prefix_attention(q[0], prefix_k, prefix_v, k[0], v[0], causal=True)
    np.testing.assert_allclose(one, expected[0], atol=2e-6)
    # One head, without its axis either, and values of another size.
    alone = [q[0, 0], prefix_k[0], prefix_v[0, :, :7], k[0, 0], v[0, 0, :, :7]]
    np.testing.assert_allclose(flashc.shared_prefix_attention(*alone, causal=True), expected[0, 0, :, :7], atol=2e-6)


def test_packed_pages_and_lengths() -> None:
    lengths, starts = [OWN, 0, 33], [0, OWN, OWN, OWN + 33]
    q, prefix_k, prefix_v, k, v = problem(1)
    expected = flashc.attention(q, whole(prefix_k, k), whole(prefix_v, v), seqlens_k=[PREFIX + n for n in lengths])
    got = flashc.shared_prefix_attention(q, prefix_k, prefix_v, k, v, seqlens_k=lengths)
    np.testing.assert_allclose(got, expected, atol=2e-6)
    packed = [np.concatenate([x[b, :, :n] for b, n in enumerate(lengths)], 1) for x in (k, v)]
    got = flashc.shared_prefix_attention(q[:, :, 0].swapaxes(0, 1), prefix_k, prefix_v, *packed,
                                         cu_seqlens_q=[0, 1, 2, 3], cu_seqlens_k=starts)
    np.testing.assert_allclose(got.swapaxes(0, 1)[:, :, None], expected, atol=2e-6)
    pages = [x.reshape(BATCH, HEADS_K, 3, 30, DIM).swapaxes(1, 2).reshape(3 * BATCH, HEADS_K, 30, DIM) for x in (k, v)]
    got = flashc.shared_prefix_attention(q, prefix_k, prefix_v, *pages, seqlens_k=lengths,
                                         block_table=np.arange(9, dtype=np.int32).reshape(3, 3))
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_codes() -> None:
    q, *floats = problem(1)
    codes, scales = [], []
    for x in floats:
        scales.append(np.abs(x).max(-1) / np.float32(127))
        codes.append(np.rint(x / scales[-1][..., None]).astype(np.int8))
    k_scale, v_scale = (np.concatenate((np.broadcast_to(scales[i], (BATCH, HEADS_K, PREFIX)), scales[i + 2]), 2)
                        for i in (0, 1))
    expected = flashc.attention(q, whole(codes[0], codes[2]), whole(codes[1], codes[3]), k_scale=k_scale,
                                v_scale=v_scale)
    got = flashc.shared_prefix_attention(q, *codes, prefix_k_scale=scales[0], prefix_v_scale=scales[1],
                                         k_scale=scales[2], v_scale=scales[3])
    np.testing.assert_allclose(got, expected, atol=2e-6)
    with pytest.raises(ValueError, match="prefix_k_scale: expected an array with prefix_k of type int8"):
        flashc.shared_prefix_attention(q, *codes, k_scale=scales[2], v_scale=scales[3])


def test_errors() -> None:
    q, prefix_k, prefix_v, k, v = problem(2)
    call = flashc.shared_prefix_attention
    five_axes = np.zeros((1, 1, 1, 1, 1), np.float32)
    for wrong in (prefix_k[:1], prefix_k[None], prefix_k[..., :8], prefix_k[0, 0], five_axes):
        with pytest.raises(ValueError, match="prefix_k: expected 3 axes, 2 K/V heads, 16 columns, found"):
            call(q, wrong, prefix_v, k, v)
    for wrong in (prefix_v[:, :-1], np.concatenate((prefix_v, prefix_v), 1)):
        with pytest.raises(ValueError, match="prefix_v: expected 3 axes, .* and the rows of prefix_k, found"):
            call(q, prefix_k, wrong, k, v)
    with pytest.raises(TypeError, match="prefix_k: "):
        call(q, None, prefix_v, k, v)
    with pytest.raises(ValueError, match=r"seqlens_k\[1\]: expected 0 to 90, found 91"):
        call(q, prefix_k, prefix_v, k, v, seqlens_k=[90, 91, 0])
    with pytest.raises(TypeError, match="progress: expected a function"):
        call(q, prefix_k, prefix_v, k, v, progress=3)

    def stop(done: int, total: int) -> None:
        raise KeyError("mine")
    with pytest.raises(KeyError, match="mine"):
        call(q, prefix_k, prefix_v, k, v, progress=stop)
