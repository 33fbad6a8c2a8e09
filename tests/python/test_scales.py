"""Wrong scales of int8 and float8: which argument, and where in it, in the caller's own axes."""
import functools

import numpy as np
import pytest

import flashc

float8_e5m2 = pytest.importorskip("ml_dtypes").float8_e5m2
RNG = np.random.default_rng(11)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


def quantised(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = np.abs(x).max(-1) / np.float32(127)
    return np.rint(x / scale[..., None]).astype(np.int8), scale


def test_wrong_scales_have_the_names_and_places_that_they_have_here() -> None:
    """The C library counts [batch][head][row], whatever the layout and the axes that are left out."""
    q, (k, scale) = normal(2, 2, 3, 64), quantised(normal(2, 2, 5, 64))
    bad, shared = scale.copy(), np.full((1, 2, 1), 0.5, np.float32)
    bad[1, 0, 3], shared[0, 1, 0] = np.nan, -1
    right = {"k_scale": scale, "v_scale": scale}
    swap = functools.partial(np.swapaxes, axis1=1, axis2=2)

    def raises(message, call):
        with pytest.raises(ValueError, match="^" + message):
            call()

    def attention(*arrays, **options):
        return lambda: flashc.attention(*arrays, **right | options)

    codes = k.view(float8_e5m2)
    raises(r"k_scale\[1, 0, 3\]: expected a finite value, 0 or more, found nan", attention(q, k, k, k_scale=bad))
    raises(r"v_scale\[1, 3, 0\]: expected a finite", attention(swap(q), swap(k), swap(k), layout="bshd",
                                                                 k_scale=swap(scale), v_scale=swap(bad)))
    raises(r"k_scale\[0, 3\]: expected a finite", attention(q[1], k[1], k[1], k_scale=bad[1], v_scale=scale[1]))
    raises(r"k_scale\[3\]: expected a finite", attention(q[1, 0], k[1, 0], k[1, 0], k_scale=bad[1, 0],
                                                           v_scale=scale[1, 0]))
    raises(r"k_scale\[0, 1, 0\]: expected a finite value, 0 or more, found -1", attention(q, codes, k, k_scale=shared))
    raises(r"k_scale\[0, 1, 0\]: expected a finite", attention(q, codes, k, k_scale=shared, leftpad_k=[2, 1]))
    raises(r"k_scale: expected an array with k of type int8, a scale for each row, found None",
           attention(q, k, k, k_scale=None))
    raises("v_scale: expected None with v of type float32, found an array", attention(q, k, normal(2, 2, 5, 64)))
    raises("v_scale: expected an array with v of type int8", lambda: flashc.explain(q, k, k, k_scale=scale))

    prefix = functools.partial(flashc.shared_prefix_attention, q, k[1], k[1], k, k, **right)
    raises("prefix_v_scale: expected an array with prefix_v of type int8", lambda: prefix(prefix_k_scale=scale[0]))
    raises(r"prefix_k_scale\[0, 3\]: expected a finite", lambda: prefix(prefix_k_scale=bad[1], prefix_v_scale=scale[0]))
    raises(r"k_scale\[1, 0, 3\]: expected a finite",
           lambda: prefix(prefix_k_scale=scale[0], prefix_v_scale=scale[0], k_scale=bad))
    raises("prefix_k_scale: expected None with prefix_k of type float32",
           lambda: flashc.shared_prefix_attention(q, q[0], q[0], q, q, prefix_k_scale=scale[0]))

    state = flashc.AttentionState(q, seqlen_k=5)
    raises("k_scale: expected an array with k of type int8", lambda: state.accumulate(k, k, v_scale=scale))
    raises(r"v_scale\[1, 0, 3\]: expected a finite", lambda: state.accumulate(k, k, k_scale=scale, v_scale=bad))

    caches = [np.zeros((2, 2, 5, 64), float8_e5m2) for _ in "kv"]
    rows = normal(2, 2, 5, 64)
    raises(r"v_scale\[1, 0, 3\]: expected a finite value above 0, found nan",
           lambda: flashc.append_kv(rows, rows, *caches, [0, 0], v_scale=bad))
    raises(r"k_scale\[1, 3, 0\]: expected a finite",
           lambda: flashc.append_kv(swap(rows), swap(rows), *map(swap, caches), [0, 0], k_scale=swap(bad),
                                    layout="bshd"))
    raises("k_scale: expected None with k_cache of type float32",
           lambda: flashc.append_kv(rows, rows, rows.copy(), rows.copy(), [0, 0], k_scale=scale))
