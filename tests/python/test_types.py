"""K and V of int8, float8 and q8_0: the result of float32 arrays that hold the same numbers."""
import numpy as np
import pytest

import flashc

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
    raw = np.concatenate([scale[..., None].view(np.uint8), codes.view(np.uint8)], -1)
    exact = scale[..., None].astype(np.float32) * codes
    return raw.reshape(*x.shape[:-1], -1), exact.reshape(x.shape)


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


def test_pages_have_scales_too():
    q, (k, scale) = normal(1, 2, 3, 64), quantised(normal(3, 2, 16, 64))
    table, lengths = np.array([[2, 0]], np.int32), [20]
    scale[0, :, 4:] = np.nan  # rows that are not reached
    found = flashc.attention(q, k, k, k_scale=scale, v_scale=scale, block_table=table, seqlens_k=lengths)
    exact = k * np.nan_to_num(scale)[..., None]
    close(found, q, exact, exact, block_table=table, seqlens_k=lengths)


@pytest.mark.parametrize("error, change, words", [
    (ValueError, {"k_scale": None}, "k_scale.data: expected a scale for each row with k of type i8"),
    (ValueError, {"v_scale": np.full((2, 2, 70), -1, np.float32)}, r"v_scale\[0\]\[0\]\[0\]: .* 0 or more, found -1"),
    (ValueError, {"v_scale": np.ones((2, 2, 69), np.float32)}, r"v_scale: expected shape \[2, 2, 70\]"),
    (TypeError, {"k_scale": np.ones((2, 2, 70), np.float16)}, "k_scale: expected elements of type f32, found f16"),
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
    with pytest.raises(ValueError, match="k: expected rows of whole q8_0 blocks, 34 contiguous bytes each"):
        flashc.attention(q, np.zeros(SHAPE_K, np.uint8), k)
    with pytest.raises(ValueError, match="k_scale.data: expected NULL with k of type f32"):
        flashc.attention(q, k, k, k_scale=np.ones((2, 2, 70), np.float32))
