"""flashc.AttentionState.merge(): states of the same queries and other keys, before and after chunks of one's own."""
from typing import Any

import numpy as np
import pytest

import flashc

RNG = np.random.default_rng(13)


def arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [RNG.standard_normal(shape, np.float32) for shape in shapes]


def state_of(q: np.ndarray, k: np.ndarray, v: np.ndarray, first: int, end: int,
             **options: Any) -> flashc.AttentionState:
    """What has seen these keys alone."""
    state = flashc.AttentionState(q, **{"seqlen_k": k.shape[-2], **options})
    state.next_key = first
    state.accumulate(k[..., first:end, :], v[..., first:end, :])
    return state


def test_states_merge() -> None:
    q, k, v = arrays((1, 2, 3, 16), (1, 2, 1500, 16), (1, 2, 1500, 16))
    states = [flashc.AttentionState(q, seqlen_k=1500, causal=True, align=1400) for _ in range(3)]
    for state, first in zip(states[1:], (0, 700)):
        state.next_key = first
        state.accumulate(k[:, :, first:first + 800][:, :, :700 if first == 0 else 800],
                         v[:, :, first:first + 800][:, :, :700 if first == 0 else 800])
        states[0].merge(state)
    np.testing.assert_allclose(states[0].finish(), flashc.attention(q, k, v, causal=True, align=1400), atol=2e-6)


def test_merge_into_a_state_of_no_keys() -> None:
    """Its next chunk still begins where it was told to, if that is behind the keys of the other state."""
    q, k, v = arrays((1, 2, 3, 16), (1, 2, 1500, 16), (1, 2, 1500, 16))
    options: dict[str, Any] = {"causal": True, "align": 1400}
    other = flashc.AttentionState(q, seqlen_k=1500, **options)
    other.accumulate(k[:, :, :1100], v[:, :, :1100])
    for first in (600, 1100, 1200):
        state = flashc.AttentionState(q, seqlen_k=1500, **options)
        state.next_key = first
        state.merge(other)
        begin = max(first, 1100)
        assert state.next_key == begin
        state.accumulate(k[:, :, begin:], v[:, :, begin:])
        hidden = np.zeros((1, 1500), np.float32)
        hidden[:, 1100:begin] = -np.inf
        np.testing.assert_allclose(state.finish(), flashc.attention(q, k, v, bias=hidden, **options), atol=2e-6)


def test_merge_into_a_state_for_more_keys() -> None:
    """It goes on until its own seqlen_k, whatever the other one has levels for."""
    q, k, v = arrays((2, 1, 8), (2, 6000, 8), (2, 6000, 8))
    for keys, ends in ((1100, (1100, 1300, 6000)), (300, (300, 6000)), (1024, (1024, 6000)), (1100, (5000, 6000))):
        other = flashc.AttentionState(q, seqlen_k=keys)
        other.accumulate(k[:, :keys], v[:, :keys])
        state = flashc.AttentionState(q, seqlen_k=6000)
        state.next_key = ends[0]
        state.merge(other)
        np.testing.assert_allclose(state.finish(), other.finish(), atol=1e-6)
        for begin, end in zip(ends, ends[1:]):
            assert state.next_key == begin
            state.accumulate(k[:, begin:end], v[:, begin:end])
        hidden = np.zeros((1, 6000), np.float32)
        hidden[:, keys:ends[0]] = -np.inf
        np.testing.assert_allclose(state.finish(), flashc.attention(q, k, v, bias=hidden), atol=2e-6)
        both = flashc.AttentionState(q, seqlen_k=6000)
        both.merge(other)
        last = flashc.AttentionState(q, seqlen_k=6000)
        last.next_key = ends[0]
        last.accumulate(k[:, ends[0]:], v[:, ends[0]:])
        both.merge(last)
        np.testing.assert_allclose(both.finish(), state.finish(), atol=2e-6)
        both.accumulate(k[:, :0], v[:, :0])
        np.testing.assert_allclose(both.finish(), state.finish(), atol=2e-6)


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
@pytest.mark.parametrize("parts", [[(0, 3000)], [(0, 300)], [(0, 1100), (1100, 3000)]])
def test_merged_states_are_saved_and_restored(layout: str, parts: list[tuple[int, int]]) -> None:
    """Before a chunk of one's own, which both then go on with, and behind it."""
    q, k, v = arrays((2, 3, 16), (2, 6000, 16), (2, 6000, 24))
    expected = flashc.attention(q, k[:, :parts[-1][1] + 600], v[:, :parts[-1][1] + 600])
    options: dict[str, Any] = {"seqlen_k": 6000, "layout": layout}
    if layout == "bshd":
        q = np.ascontiguousarray(q.swapaxes(0, 1))
    state = flashc.AttentionState(q, **options)
    for first, end in parts:
        other = flashc.AttentionState(q, **{**options, "seqlen_k": end})
        other.next_key = first
        other.accumulate(*(x[:, first:end] if layout == "bhsd" else x[:, first:end].swapaxes(0, 1) for x in (k, v)))
        state.merge(other)
    chunk = [x[:, end:end + 600] if layout == "bhsd" else x[:, end:end + 600].swapaxes(0, 1) for x in (k, v)]
    for _ in range(2):
        restored = flashc.AttentionState(q, **options)
        saved = state.arrays()
        assert saved is not None
        restored.restore(*chunk, [x.tolist() for x in saved], state.n_nodes, state.next_key)  # type: ignore[arg-type]
        assert (restored.n_nodes, restored.next_key) == (state.n_nodes, state.next_key)
        assert restored.finish().tobytes() == state.finish().tobytes()
        for one in (state, restored):
            if one.next_key == end:
                one.accumulate(*chunk)
        assert restored.next_key == end + 600 and restored.finish().tobytes() == state.finish().tobytes()
    got = state.finish() if layout == "bhsd" else state.finish().swapaxes(0, 1)
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_packed_queries_without_a_chunk_of_their_own() -> None:
    q, k, v = arrays((4, 7, 16), (2, 2, 100, 16), (2, 2, 100, 24))
    starts = [0, 2, 7]
    other = state_of(q, k, v, 0, 100, cu_seqlens_q=starts)
    state = flashc.AttentionState(q, seqlen_k=100, cu_seqlens_q=starts)
    state.merge(other)
    np.testing.assert_allclose(state.finish(), flashc.attention(q, k, v, cu_seqlens_q=starts), atol=2e-6)


def test_what_cannot_be_merged_leaves_a_state_as_it_was() -> None:
    q, k, v = arrays((2, 3, 16), (2, 40, 16), (2, 40, 16))
    spoiled, wrong = state_of(q, k, v, 0, 40), state_of(q[:, :2], k, v, 0, 40)
    spoiled.next_key = -1
    whole = state_of(q, k, v, 0, 40)
    state = flashc.AttentionState(q, seqlen_k=40)
    for other, message in ((spoiled, r"^other\.next_key: expected 0 or more, found -1: a cancelled chunk "),
                           (wrong, r"^other: expected the rows, .* of self \(6 rows of 16\), found .* \(4 rows of ")):
        for into in (state, whole):
            with pytest.raises(ValueError, match=message):
                into.merge(other)
    with pytest.raises(ValueError, match="finish: expected a chunk"):
        state.finish()
    for q_of_one_row in (q[0, 0], q[0, 0, 0]):
        flat = flashc.AttentionState(q_of_one_row, seqlen_k=40)
        flat.merge(state_of(q[0, :1], k[0], v[0], 0, 40))
        with pytest.raises(ValueError, match="^q: expected 2, 3 or 4 axes"):
            flat.finish()
    assert (state.arrays(), state.n_nodes, state.next_key) == (None, 0, 0)
    state.accumulate(k, v)
    assert state.finish().tobytes() == whole.finish().tobytes() == flashc.attention(q, k, v).tobytes()


def test_a_first_chunk_that_fails_behind_a_merge() -> None:
    """One that is refused changes nothing, one that is interrupted spoils the state."""
    q, k, v = arrays((8, 300, 32), (8, 900, 32), (8, 900, 32))
    state = flashc.AttentionState(q, seqlen_k=900)
    state.merge(state_of(q, k, v, 0, 300))
    expected = state.finish()
    with pytest.raises(ValueError, match="head_dim"):
        state.accumulate(k[:, 300:, :8], v[:, 300:])
    with pytest.raises(TypeError, match="progress"):
        state.accumulate(k[:, 300:], v[:, 300:], progress=7)  # type: ignore[arg-type]
    assert state.next_key == 300
    np.testing.assert_allclose(state.finish(), expected, atol=1e-6)

    def fail(*_: int) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        state.accumulate(k[:, 300:], v[:, 300:], progress=fail)
    assert state.next_key == -1
    for call in (state.finish, lambda: state.accumulate(k, v), lambda: state.merge(state_of(q, k, v, 0, 300))):
        with pytest.raises(ValueError, match="next_key"):
            call()
