"""softmax, SoftmaxState, merge_partials, trace, compare, is_softmax, convert against their definitions in float64."""
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import flashc
import oracle
from oracle import DTYPES, HALF_ULP, SMALLEST_STEP, U, normal

INF = np.inf
# flashc.h: weights below exp(-87.34) of the largest are 0.
SMALLEST_WEIGHT = np.exp(-87.34)


def exact_softmax(x: Any) -> tuple[Any, Any]:
    x = x.astype(np.float64)
    row_max = x.max(axis=-1, keepdims=True, initial=-INF)
    weights = np.exp(x - np.where(np.isneginf(row_max), 0, row_max))
    total = weights.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return weights / np.where(total > 0, total, 1), (row_max + np.log(total))[..., 0]


def check_softmax(y: Any, x: Any, lse: Any = None) -> None:
    """flashc.h: u (8 + 4 max|x| + 2 (128 + cols/128)) relative, plus half an ulp of the type."""
    p, exact_lse = exact_softmax(x)
    finite = np.where(np.isfinite(x), x.astype(np.float64), 0)
    largest = abs(finite).max(axis=-1, keepdims=True, initial=0)
    relative = U * (8 + 4 * largest + 2 * (128 + x.shape[-1] / 128))
    bound = p * (relative + 2 * HALF_ULP[y.dtype]) + SMALLEST_STEP[y.dtype] + SMALLEST_WEIGHT
    assert y.dtype == x.dtype and (abs(y.astype(np.float64) - p) <= bound).all()
    if lse is not None:
        assert lse.dtype == np.float32 and lse.shape == x.shape[:-1]
        # The state's sum has the same error; the log and the addition to row_max round once each.
        size = np.maximum(1, np.where(np.isfinite(exact_lse), abs(exact_lse), 0))
        both = np.isneginf(lse) & np.isneginf(exact_lse)
        with np.errstate(invalid="ignore"):
            near = abs(lse - exact_lse) <= relative[..., 0] + 4 * U * size
        assert (both | near).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ((7,), (1, 1), (3, 5), (2, 3, 129), (4, 0), (0, 4), (2, 1000)), ids=str)
def test_softmax(shape: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(1)
    x = (10 * normal(rng, shape)).astype(DTYPES[dtype])
    x[rng.random(shape) < 0.2] = -INF
    before = x.copy()
    y, lse = flashc.softmax(x, return_lse=True)
    assert x.tobytes() == before.tobytes()
    check_softmax(y, x, lse)
    assert flashc.softmax(x).tobytes() == y.tobytes()
    assert flashc.softmax(x, out=x) is x
    assert x.tobytes() == y.tobytes()


def test_softmax_strides() -> None:
    rng = np.random.default_rng(2)
    big = normal(rng, (6, 2, 20))
    for x in (big[:, 0, :9], big[::-1, 1], big[::2, 0, 3:4], np.broadcast_to(big[0, 0], (4, 20)), big[:1], big[:, :1],
              big[:, 0, ::20]):
        out = np.full((*x.shape[:-1], 30), np.float32(9))
        y = flashc.softmax(x, out=out[..., 5:5 + x.shape[-1]])
        assert y.base is out
        check_softmax(y, x)
        y[...] = 9
        assert (out == 9).all()


def test_softmax_special_values() -> None:
    x = np.array([[-INF, -INF], [np.nan, 1], [INF, 1], [-INF, 2], [3e38, -3e38]], np.float32)
    y, lse = flashc.softmax(x, return_lse=True)
    assert y[0].tolist() == [0, 0] and lse[0] == -INF
    assert np.isnan(y[1:3]).all() and np.isnan(lse[1:3]).all()
    assert y[3].tolist() == [0, 1] and lse[3] == 2
    assert y[4].tolist() == [1, 0]


# ---- states -----------------------------------------------------------------------------------------------------

def split_problem(seed: int) -> tuple[Any, Any, Any, list[slice]]:
    rng = np.random.default_rng(seed)
    rows, keys, dim = int(rng.integers(1, 6)), int(rng.integers(2, 300)), int(rng.integers(1, 20))
    cuts = [0, *sorted(int(c) for c in rng.integers(0, keys, 4)), keys]
    scores = 5 * normal(rng, (rows, keys))
    scores[:, rng.random(keys) < 0.1] = -INF
    return scores, normal(rng, (keys, dim)), rng, [slice(a, b) for a, b in zip(cuts, cuts[1:], strict=False)]


def check_state_result(o: Any, lse: Any, scores: Any, v: Any) -> None:
    p, exact_lse = exact_softmax(scores)
    largest = abs(np.where(np.isfinite(scores), scores, 0)).max(axis=-1).astype(np.float64)
    chain = 4 * scores.shape[1]
    error = U * (8 + 4 * largest + 2 * chain)[:, None] * (p @ abs(v.astype(np.float64))) + 1e-37
    assert o.dtype == np.float32 and (abs(o - p @ v.astype(np.float64)) <= error).all()
    size = np.maximum(np.maximum(1, largest), abs(exact_lse))
    assert (abs(lse - exact_lse) <= U * (16 * size + 2 * chain)).all()


@pytest.mark.parametrize("seed", range(10))
def test_state_updates_and_merges_make_the_whole(seed: int) -> None:
    scores, v, _, pieces = split_problem(seed)
    whole = flashc.SoftmaxState(len(scores), v.shape[1])
    merged = flashc.SoftmaxState(len(scores), v.shape[1])
    assert np.isneginf(merged.row_max).all() and (merged.row_sum == 0).all() and (merged.acc == 0).all()
    for piece in pieces:
        whole.update(scores[:, piece], v[piece])
        part = flashc.SoftmaxState(len(scores), v.shape[1])
        part.update(scores[:, piece], v[piece])
        before = [a.copy() for a in (part.row_max, part.row_sum, part.acc)]
        merged.merge(part)
        assert all(np.array_equal(a, b) for a, b in zip(before, (part.row_max, part.row_sum, part.acc), strict=True))
    for state in (whole, merged):
        assert np.array_equal(state.row_max, scores.max(axis=1))
        check_state_result(*state.finish(), scores, v)
        assert np.array_equal(state.finish()[0], state.finish()[0])


def test_state_without_v_and_without_keys() -> None:
    scores = normal(np.random.default_rng(3), (3, 50))
    state = flashc.SoftmaxState(3)
    o, lse = state.finish()
    assert o.shape == (3, 0) and np.isneginf(lse).all()
    state.update(scores)
    state.update(scores[:, :0])
    assert abs(state.finish()[1] - exact_softmax(scores)[1]).max() < 1e-5
    assert state.acc.shape == (3, 0)
    empty = flashc.SoftmaxState(2, 4)
    empty.merge(flashc.SoftmaxState(2, 4))
    assert (empty.finish()[0] == 0).all() and np.isneginf(empty.finish()[1]).all()


@pytest.mark.parametrize("seed", range(10))
def test_merge_partials_is_attention_over_the_union(seed: int) -> None:
    """Attention over pieces of the keys, merged, is attention over all of them; a piece may show a row nothing."""
    _, _, rng, pieces = split_problem(seed)
    keys = pieces[-1].stop
    q, k, v = normal(rng, (1, 2, 7, 8)), normal(rng, (1, 2, keys, 8)), normal(rng, (1, 2, keys, 5))
    mask = rng.random((7, keys)) < 0.5
    mask[:, pieces[0]] = False
    mask[3] = False
    parts = [flashc.attention(q, k[:, :, p], v[:, :, p], mask=mask[:, p], return_lse=True) for p in pieces]
    parts[0][0][...] = np.nan  # LSE is -inf everywhere: the identity, whatever its O holds
    o, lse = flashc.merge_partials([o for o, _ in parts], [lse for _, lse in parts])
    exact = oracle.attention(q, k, v, mask=mask)
    assert np.isneginf(exact.lse[0, :, 3]).all()
    oracle.check(o, exact._replace(n=exact.n + 4 * len(parts)), lse)
    again = flashc.merge_partials(np.stack([o for o, _ in parts]), np.stack([lse for _, lse in parts]))
    assert again[0].tobytes() == o.tobytes() and again[1].tobytes() == lse.tobytes()


@pytest.mark.parametrize("axes, seqlen", [(4, 3), (4, 7), (3, 3), (3, 7), (2, 5)])  # of 3 heads
def test_merge_partials_of_either_layout(axes: int, seqlen: int) -> None:
    """What attention returns in a layout merges in that layout: the same bits."""
    rng = np.random.default_rng(axes * seqlen)
    lengths = (seqlen, 6, 6)
    q, k, v = (normal(rng, (2, 3, n, 8)[4 - axes:]) for n in lengths)
    results = {}
    for layout in ("bhsd", "bshd"):
        given = [x if layout == "bhsd" or axes < 3 else np.ascontiguousarray(np.swapaxes(x, -3, -2)) for x in (q, k, v)]
        rows = (np.s_[..., p, :] if layout == "bhsd" or axes < 3 else np.s_[..., p, :, :] for p in np.s_[:2, 2:])
        parts = [flashc.attention(given[0], given[1][p], given[2][p], layout=layout, return_lse=True) for p in rows]
        o, lse = flashc.merge_partials([o for o, _ in parts], [lse for _, lse in parts], layout=layout)
        assert o.shape == given[0].shape and lse.shape == q.shape[:-1]
        results[layout] = np.ascontiguousarray(o if layout == "bhsd" or axes < 3 else np.swapaxes(o, -3, -2)), lse
    assert [x.tobytes() for x in results["bhsd"]] == [x.tobytes() for x in results["bshd"]]
    exact = oracle.attention(*(x.reshape((1,) * (4 - axes) + x.shape) for x in (q, k, v)))
    np.testing.assert_allclose(results["bshd"][0], exact.o.reshape(q.shape), rtol=0, atol=1e-6)
    none = flashc.merge_partials([np.zeros((0, 3, 8), np.float32)], [np.zeros((3, 0), np.float32)], layout="bshd")
    assert none[0].shape == (0, 3, 8) and none[1].shape == (3, 0)


def test_merge_partials_has_two_names() -> None:
    assert flashc.merge_states is flashc.merge_partials


# ---- trace --------------------------------------------------------------------------------------------------------

# flashc_trace_step of flashc.h, in its order.
TRACE_FIELDS = ("x", "row_max", "denom_standard", "denom_online", "scale", "correction", "p_standard", "p_online")


SEQUENCES = {
    "list": list, "tuple": tuple, "array": np.array,
    "float32": lambda x: np.array(x, np.float32),
    "bfloat16": lambda x: np.array(x, oracle.BFLOAT16),
    "strided": lambda x: np.repeat(x, 2)[::2],
}


@pytest.mark.parametrize("kind", SEQUENCES)
def test_trace(kind: str) -> None:
    x: Any = SEQUENCES[kind]([0.5, -3.0, 2.0, 2.0, 1.0, 7.5, -100.0])
    steps = flashc.trace(x)
    assert steps.dtype.names == TRACE_FIELDS and set(steps.dtype[n] for n in TRACE_FIELDS) == {np.dtype(np.float64)}
    assert steps.dtype.itemsize == 8 * len(TRACE_FIELDS)
    x = np.asarray(x, np.float64)
    m = np.maximum.accumulate(x)
    online = np.zeros(len(x))
    for i in range(len(x)):
        online[i] = np.exp(x[i] - m[i]) + (online[i - 1] * np.exp(m[i - 1] - m[i]) if i else 0)
    standard = np.cumsum(np.exp(x - m[-1]))
    expected = {
        "x": x, "row_max": m, "denom_standard": standard, "denom_online": online, "scale": np.exp(m[-1] - m),
        "correction": np.concatenate([[0], np.exp(m[:-1] - m[1:])]), "p_standard": np.exp(x - m[-1]) / standard[-1],
        "p_online": np.exp(x - m) * np.exp(m - m[-1]) / online[-1],
    }
    for name in TRACE_FIELDS:
        np.testing.assert_allclose(steps[name], expected[name], rtol=1e-14, atol=0, err_msg=name)


def test_trace_of_nothing_and_of_ints() -> None:
    assert flashc.trace([]).shape == (0,)
    assert flashc.trace([1, 2, 2])["row_max"].tolist() == [1, 2, 2]


# ---- compare, is_softmax, convert ---------------------------------------------------------------------------------

def test_compare() -> None:
    a = np.array([[1, 2, 3], [np.nan, INF, -INF]], np.float32)
    assert flashc.compare(a, a, rtol=0, atol=0) == (True, 0, flashc.compare(a, a).worst, 0.0, 0)
    b = a.copy()
    b[0] = 1.5, 2, 3.25
    found = flashc.compare(a, b, rtol=0, atol=0.1)
    assert not found.equal and found.mismatches == 2 and found.worst == 0
    assert found.max_abs_error == 0.5 and found.max_abs_index == 0
    assert flashc.compare(a, b, rtol=0, atol=0.5).equal
    assert flashc.compare(a, b, rtol=0.34, atol=0).equal and not flashc.compare(a, b, rtol=0.33, atol=0).equal
    for i, other in ((3, 0), (4, -INF), (4, np.nan), (5, 3e38)):
        c = a.copy()
        c.flat[i] = other
        found = flashc.compare(a, c, rtol=1, atol=1)
        assert (found.equal, found.mismatches, found.worst) == (False, 1, i)
    assert flashc.compare(a[:0], a[:0]) == (True, 0, -1, 0.0, -1)
    assert flashc.compare(np.ones(3, np.float16), np.ones(3, oracle.BFLOAT16)).equal


@pytest.mark.parametrize("dtype", DTYPES)
def test_is_softmax(dtype: str) -> None:
    x = (3 * normal(np.random.default_rng(4), (5, 200))).astype(DTYPES[dtype])
    y = flashc.softmax(x)
    assert flashc.is_softmax(y) is True and flashc.is_softmax(y[2]) is True
    assert flashc.is_softmax(y.reshape(5, 1, 200)[:, :, :]) is True
    assert flashc.is_softmax(x) is False
    worse = y.copy()
    worse[4, 7] += worse.dtype.type(0.25)
    assert flashc.is_softmax(worse) is False
    assert flashc.is_softmax(worse, tolerance=0.5) is True
    worse[4, 7] = -0.125
    assert flashc.is_softmax(worse, tolerance=100) is False
    assert flashc.is_softmax(y[:, :0]) is False


def test_convert() -> None:
    """Bit for bit what NumPy and ml_dtypes make of every f16 and bf16 and of f32 around the borders of rounding."""
    bits = np.arange(2**16, dtype=np.uint16)
    low_halves = (0, 1, 0x7fff, 0x8000, 0x8001)
    f32 = np.concatenate([(bits.astype(np.uint32) << 16 | low).view(np.float32) for low in low_halves])
    sources = {"f16": bits.view(np.float16), "bf16": bits.view(oracle.BFLOAT16), "f32": f32}
    for source, x in sources.items():
        for target, dtype in DTYPES.items():
            with np.errstate(all="ignore"):
                expected = x.astype(np.float32).astype(dtype)
            got = flashc.convert(x, target)
            assert got.dtype == dtype and got is not x
            nan = np.isnan(expected.astype(np.float32))
            assert np.isnan(got.astype(np.float32))[nan].all(), (source, target)
            assert got[~nan].tobytes() == expected[~nan].tobytes(), (source, target)
    float8 = {"f8_e4m3": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2}
    codes = {name: np.arange(256, dtype=np.uint8).view(dtype) for name, dtype in float8.items()}
    for source, x in {**sources, **codes}.items():
        for target, dtype in (DTYPES | float8 if source in codes else float8).items():
            with np.errstate(all="ignore"):
                expected = x.astype(np.float32).astype(dtype)
            got = flashc.convert(x, target)
            assert got.dtype == dtype
            nan = np.isnan(expected.astype(np.float32))
            assert np.array_equal(np.isnan(got.astype(np.float32)), nan), (source, target)
            assert got[~nan].tobytes() == expected[~nan].tobytes(), (source, target)
    shaped = np.ones((2, 0, 3), np.float32)
    assert flashc.convert(shaped, ml_dtypes.float8_e5m2).dtype == ml_dtypes.float8_e5m2
    assert flashc.convert(shaped, np.float16).shape == (2, 0, 3)
    assert flashc.convert(np.float32(1.5), "bfloat16").shape == ()
