"""flashc.AttentionState: what is refused, and what raises."""
import copy
import pickle
from typing import Any

import numpy as np
import pytest

import flashc

RNG = np.random.default_rng(14)


def arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [RNG.standard_normal(shape, np.float32) for shape in shapes]


def test_arguments_of_a_state_are_named() -> None:
    q, k, v = arrays((2, 3, 16), (2, 40, 16), (2, 40, 16))
    state = flashc.AttentionState(q, seqlen_k=80)
    with pytest.raises(TypeError, match="^other: expected an AttentionState, found 3$"):
        state.merge(3)  # type: ignore[arg-type]
    state.accumulate(k, v)
    o, saved = state.finish(), [x.copy() for x in state.arrays()]
    other = [saved[0] * 0, saved[1] * 0]
    with pytest.raises(ValueError, match="^arrays: expected row_max, row_sum and acc, found 2 arrays$"):
        state.restore(k, v, other, 1, 40)
    with pytest.raises(ValueError, match="^arrays: expected shape .*, found "):
        state.restore(k, v, (*other, saved[2][..., :3]), 1, 40)
    assert state.finish().tobytes() == o.tobytes()
    state.next_key = "40"
    with pytest.raises(TypeError, match="^next_key: expected an int, found '40'$"):
        state.accumulate(k, v)


def test_a_score_mod_that_raises() -> None:
    q, k, v = arrays((2, 3, 16), (2, 40, 16), (2, 40, 16))

    def score_mod(*_: Any) -> Any:
        raise KeyError("mine")
    state = flashc.AttentionState(q, seqlen_k=80, score_mod=score_mod)
    with pytest.raises(KeyError, match="mine"):
        state.accumulate(k, v)
    with pytest.raises(ValueError, match=r"next_key: expected 0 or more, found -1: a .*; clear\(\) makes it"):
        state.accumulate(k, v)


@pytest.mark.parametrize("raised", [LookupError, KeyboardInterrupt])
def test_clear_after_a_cancelled_chunk(raised: type[BaseException]) -> None:
    """The next chunks may be of other types and lengths, as in a new state."""
    q, k, v = arrays((8, 300, 32), (2, 900, 32), (2, 900, 32))

    def cancel(*_: int) -> None:
        raise raised

    state = flashc.AttentionState(q, seqlen_k=900)
    state.clear()
    for last in (450, 900):
        state.accumulate(k[:, :300], v[:, :300])
        with pytest.raises(raised):
            state.accumulate(k[:, 300:], v[:, 300:], progress=cancel)
        with pytest.raises(ValueError, match=r"next_key: expected 0 or more, found -1: a .*; clear\(\) makes it"):
            state.accumulate(k, v)
        state.clear()
        assert state.arrays() is None and (state.n_nodes, state.next_key) == (0, 0)
        with pytest.raises(ValueError, match="^finish: expected a chunk of keys before, found none$"):
            state.finish()
        state.accumulate(k[:, :last], v[:, :last, :last // 30])
        expected = flashc.attention(q, k[:, :last], v[:, :last, :last // 30])
        assert state.finish().tobytes() == expected.tobytes()
        state.clear()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_no_copies_behind_the_states_back(duplicate: Any) -> None:
    with pytest.raises(TypeError, match=r"^AttentionState: cannot be pickled .*arrays\(\), n_nodes .* to restore\(\)"):
        duplicate(flashc.AttentionState(*arrays((2, 3, 16)), seqlen_k=80))


def test_errors() -> None:
    q, k, v = arrays((2, 3, 16), (2, 40, 16), (2, 40, 16))
    with pytest.raises(ValueError, match="finish: expected a chunk"):
        flashc.AttentionState(q, seqlen_k=40).finish()
    state = flashc.AttentionState(q, seqlen_k=40, causal=True, align="bottom-right")
    with pytest.raises(ValueError, match=r"^seqlens_k: expected the keys .*'bottom-right'.* found None"):
        state.accumulate(k, v, seqlens_k=[40])
    state.accumulate(k, v)
    with pytest.raises(ValueError, match=r"^seqlen_k: expected all keys .* found 40, and keys up to 80"):
        state.accumulate(k, v)
    for wrong in ([40, 40], [41]):
        with pytest.raises(ValueError, match="seqlens_k"):
            flashc.AttentionState(q, seqlen_k=40, seqlens_k=wrong).accumulate(k, v)
    two = np.stack((q, q))
    chunk = np.stack((k, k)), np.stack((v, v))
    whole = flashc.AttentionState(two, seqlen_k=40)
    whole.accumulate(*chunk)
    for merged in (False, True):  # then it has arrays, without being made of a chunk
        state = flashc.AttentionState(two, seqlen_k=40, seqlens_k=[40])
        if merged:
            state.merge(whole)
        with pytest.raises(ValueError, match=r"^seqlens_k: expected 2 numbers, found 1$"):
            state.accumulate(*chunk)
        if merged:
            with pytest.raises(ValueError, match=r"^seqlens_k: expected 2 numbers, found 1$"):
                state.finish()
    with pytest.raises(ValueError, match=r"leftpad_k\[0\]: expected 0 to 80, found 81"):
        flashc.AttentionState(q, seqlen_k=80, leftpad_k=[81]).accumulate(k, v)
    state = flashc.AttentionState(q, seqlen_k=40)
    state.accumulate(k, v)
    with pytest.raises(ValueError, match="head_dim"):
        state.accumulate(k[..., :8], v)
    with pytest.raises(ValueError, match=r"^v: expected head_dim 16 as in the chunks before, found 8$"):
        state.accumulate(k[:, :0], v[:, :0, :8])
    other = flashc.AttentionState(q[:, :2], seqlen_k=40)
    other.accumulate(k, v)
    with pytest.raises(ValueError, match=r"^other: expected the rows, .* of self \(6 rows of 16\), found .* \(4 rows"):
        state.merge(other)
    with pytest.raises(ValueError, match=r"arrays: expected shape \[1, 6\]"):
        state.restore(k, v, (np.zeros(3),) * 3, 0, 0)
    row_max, row_sum, acc = state.arrays()
    with pytest.raises(ValueError, match=r"arrays: expected shape \[1, 6, 16\], found \[1, 16, 6\]"):
        state.restore(k, v, (row_max, row_sum, acc.swapaxes(1, 2)), state.n_nodes, state.next_key)
