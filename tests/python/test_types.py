"""K and V of int8, float8 and q8_0: the result of float32 arrays that hold the same numbers."""
import numpy as np
import pytest

import flashc
from arrays import Dlpack

ml_dtypes = pytest.importorskip("ml_dtypes")

SHAPE_Q, SHAPE_K, SHAPE_V = (2, 4, 3, 64), (2, 2, 70, 64), (2, 2, 70, 32)
RNG = np.random.default_rng(7)


def normal(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def close(found, q, k, v, **options):
    np.testing.assert_allclose(found, flashc.attention(q, k, v, **options), rtol=0, atol=2e-6)


def quantised(x):
    """int8 codes, and float32 scales of rows."""
    scale = np.abs(x).max(-1) / np.float32(127)
    return np.rint(x / scale[..., None]).astype(np.int8), scale


def q8_0(x):
    """Blocks, and the numbers they hold."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    scale = (np.abs(blocks).max(-1) / 127).astype(np.float16)
    codes = np.rint(blocks / scale[..., None].astype(np.float32)).astype(np.int8)
    raw = np.concatenate([scale[..., None].view(np.uint8), codes.view(np.uint8)], -1).reshape(*x.shape[:-1], -1)
    return raw, held_by(raw)


def held_by(raw):
    blocks = raw.reshape(*raw.shape[:-1], -1, 34)
    scale = np.ascontiguousarray(blocks[..., :2]).view(np.float16).astype(np.float32)
    return (scale * blocks[..., 2:].view(np.int8)).reshape(*raw.shape[:-1], -1)


@pytest.mark.parametrize("q_dtype", ["float32", "float16", ml_dtypes.bfloat16])
def test_int8(q_dtype):
    q = normal(*SHAPE_Q).astype(q_dtype)
    (k, k_scale), (v, v_scale) = quantised(normal(*SHAPE_K)), quantised(normal(*SHAPE_V))
    o, lse = flashc.attention(q, k, v, k_scale=k_scale, v_scale=v_scale, out_dtype="float32", return_lse=True)
    assert lse.shape == SHAPE_Q[:-1]
    close(o, q.astype(np.float32), k * k_scale[..., None], v * v_scale[..., None])


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_float8(name):
    dtype = getattr(ml_dtypes, name)
    q, k, v = normal(*SHAPE_Q), normal(*SHAPE_K).astype(dtype), normal(*SHAPE_V).astype(dtype)
    exact_k, exact_v = k.astype(np.float32), v.astype(np.float32)
    close(flashc.attention(q, k, v), q, exact_k, exact_v)
    a_head = np.array([0.25, 3], np.float32).reshape(1, 2, 1)
    close(flashc.attention(q, k, v, k_scale=a_head), q, exact_k * a_head[..., None], exact_v)
    bshd = [np.swapaxes(x, 1, 2) for x in (q, k, v)]
    found = flashc.attention(*bshd, v_scale=np.swapaxes(a_head, 1, 2), layout="bshd")
    close(np.swapaxes(found, 1, 2), q, exact_k, exact_v * a_head[..., None])


def test_q8_0():
    q, (k, exact_k), (v, exact_v) = normal(*SHAPE_Q), q8_0(normal(*SHAPE_K)), q8_0(normal(*SHAPE_V))
    assert k.shape[-1] == 68
    o = flashc.attention(q, k, v)
    assert o.shape == (*SHAPE_Q[:-1], 32)
    close(o, q, exact_k, exact_v)
    close(flashc.attention(q[0, 0], k[0, 0], v[0, 0, ::-1]), q[0, 0], exact_k[0, 0], exact_v[0, 0, ::-1])
    assert flashc.explain(q, k, v).flops > 0
    # An axis of size 1 may have any stride, also here.
    q, k, v = q[:1, :1], k[:1, :1, ::2], v[:1, :1, ::2]
    odd_k, odd_v = (np.lib.stride_tricks.as_strided(x, x.shape, (7, -3, *x.strides[2:])) for x in (k, v))
    assert flashc.attention(q, odd_k, odd_v).tobytes() == flashc.attention(q, k, v).tobytes()


def test_pages_have_scales_too():
    q, (k, scale) = normal(1, 2, 3, 64), quantised(normal(3, 2, 16, 64))
    table, lengths = np.array([[2, 0]], np.int32), [20]
    scale[0, :, 4:] = np.nan  # rows that are not reached
    found = flashc.attention(q, k, k, k_scale=scale, v_scale=scale, block_table=table, seqlens_k=lengths)
    exact = k * np.nan_to_num(scale)[..., None]
    close(found, q, exact, exact, block_table=table, seqlens_k=lengths)


def codes_of(name, x):
    """A cache of x, its scales or None, and the numbers that it holds, made by NumPy."""
    if name == "int8":
        codes, scale = quantised(x)
        return codes, scale, codes * scale[..., None]
    if name == "uint8":
        raw, held = q8_0(x)
        return raw, None, held
    codes = (x / np.float32(0.5)).astype(getattr(ml_dtypes, name))
    return codes, np.full(x.shape[:-1], 0.5, np.float32), codes.astype(np.float32) * np.float32(0.5)


@pytest.mark.parametrize("name", ["int8", "float8_e4m3fn", "float8_e5m2", "uint8"])
@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_append(name, layout):
    """Rows appended one by one hold what NumPy makes of them, and the rest of the cache stays."""
    new = {"k": normal(2, 2, 6, 64), "v": normal(2, 2, 6, 32)}
    at, caches, scales = np.array([3, 0]), {}, {}
    for which, x in new.items():
        cache, scale, _ = codes_of(name, normal(2, 2, 12, x.shape[-1]))
        before = cache.copy()
        caches[which], scales[which] = (cache, before), scale

    def laid(x):
        return x if layout == "bhsd" or x is None else np.swapaxes(x, 1, 2)

    for i in range(6):
        rows = [laid(new[which][:, :, i:i + 1]) for which in "kv"]
        flashc.append_kv(*rows, *(laid(caches[which][0]) for which in "kv"), at + i, layout=layout,
                         k_scale=laid(scales["k"]), v_scale=laid(scales["v"]))
    for which, x in new.items():
        expected, scale, _ = codes_of(name, x)
        cache, before = caches[which]
        for b, first in enumerate(at):
            rows = slice(first, first + 6)
            found = cache[b, :, rows]
            if name == "uint8":
                np.testing.assert_allclose(held_by(found), x[b], rtol=0, atol=0.51 / 127 * np.abs(x).max())
            else:  # a code of int8 at a tie may be the other one
                step = 1 if name == "int8" else 0
                assert np.abs(found.astype(np.float32) - expected[b].astype(np.float32)).max() <= step
                np.testing.assert_allclose(scales[which][b, :, rows], scale[b], rtol=1e-6)
            before[b, :, rows] = found
        assert cache.tobytes() == before.tobytes()
    q = normal(2, 4, 1, 64)
    options = {"seqlens_k": [9, 6], "leftpad_k": [3, 0]}
    found = flashc.attention(laid(q), laid(caches["k"][0]), laid(caches["v"][0]), layout=layout,
                             k_scale=laid(scales["k"]), v_scale=laid(scales["v"]), **options)
    exact = flashc.attention(q, codes_of(name, new["k"])[2], codes_of(name, new["v"])[2])
    np.testing.assert_allclose(laid(found), exact, rtol=0, atol=0.02)


def test_append_to_pages_of_codes():
    k, table = normal(2, 5, 64), np.array([[2, 0], [1, 3]], np.int32)
    pages, scale = np.zeros((4, 2, 4, 64), np.int8), np.zeros((4, 2, 4), np.float32)
    flashc.append_kv(k, None, pages, None, [3, 0], cu_seqlens=[0, 2, 5], block_table=table, k_scale=scale)
    places = [(2, 3), (0, 0), (1, 0), (1, 1), (1, 2)]
    assert {(p, r) for p, _, r in np.argwhere(scale)} == set(places)
    for i, (page, row) in enumerate(places):
        np.testing.assert_allclose(pages[page, :, row] * scale[page, :, row, None], k[:, i], rtol=0, atol=0.02)


def test_append_refuses():
    k, cache = normal(1, 2, 1, 64), np.zeros((1, 2, 4, 64), np.int8)
    scale = np.zeros((1, 2, 4), np.float32)
    fixed = scale.copy()
    fixed.flags.writeable = False

    def append(words, error=ValueError, k_cache=cache, **options):
        with pytest.raises(error, match=words):
            flashc.append_kv(k, None, k_cache, None, [0], **options)

    append("k_scale: expected an array with k_cache of type int8, a scale for each row, found None")
    append("k_scale: expected an array that can be written", k_scale=fixed)
    append(r"k_scale: expected shape \[1, 2, 4\] .* found \[1, 2, 3\]", k_scale=scale[..., :3])
    append("k_scale: expected elements of type float32, found float16", TypeError, k_scale=scale.astype(np.float16))
    append("v_scale: expected None without v_cache", k_scale=scale, v_scale=scale)
    append(r"k_scale\[0, 0, 0\]: expected a finite value above 0, found 0", k_scale=fixed,
           k_cache=cache.astype(ml_dtypes.float8_e5m2))
    append("k_cache: expected head_dim 64, found 32", k_cache=np.zeros((1, 2, 4, 34), np.uint8))
    assert not cache.any() and not scale.any()


@pytest.mark.parametrize("error, change, words", [
    (ValueError, {"k_scale": None}, "k_scale: expected an array with k of type int8, a scale for each row, found None"),
    (ValueError, {"v_scale": np.full((2, 2, 70), -1, np.float32)}, r"v_scale\[0, 0, 0\]: .* 0 or more, found -1"),
    (ValueError, {"v_scale": np.ones((2, 2, 69), np.float32)}, r"v_scale: expected shape \[2, 2, 70\]"),
    (TypeError, {"k_scale": np.ones((2, 2, 70), np.float16)},
     "k_scale: expected elements of type float32, found float16"),
])
def test_wrong_scales(error, change, words):
    (k, k_scale), (v, v_scale) = quantised(normal(*SHAPE_K)), quantised(normal(*SHAPE_V))
    with pytest.raises(error, match=words):
        flashc.attention(normal(*SHAPE_Q), k, v, **{"k_scale": k_scale, "v_scale": v_scale, **change})


def test_wrong_types():
    q, k = normal(*SHAPE_Q), normal(*SHAPE_K)
    with pytest.raises(TypeError, match="q: expected elements of type float32, float16 or bfloat16, found int8"):
        flashc.attention(q.astype(np.int8), k, k)
    with pytest.raises(TypeError, match="bias: .*found uint8"):
        flashc.attention(q, k, k, bias=np.zeros((3, 70), np.uint8))
    for codes in (np.zeros((3, 68), np.uint8), np.zeros((3, 70), np.int8)):
        with pytest.raises(TypeError, match="bias: expected elements of type float32, .* found DLPack type code"):
            flashc.attention(q, k, k, bias=Dlpack(codes))
    blocks, _ = q8_0(k)
    rows_apart, bytes_apart = np.pad(blocks, [(0, 0)] * 3 + [(0, 1)])[..., :-1], blocks.repeat(2, -1)[..., ::2]
    for wrong in (np.zeros(SHAPE_K, np.uint8), rows_apart, bytes_apart):
        with pytest.raises(ValueError, match="k: expected rows of whole q8_0 blocks, 34 contiguous bytes each"):
            flashc.attention(q, wrong, k)
    with pytest.raises(ValueError, match="k_scale: expected None with k of type float32, found an array"):
        flashc.attention(q, k, k, k_scale=np.ones((2, 2, 70), np.float32))
