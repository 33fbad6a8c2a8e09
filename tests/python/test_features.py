"""What most calls leave out (softcap, window, ALiBi, sinks, lengths, block masks, score_mod): each against the same
call said another way, and what is refused."""
import re
from typing import Any

import numpy as np
import pytest

import flashc

F = np.float32
RNG = np.random.default_rng(3)
Q, K, V = (RNG.standard_normal(shape, F) for shape in ((2, 4, 40, 16), (2, 2, 50, 16), (2, 2, 50, 8)))
I, J = np.arange(40)[:, None], np.arange(50)[None]  # positions
SCORES = np.einsum("bhid,bhjd->bhij", Q.astype(float), np.repeat(K, 2, axis=1)) / 4


def softmax_v(scores: Any) -> Any:
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhij,bhjd->bhid", p / p.sum(-1, keepdims=True), np.repeat(V, 2, axis=1).astype(float))


def check(expected: Any, **features: Any) -> None:
    np.testing.assert_allclose(flashc.attention(Q, K, V, **features), expected, rtol=0, atol=2e-6)


def test_softcap() -> None:
    check(softmax_v(5 * np.tanh(SCORES / 5)), softcap=5)


def test_window() -> None:
    distance = J - (I + 10)
    mask = (distance >= -7) & (distance <= 3)
    check(flashc.attention(Q, K, V, mask=mask), window=(7, 3), align="bottom-right")
    for open_side in (-1, None):
        check(flashc.attention(Q, K, V, mask=distance >= -7), window=(7, open_side), align=10)


def test_alibi() -> None:
    slopes = np.array([[0.5, 0.25, 0.125, -0.1], [1, 2, 3, 4]], F)
    check(softmax_v(SCORES - slopes[0, None, :, None, None] * abs(I - J)), alibi_slopes=slopes[0], align="top-left")
    check(softmax_v(SCORES - slopes[:, :, None, None] * abs(I + 10 - J)), alibi_slopes=slopes, align="bottom-right")


def test_sinks() -> None:
    sinks = np.array([0, 3, -np.inf, -2], F)
    o, lse = flashc.attention(Q, K, V, sinks=sinks, return_lse=True)
    plain_o, plain_lse = flashc.attention(Q, K, V, return_lse=True)
    expected = np.logaddexp(plain_lse, sinks[:, None])
    np.testing.assert_allclose(lse, expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(o, plain_o * np.exp(plain_lse - expected)[..., None], rtol=0, atol=2e-6)


@pytest.mark.parametrize("make", [list, tuple, np.array, lambda x: np.array(x, np.int32)])
def test_lengths(make: Any) -> None:
    q_lengths, k_lengths, pads = [33, 40], [50, 41], [0, 6]
    o, lse = flashc.attention(Q, K, V, seqlens_q=make(q_lengths), seqlens_k=make(k_lengths), leftpad_k=make(pads),
                              causal=True, align="bottom-right", return_lse=True)
    for b, (n_q, end, pad) in enumerate(zip(q_lengths, k_lengths, pads)):
        alone = flashc.attention(Q[b, :, :n_q], K[b, :, pad:end], V[b, :, pad:end], causal=True, align="bottom-right")
        np.testing.assert_array_equal(o[b, :, :n_q], alone)
        assert not o[b, :, n_q:].any() and np.isneginf(lse[b, :, n_q:]).all()


def test_block_mask() -> None:
    bits = RNG.random((2, 4, 3, 4)) < 0.5
    whole = np.repeat(np.repeat(bits, 16, axis=2), 13, axis=3)[:, :, :40, :50]
    check(flashc.attention(Q, K, V, mask=whole), block_mask=bits, block_mask_tile=(16, 13))
    check(flashc.attention(Q, K, V, mask=whole[1, :1]), block_mask=bits[1, 0], block_mask_tile=(16, 13))
    check(flashc.attention(Q, K, V, mask=whole[:, :1]), block_mask=bits[:, :1], block_mask_tile=(16, 13))
    check(flashc.attention(Q, K, V, mask=whole[1:]), block_mask=bits[1:], block_mask_tile=(16, 13))
    bits = RNG.random((5, 5)) < 0.5  # tiles that fit
    whole = np.repeat(np.repeat(bits, 8, axis=0), 10, axis=1)
    check(flashc.attention(Q, K, V, mask=whole), block_mask=bits, block_mask_tile=(8, 10))


@pytest.mark.parametrize("num_threads", [1, 2])
def test_score_mod(num_threads: int) -> None:
    table = RNG.standard_normal((4, 91)).astype(F)

    def relative(score: Any, b: int, h: int, q_idx: Any, kv_idx: Any) -> Any:
        return np.where((q_idx + b) // 9 == kv_idx // 9, score + table[h, kv_idx - q_idx + 40], -np.inf)

    bias = np.where((I + np.arange(2)[:, None, None, None]) // 9 == J // 9, table[:, J - I + 40], -np.inf)
    check(flashc.attention(Q, K, V, bias=bias.astype(F)), score_mod=relative, num_threads=num_threads)


def test_score_mod_keeps_no_memory() -> None:
    kept = []
    flashc.attention(Q, K, V, score_mod=lambda score, *_: kept.append(score) or score)
    assert all(np.isfinite(score).all() for score in kept)


class Broken(Exception):
    pass


@pytest.mark.parametrize("num_threads", [1, 3])
def test_score_mod_that_raises(num_threads: int) -> None:
    def broken(score: Any, b: int, h: int, *_: Any) -> Any:
        if (b, h) == (1, 2):
            raise Broken("on purpose")
        return score

    for _ in range(3):
        with pytest.raises(Broken, match="on purpose"):
            flashc.attention(Q, K, V, score_mod=broken, num_threads=num_threads)


@pytest.mark.parametrize("returned", [lambda score: 3.0, lambda score: np.arange(score.shape[1]),
                                      lambda score: np.zeros((score.shape[0], 1), np.float16)])
def test_scores_that_broadcast(returned: Any) -> None:
    """A number is the score of the whole block, a row that of every query."""
    found = flashc.attention(Q, K, V, score_mod=lambda score, *_: returned(score))
    scores = np.broadcast_to(np.asarray(returned(np.empty((40, 50))), F), (40, 50))
    expected = flashc.attention(Q, K, V, scale=0.0, bias=np.ascontiguousarray(scores))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("number", [17, np.int64(17), np.array(17, np.int32)], ids=["int", "int64", "array"])
@pytest.mark.parametrize("name", ["seqlens_q", "seqlens_k", "leftpad_k"])
def test_one_length_for_all(name: str, number: Any) -> None:
    one, each = ({name: lengths} for lengths in (number, [17, 17]))
    assert flashc.attention(Q, K, V, **one).tobytes() == flashc.attention(Q, K, V, **each).tobytes()
    assert flashc.explain(Q, K, V, **one) == flashc.explain(Q, K, V, **each)
    if name != "seqlens_k":
        return
    prefix = flashc.shared_prefix_attention(Q, K[0], V[0], K, V, **one)
    assert prefix.tobytes() == flashc.shared_prefix_attention(Q, K[0], V[0], K, V, **each).tobytes()
    for q, starts in ((Q, None), (Q[0], [0, 15, 40]), (Q[0], None)):
        each = [17] * (2 if q is Q or starts else 1)
        states = [flashc.AttentionState(q, seqlen_k=50, seqlens_k=lengths, causal=True, align="bottom-right",
                                        cu_seqlens_q=starts) for lengths in (number, each)]
        for state in states:
            k, v = (x[0] if q is not Q and starts is None else x for x in (K, V))
            state.accumulate(k, v, seqlens_k=number)
        assert states[0].finish().tobytes() == states[1].finish().tobytes()


def test_score_mod_that_raised_is_not_called_again() -> None:
    calls = []

    def broken(*_: Any) -> Any:
        calls.append(1)
        raise Broken(f"call {len(calls)}")

    with pytest.raises(Broken, match="^call 1$"):
        flashc.attention(Q, K, V, score_mod=broken, num_threads=1)


def test_explain_counts_what_is_visible() -> None:
    plan = flashc.explain(Q, K, V, window=(3, 0), align=20)
    assert plan.flops == 2 * (16 + 8) * 2 * 4 * sum(max(0, min(i + 21, 50) - (i + 17)) for i in range(40))
    assert flashc.explain(Q, K, V, seqlens_k=[10, 0]).flops == 2 * (16 + 8) * 4 * 40 * 10


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_explain_in_place_of_attention(layout: str) -> None:
    """Of the same arguments: it fills nothing, and outputs change no plan."""
    arrays = [x if layout == "bhsd" else x.swapaxes(1, 2) for x in (Q, K, V)]
    outputs: dict[str, Any] = {"scores": np.full((2, 4, 40, 50), 7, F), "key_mass": np.full((2, 4, 50), 7, F),
                               "row_max": np.full((2, 4, 40), 7, F),
                               "out": np.full((*arrays[0].shape[:3], 8), 7, F)}
    options: dict[str, Any] = {"layout": layout, "softcap": 5, "seqlens_k": [50, 41], "num_threads": 1}
    plan = flashc.explain(*arrays, **options)
    memory = np.zeros(plan.workspace_size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    workspace = memory[start:start + plan.workspace_size]
    seen: list[tuple[int, int]] = []
    options |= {**outputs, "scores_stage": "weights", "return_lse": True, "workspace": workspace,
                "progress": lambda done, total: seen.append((done, total))}
    assert flashc.explain(*arrays, **options) == plan
    assert flashc.explain(*arrays, **options, return_items=True)[0] == plan
    assert all((x == 7).all() for x in outputs.values()) and not memory.any() and not seen
    flashc.attention(*arrays, **options)
    assert not any((x == 7).all() for x in outputs.values()) and seen[-1][1] > plan.num_items


def test_explain_refuses_the_outputs_that_attention_refuses() -> None:
    for wrong in ({"scores": np.empty((2, 4, 40, 49), F)}, {"scores_stage": "weights"}, {"row_max": np.empty(40)},
                  {"scores": np.empty((2, 4, 40, 50), F), "scores_stage": "none"}, {"key_mass": K},
                  {"key_mass": np.broadcast_to(F(0), (2, 4, 50))}):
        messages = []
        for call in (flashc.attention, flashc.explain):
            with pytest.raises((TypeError, ValueError)) as raised:
                call(Q, K, V, **wrong)  # type: ignore[arg-type]
            messages.append((raised.type, str(raised.value)))
        assert messages[0] == messages[1], wrong


def test_explain_makes_no_lse() -> None:
    """Which would be a PiB here, for what is made from it."""
    q, k = np.broadcast_to(F(0), (4, 64, 2**40, 128)), np.broadcast_to(F(0), (4, 64, 16, 128))
    mass = np.full((4, 64, 16), 7, F)
    assert flashc.explain(q, k, k, key_mass=mass).flops == 2.0 * (128 + 128) * 4 * 64 * 2**40 * 16
    with pytest.raises(MemoryError):
        flashc.attention(q, k, k, key_mass=mass)
    assert (mass == 7).all()


REFUSED = [
    (dict(softcap=-1), ValueError, "softcap: expected a positive float32 number, or 0 or None for none, found -1"),
    (dict(softcap=1e-39), ValueError, "softcap: expected a positive float32 number, or 0 or None for none, found 1e"),
    (dict(softcap="x"), TypeError, "softcap: expected a number, found 'x'"),
    (dict(window=(3, 0)), ValueError, "align: window needs 'top-left'"),
    (dict(window=(None, 3)), ValueError, "align: window needs 'top-left'"),
    (dict(window=3, align=0), TypeError, "window: expected a tuple of two ints, found 3"),
    (dict(window=(1.5, 0), align=0), TypeError, "window: expected a tuple of two ints"),
    (dict(window=(True, 0), align=0), TypeError, "window: expected a tuple of two ints, found (True, 0)"),
    (dict(window=(-2, 0), align=0), ValueError, "window: expected numbers of keys, -1 or None for all, found (-2, 0)"),
    (dict(window=(0, -2), align=0), ValueError, "window: expected numbers of keys, -1 or None for all, found (0, -2)"),
    (dict(alibi_slopes=np.ones(4, F)), ValueError, "align: alibi_slopes needs"),
    (dict(alibi_slopes=np.ones(3, F), align=0), ValueError,
     "alibi_slopes: expected [4] (heads) or [2, 4], found [3]"),
    (dict(alibi_slopes=np.ones((1, 4), F), align=0), ValueError,
     "alibi_slopes: expected [4] (heads) or [2, 4], found [1, 4]"),
    (dict(alibi_slopes=np.full(4, np.nan, F), align=0), ValueError, "alibi_slopes[0]: expected a finite value"),
    (dict(alibi_slopes=[1, 2, 3, 4], align=0), TypeError, "alibi_slopes: expected an array"),
    (dict(sinks=np.ones((2, 4), F)), ValueError, "sinks: expected [4] (heads), found [2, 4]"),
    (dict(sinks=np.ones(4, np.float16)), TypeError, "sinks: expected"),
    (dict(seqlens_q=[40]), ValueError, "seqlens_q: expected one int per batch element, 2, found 1"),
    (dict(seqlens_q=4.0), TypeError, "seqlens_q: expected an int or one per batch element, found 4.0"),
    (dict(seqlens_k=True), TypeError, "seqlens_k: expected an int or one per batch element, found True"),
    (dict(seqlens_k=[50, 51]), ValueError, "seqlens_k[1]: expected 0 to 50, found 51"),
    (dict(seqlens_k=[50, -1]), ValueError, "seqlens_k[1]: expected 0 to 50, found -1"),
    (dict(leftpad_k=["a", "b"]), TypeError, "leftpad_k: expected an int or one per batch element"),
    (dict(block_mask=np.ones((3, 4), bool)), TypeError, "block_mask_tile: expected a tuple of two ints, found None"),
    (dict(block_mask=np.ones((3, 4), bool), block_mask_tile=(0, 13)), ValueError, "block_mask_tile: expected two"),
    (dict(block_mask=np.ones((3, 4), bool), block_mask_tile=(16, 0)), ValueError, "block_mask_tile: expected two"),
    (dict(block_mask=np.ones((3, 4), bool), block_mask_tile=(None, 13)), TypeError, "block_mask_tile: expected"),
    (dict(block_mask=np.ones((3, 3), bool), block_mask_tile=(16, 13)), ValueError,
     "block_mask: expected [2, 4, 3, 4] (batch, heads, tiles)"),
    (dict(block_mask=np.ones((1, 4), bool), block_mask_tile=(16, 13)), ValueError,
     "block_mask: expected [2, 4, 3, 4] (batch, heads, tiles)"),
    (dict(block_mask=np.ones((3, 4), F), block_mask_tile=(16, 13)), TypeError, "block_mask: expected"),
    (dict(block_mask_tile=(16, 13)), ValueError, "block_mask_tile: expected None without block_mask, found (16, 13)"),
    (dict(score_mod=lambda score, *_: score.fill(0)), TypeError, "score_mod: expected scores of shape ["),
    (dict(score_mod=5), TypeError, "score_mod: expected a function, found 5"),
    (dict(score_mod=lambda *_: np.ones(3)), ValueError, "score_mod: expected scores of shape"),
]


@pytest.mark.parametrize("features, error, message", REFUSED, ids=[m for *_, m in REFUSED])
def test_refused(features: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^" + re.escape(message)):
        flashc.attention(Q, K, V, **features)


def test_extra_outputs() -> None:
    """Weights sum to 1 over the keys, key_mass is their sum over the queries, row_max the largest masked score."""
    rng = np.random.default_rng(5)
    q, k, v = (rng.standard_normal((2, h, n, 16), np.float32) for h, n in ((4, 40), (2, 150), (2, 150)))
    weights, masked = (np.full((2, 4, 40, 150), np.nan, np.float32) for _ in range(2))
    mass, row_max = np.empty((2, 4, 150), np.float32), np.empty((2, 4, 40), np.float32)
    call = {"causal": True, "align": "bottom-right"}
    o = flashc.attention(q, k, v, scores=weights, scores_stage="weights", key_mass=mass, row_max=row_max, **call)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(weights.sum(-2), mass, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(weights @ v.repeat(2, 1), o, atol=1e-5)
    flashc.attention(q, k, v, scores=masked, scores_stage="masked", **call)
    np.testing.assert_array_equal(masked.max(-1), row_max)
    with pytest.raises(ValueError, match=r"scores: expected shape \[2, 4, 40, 150\], found \[2, 4, 40, 15\]"):
        flashc.attention(q, k, v, scores=weights[..., :15], **call)
    with pytest.raises(ValueError, match="scores_stage: expected 'scaled', 'capped', 'masked' or 'weights'"):
        flashc.attention(q, k, v, scores=weights, scores_stage="raw", **call)
