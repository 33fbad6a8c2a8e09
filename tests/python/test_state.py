"""flashc.AttentionState: the bits of one call, save and restore."""
import ctypes
import signal
from typing import Any

import numpy as np
import pytest

import flashc

RNG = np.random.default_rng(11)


def arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [RNG.standard_normal(shape, np.float32) for shape in shapes]


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_chunks_give_the_bits_of_one_call(layout: str) -> None:
    q, k, v = arrays((2, 4, 3, 16), (2, 2, 2600, 16), (2, 2, 2600, 24))
    if layout == "bshd":
        q, k, v = (np.ascontiguousarray(x.swapaxes(1, 2)) for x in (q, k, v))
    rows = 2 if layout == "bhsd" else 1
    options: dict[str, Any] = {"causal": True, "align": 2500, "window": (1500, None), "softcap": 30.0, "layout": layout,
                               "sinks": np.array([0, 1, -1, 2], np.float32)}
    o, lse = flashc.attention(q, k, v, return_lse=True, **options)
    state = flashc.AttentionState(q, seqlen_k=2600, **options)
    for first in range(0, 2600, 1024):
        chunk = np.arange(first, min(first + 1024, 2600))
        state.accumulate(k.take(chunk, rows), v.take(chunk, rows))
        assert state.next_key == chunk[-1] + 1
        saved, n_nodes, next_key = [x.copy() for x in state.arrays()], state.n_nodes, state.next_key
        state = flashc.AttentionState(q, seqlen_k=2600, **options)
        state.restore(k, v, saved, n_nodes, next_key)
    got_o, got_lse = state.finish(return_lse=True)
    np.testing.assert_array_equal(got_o, o)
    np.testing.assert_array_equal(got_lse, lse)


def test_chunks_aligned_at_the_bottom_right() -> None:
    """Of sequences of several lengths, padded or packed, each one's last query sees its last key: the bits of one
    call."""
    lengths = [1300, 0, 777]
    q, k, v = arrays((3, 2, 4, 16), (3, 1, 1300, 16), (3, 1, 1300, 16))
    options: dict[str, Any] = {"causal": True, "align": "bottom-right", "window": (600, None)}
    expected = flashc.attention(q, k, v, seqlens_k=lengths, **options)
    padded = flashc.AttentionState(q, seqlen_k=1300, seqlens_k=lengths, **options)
    packed = flashc.AttentionState(q, seqlen_k=1300, seqlens_k=np.array(lengths), **options)
    for first in range(0, 1300, 512):
        rows = [max(0, min(512, n - first)) for n in lengths]
        padded.accumulate(k[:, :, first:first + 512], v[:, :, first:first + 512], seqlens_k=rows)
        parts = [np.concatenate([x[b, :, first:first + n] for b, n in enumerate(rows)], 1) for x in (k, v)]
        packed.accumulate(*parts, cu_seqlens_k=np.cumsum([0, *rows]))
    np.testing.assert_array_equal(padded.finish(), expected)
    np.testing.assert_array_equal(packed.finish(), expected)


@pytest.mark.parametrize("name", ["mask", "bias"])
def test_masks_and_biases_belong_to_the_plan(name: str) -> None:
    """A kernel may be chosen because there is neither (OpenBLAS's tiles on Zen 4): pieces are those of the one call."""
    q, k, v = arrays((1, 300, 64), (1, 3000, 64), (1, 3000, 64))
    values = RNG.random(3000) < 0.9 if name == "mask" else RNG.standard_normal(3000, np.float32)
    expected = flashc.attention(q, k, v, **{name: values})
    tile = flashc.explain(q, k, v, **{name: values}).block_n
    state = flashc.AttentionState(q, seqlen_k=3000)
    for first in range(0, 3000, 5 * tile):
        rows = slice(first, first + 5 * tile)
        state.accumulate(k[:, rows], v[:, rows], **{name: values[rows]})
        saved, n_nodes, next_key = [x.copy() for x in state.arrays()], state.n_nodes, state.next_key
        state = flashc.AttentionState(q, seqlen_k=3000)
        state.restore(k, v, saved, n_nodes, next_key, **{name: values})
    np.testing.assert_array_equal(state.finish(), expected)


def test_block_mask_and_row_max() -> None:
    """Tiles are those of all keys, whatever the chunk; of packed sequences those of the longest."""
    q, k, v = arrays((2, 4, 70, 16), (2, 2, 700, 16), (2, 2, 700, 16))
    mask = RNG.random((2, 1, 3, 11)) < 0.5
    options: dict[str, Any] = {"block_mask": mask, "block_mask_tile": (32, 64)}
    row_max, got = np.empty((2, 4, 70), np.float32), np.empty((2, 4, 70), np.float32)
    expected = flashc.attention(q, k, v, row_max=row_max, **options)
    state = flashc.AttentionState(q, seqlen_k=700, **options)
    packed = flashc.AttentionState(q, seqlen_k=700, **options)
    for first in range(0, 700, 192):
        chunk = [x[:, :, first:first + 192] for x in (k, v)]
        state.accumulate(*chunk)
        packed.accumulate(*(np.concatenate(x, 1) for x in chunk), cu_seqlens_k=np.arange(3) * chunk[0].shape[2])
    np.testing.assert_allclose(state.finish(row_max=got), expected, atol=2e-6)
    np.testing.assert_array_equal(got, row_max)
    np.testing.assert_array_equal(packed.finish(), state.finish())
    np.testing.assert_allclose(flashc.attention(q, *(np.concatenate(x, 1) for x in (k, v)), cu_seqlens_k=[0, 700, 1400],
                                                **options), expected, atol=2e-6)
    refusal = "k: expected no more keys than seqlen_k, 700, of which the block mask has tiles"
    with pytest.raises(ValueError, match=refusal):
        state.accumulate(k[:, :, :1], v[:, :, :1])
    with pytest.raises(ValueError, match="block_mask"):
        flashc.AttentionState(q, seqlen_k=800, **options).accumulate(k, v)


def test_chunks_padded_on_the_left() -> None:
    q, k, v = arrays((3, 2, 4, 16), (3, 1, 700, 16), (3, 1, 700, 16))
    options: dict[str, Any] = {"causal": True, "align": "bottom-right", "leftpad_k": [0, 333, 700],
                               "alibi_slopes": np.array([0.5, 0.01], np.float32), "seqlens_q": [4, 2, 4]}
    k[1, :, :333] = np.nan
    state = flashc.AttentionState(q, seqlen_k=700, **options)
    for first in range(0, 700, 100):
        state.accumulate(k[:, :, first:first + 100], v[:, :, first:first + 100])
    o, lse = state.finish(return_lse=True)
    expected_o, expected_lse = flashc.attention(q, k, v, return_lse=True, **options)
    np.testing.assert_allclose(o, expected_o, atol=2e-6)
    np.testing.assert_allclose(lse, expected_lse, atol=2e-6)


def test_mask_and_bias_of_chunks() -> None:
    q, k, v, bias = arrays((4, 30, 16), (2, 300, 16), (2, 300, 16), (30, 300))
    mask = RNG.random((30, 300)) < 0.8
    state = flashc.AttentionState(q, seqlen_k=300)
    for part in (slice(0, 77), slice(77, 300)):
        state.accumulate(k[:, part], v[:, part], mask=mask[:, part], bias=bias[:, part])
    np.testing.assert_allclose(state.finish(), flashc.attention(q, k, v, mask=mask, bias=bias), atol=2e-6)


@pytest.mark.parametrize("stage", ["scaled", "capped", "masked"])
def test_scores_of_chunks(stage: str) -> None:
    q, k, v = arrays((2, 4, 30, 16), (2, 2, 300, 16), (2, 2, 300, 16))
    options: dict[str, Any] = {"causal": True, "align": "bottom-right", "softcap": 4.0}
    expected, found = np.empty((2, 4, 30, 300), np.float32), np.full((2, 4, 30, 300), np.nan, np.float32)
    flashc.attention(q, k, v, scores=expected, scores_stage=stage, **options)
    state = flashc.AttentionState(q, seqlen_k=300, **options)
    for part in (slice(0, 77), slice(77, 300)):
        state.accumulate(k[:, :, part], v[:, :, part], scores=found[..., part], scores_stage=stage)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    with pytest.raises(ValueError, match=r"scores of FLASHC_SCORES_WEIGHTS: .*LSE of all keys"):
        state.accumulate(k, v, scores=expected, scores_stage="weights")


def test_score_mod_and_scales() -> None:
    q, k, v = arrays((2, 4, 3, 32), (2, 2, 1300, 32), (2, 2, 1300, 32))
    codes, scales = [], []
    for x in (k, v):
        scale = np.abs(x).max(-1) / np.float32(127)
        codes.append(np.rint(x / scale[..., None]).astype(np.int8))
        scales.append(scale)
    options: dict[str, Any] = {"score_mod": lambda score, b, h, i, j: score - 0.01 * h * abs(i - j)}
    expected = flashc.attention(q, *codes, k_scale=scales[0], v_scale=scales[1], **options)
    state = flashc.AttentionState(q, seqlen_k=1300, **options)
    for part in (slice(0, 1024), slice(1024, 1300)):
        state.accumulate(*(x[:, :, part] for x in codes), k_scale=scales[0][..., part], v_scale=scales[1][..., part])
    np.testing.assert_array_equal(state.finish(), expected)


def test_progress() -> None:
    q, k, v = arrays((8, 300, 32), (8, 900, 32), (8, 900, 32))
    seen: list[tuple[int, int]] = []
    state = flashc.AttentionState(q, seqlen_k=900)
    state.accumulate(k, v, progress=lambda done, total: seen.append((done, total)))
    assert all(0 <= done <= total for done, total in seen)
    assert seen[-1][0] == seen[-1][1] > 0
    np.testing.assert_array_equal(state.finish(), flashc.attention(q, k, v))

    def fail(*_: int) -> None:
        raise LookupError("enough")

    state = flashc.AttentionState(q, seqlen_k=900)
    with pytest.raises(TypeError, match="progress: expected a function, found 7"):
        state.accumulate(k, v, progress=7)  # type: ignore[arg-type]
    assert state.next_key == 0
    with pytest.raises(LookupError, match="enough"):
        state.accumulate(k, v, progress=fail)
    assert state.next_key == -1
    with pytest.raises(ValueError, match="next_key"):
        state.accumulate(k, v)


def test_ctrl_c_behind_a_short_chunk_leaves_the_state_whole() -> None:
    """A signal that comes too late for the call to see it: its handler runs in the Python code behind the call, where
    what the arrays hold must be what the state says."""
    q, k, v = arrays((1, 4, 16), (1, 128, 16), (1, 128, 16))
    state = flashc.AttentionState(q, seqlen_k=128)
    state.accumulate(k[:, :64], v[:, :64])
    libc = ctypes.CDLL(None)

    def handler(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGHUP, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            # No Python function, which would see the signal itself: raise(1), 1 being the items done, and SIGHUP.
            state.accumulate(k[:, 64:], v[:, 64:], progress=getattr(libc, "raise"))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert state.next_key == 128
    np.testing.assert_allclose(state.finish(), flashc.attention(q, k, v), atol=2e-6)


def test_lengths_and_saved_arrays_of_any_kind() -> None:
    """Lengths of something with tolist(), as torch's tensors, and a state's arrays as lists, from JSON."""
    class Tensor:
        def tolist(self) -> list[int]:
            return [40, 30]

    q, k, v = arrays((2, 2, 3, 16), (2, 2, 40, 16), (2, 2, 40, 16))
    options: dict[str, Any] = {"seqlen_k": 40, "causal": True, "align": "bottom-right", "seqlens_k": Tensor()}
    state, restored = (flashc.AttentionState(q, **options) for _ in range(2))
    state.accumulate(k, v, seqlens_k=[40, 30])
    np.testing.assert_allclose(state.finish(), flashc.attention(q, k, v, causal=True, align="bottom-right",
                                                                seqlens_k=[40, 30]), atol=2e-6)
    restored.restore(k, v, [x.tolist() for x in state.arrays()], state.n_nodes, state.next_key)
    assert restored.finish().tobytes() == state.finish().tobytes()
    for wrong in (None, ["a", "b", "c"], 3):
        with pytest.raises(TypeError, match="^arrays: expected row_max, row_sum and acc, three arrays of float32"):
            restored.restore(k, v, wrong, state.n_nodes, state.next_key)
    for name, numbers in (("n_nodes", ("1", 40)), ("next_key", (1, 40.0))):
        with pytest.raises(TypeError, match=f"^{name}: expected an int, found "):
            restored.restore(k, v, state.arrays(), *numbers)
    assert restored.finish().tobytes() == state.finish().tobytes()


@pytest.mark.parametrize("kind", ["q8_0", "float8", "pages"])
def test_chunks_as_caches_hold_them(kind: str) -> None:
    """Pages, and codes whose scales are in them, of packed queries."""
    starts = [0, 2, 7]
    q, k, v = arrays((4, 7, 32), (2, 2, 192, 32), (2, 2, 192, 64))
    pages: dict[str, Any] = {}
    if kind == "float8":
        ml_dtypes = pytest.importorskip("ml_dtypes")
        k, v = k.astype(ml_dtypes.float8_e4m3fn), v.astype(ml_dtypes.float8_e5m2)
    elif kind == "q8_0":
        caches = [np.zeros((*x.shape[:-1], x.shape[-1] // 32 * 34), np.uint8) for x in (k, v)]
        flashc.append_kv(k, v, *caches, [0, 0])
        k, v = caches
    expected = flashc.attention(q, k, v, cu_seqlens_q=starts)
    state = flashc.AttentionState(q, seqlen_k=192, cu_seqlens_q=starts)
    for part in (slice(0, 128), slice(128, 192)):
        if kind == "pages":  # of 64 rows, the sequences' own one after the other
            n = (part.stop - part.start) // 64
            pages = {"block_table": np.arange(2 * n, dtype=np.int32).reshape(2, n)}
            chunk = [x[:, :, part].reshape(2, 2, n, 64, -1).swapaxes(1, 2).reshape(2 * n, 2, 64, -1) for x in (k, v)]
        else:
            chunk = [x[:, :, part] for x in (k, v)]
        state.accumulate(*chunk, **pages)
    np.testing.assert_allclose(state.finish(), expected, rtol=0, atol=2e-6)
