"""Outputs that share memory with what a call reads, or with each other, are refused; views that interleave are not."""
from typing import Any

import numpy as np
import pytest

import flashc
from arrays import Dlpack
from oracle import normal

RNG = np.random.default_rng(21)
F = np.float32


def refused(name: str, other: str) -> Any:
    return pytest.raises(ValueError, match=f"^{name}: expected memory of its own, found elements of {other} in it$")


@pytest.mark.parametrize("lend", [lambda a: a, Dlpack], ids=["array", "DLPack"])
def test_out_over_an_input(lend: Any) -> None:
    x, y = normal(RNG, (6, 8)), normal(RNG, (4, 8))
    for name, arrays, out in (("q", (x, x, x), x[::-1]), ("q", (x[:4], y, y), x[1:5]), ("q", (x[:4], y, y), x[2:]),
                              ("k", (y, x, x), x[2:]), ("v", (y, y, x[2:]), x[1:5]), ("q", (y, x, x), y),
                              ("v", (y, y, x[:4]), x.view(np.float16)[2:, ::2])):
        before = x.copy()
        with refused("out", name):
            flashc.attention(*map(lend, arrays), out=lend(out))
        assert x.tobytes() == before.tobytes()
    beside = flashc.attention(x[:2], y, y)
    flashc.attention(lend(x[:2]), lend(y), lend(y), out=lend(x[2:4]))
    assert x[2:4].tobytes() == beside.tobytes()


def test_views_that_interleave() -> None:
    """Of one buffer: q, k, v and o of each token, and every other row."""
    packed = normal(RNG, (2, 7, 4, 3, 16))
    q, k, v, out = (packed[:, :, i] for i in range(4))
    expected = flashc.attention(q.copy(), k.copy(), v.copy(), layout="bshd")
    assert flashc.attention(q, k, v, layout="bshd", out=out) is out and out.tobytes() == expected.tobytes()
    rows = normal(RNG, (40, 8))
    expected = flashc.attention(rows[::2].copy(), rows[::2].copy(), rows[::2].copy())
    flashc.attention(rows[::2], rows[::2], rows[-2::-2][::-1], out=rows[1::2][::-1])
    assert rows[1::2][::-1].tobytes() == expected.tobytes()
    with refused("out", "q"):
        flashc.attention(q, k, v, layout="bshd", out=packed.reshape(2, 7, 12, 16)[:, :, 2:5])


def test_any_two_views() -> None:
    """What NumPy tells of random views of one buffer."""
    found = [0, 0]
    for seed in range(600):
        rng = np.random.default_rng(seed)
        memory = np.zeros(5000, F)

        def view() -> Any:
            axes = rng.permutation(3)
            whole = memory[(first := int(rng.integers(40))):first + 4500].reshape(rng.permutation([10, 18, 25]))
            steps = rng.integers(1, 4, 3) * rng.choice([-1, 1], 3)
            return whole[tuple(slice(None, None, int(step)) for step in steps)].transpose(axes)

        q, out = view(), view()
        shape = [min(a, b) for a, b in zip(q.shape, out.shape)]
        n = [rng.integers(1, size + 1) for size in shape]
        q, out = q[-n[0]:, :n[1], :n[2]], out[:n[0], :n[1], -n[2]:]
        k = np.zeros((1, 2, q.shape[2]), F)
        shared = np.shares_memory(q, out)
        found[shared] += 1
        if shared:
            with refused("out", "q"):
                flashc.attention(q, k, k, out=out)
        else:
            flashc.attention(q, k, k, out=out)
    assert min(found) > 100, found


def test_every_output_and_every_input() -> None:
    q, k, v = normal(RNG, (2, 4, 8)), normal(RNG, (2, 8, 8)), normal(RNG, (2, 8, 8))
    inputs: dict[str, Any] = {
        "bias": normal(RNG, (2, 4, 8)), "sinks": normal(RNG, (2,)), "alibi_slopes": normal(RNG, (2,)),
        "mask": np.ones((4, 8), bool), "block_mask": np.ones((4, 8), bool),
    }
    outputs = {"out": (2, 4, 8), "scores": (2, 4, 8), "key_mass": (2, 8), "row_max": (2, 4)}
    more = {"align": 0, "block_mask_tile": (1, 1)}
    assert flashc.attention(q, k, v, **inputs, **more, **{n: np.zeros(s, F) for n, s in outputs.items()}).shape
    for name, shape in outputs.items():
        for other, array in {"q": q, "k": k, "v": v, **inputs}.items():
            memory = np.zeros(512, F)
            lent = memory[:array.nbytes // 4].view(array.dtype).reshape(array.shape)
            lent[...] = array
            over = memory[array.nbytes // 4 - 1:][:np.prod(shape)].reshape(shape)
            arguments = {"q": q, "k": k, "v": v, **inputs, **more, other: lent, name: over}
            for call in (flashc.attention, flashc.explain):
                with refused(name, other):
                    call(**arguments)
            arguments[name] = memory[array.nbytes // 4:][:np.prod(shape)].reshape(shape)
            flashc.attention(**arguments)
    memory = np.zeros(128, F)
    three = {"scores": memory[:64].reshape(2, 4, 8), "key_mass": memory[64:80].reshape(2, 8)}
    flashc.attention(q, k, v, **three, row_max=memory[80:88].reshape(2, 4))
    with refused("key_mass", "row_max"):
        flashc.attention(q, k, v, **three, row_max=memory[76:84].reshape(2, 4))
    with refused("out", "scores"):
        flashc.attention(q, k, v, **three, out=memory[63:127].reshape(2, 4, 8))


def test_scales_blocks_and_the_workspace() -> None:
    q, codes = normal(RNG, (4, 64)), np.ones((6, 64), np.int8)
    memory = np.zeros(64, F)
    with refused("row_max", "k_scale"):
        flashc.attention(q, codes, codes, k_scale=memory[:6], v_scale=np.ones(6, F), row_max=memory[5:9])
    blocks = np.zeros((6, 2 * 68), np.uint8)[:, :68]  # of q8_0, which is 64 columns, and as many bytes between rows
    between = blocks.base[:, 68:].view(F)
    flashc.attention(q[:, :17].copy(), between, between, out=np.zeros((4, 17), F))
    flashc.attention(q, blocks, between[:, :16], out=np.zeros((4, 16), F))
    with refused("out", "k"):
        flashc.attention(q, blocks, normal(RNG, (6, 17)), out=blocks.base[1:5, 34:102].view(F))
    flashc.attention(q, blocks, normal(RNG, (6, 17)), out=between[:4])
    with pytest.raises(ValueError, match="^workspace: expected memory of its own, found elements of q in it$"):
        flashc.attention(q, q, q, workspace=q)


def test_prefix_and_state() -> None:
    q, k = normal(RNG, (2, 3, 4, 8)), normal(RNG, (2, 3, 5, 8))
    prefix, other = normal(RNG, (3, 16, 8)), normal(RNG, (3, 16, 8))
    with refused("out", "prefix_v"):
        flashc.shared_prefix_attention(q, other, prefix, k, k, out=prefix[:, :8].reshape(3, 2, 4, 8).swapaxes(0, 1))
    with refused("out", "prefix_k"):
        flashc.explain_shared_prefix(q, prefix, other, k, k, out=prefix[:, 8:].reshape(3, 2, 4, 8).swapaxes(0, 1))
    state = flashc.AttentionState(q[0], seqlen_k=10)
    scores = normal(RNG, (2, 3, 4, 5))
    with refused("scores", "k"):
        state.accumulate(k[0], k[1], scores=k[0].reshape(120)[60:].reshape(3, 4, 5))
    state.accumulate(k[0], k[1], scores=scores[0])
    arrays = state.arrays()
    assert arrays is not None
    with refused("out", "acc"):
        state.finish(out=arrays[2][0].reshape(3, 4, 8))
    with refused("row_max", "row_max"):
        state.finish(row_max=arrays[0][0].reshape(3, 4))
    np.testing.assert_allclose(state.finish(), flashc.attention(q[0], k[0], k[1]), rtol=0, atol=1e-6)
