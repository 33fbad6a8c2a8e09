"""Memory that flashc refuses to read or write, and memory that it gives back."""
import ctypes
import gc
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flashc
from arrays import Dlpack, frozen
from oracle import DTYPES, normal


# ---- refused memory -------------------------------------------------------------------------------------------

def misaligned(a: Any) -> Any:
    memory = np.zeros(a.nbytes + 16, np.uint8)
    start = -memory.ctypes.data % 16 + 1
    view = memory[start:start + a.nbytes].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def partial_stride(a: Any) -> Any:
    records = np.zeros(a.shape, np.dtype([("value", a.dtype), ("byte", np.uint8)]))
    records["value"] = a
    return records["value"]


def foreign(a: Any) -> Any:
    """The other byte order, which the standard type code of the buffer protocol tells."""
    return a.astype(a.dtype.newbyteorder())


REFUSED = [
    (misaligned, "expected an address aligned to"),
    (partial_stride, "expected strides of whole elements"),
    (foreign, "expected the machine's byte order, found the other"),
]


@pytest.mark.parametrize("argument", ("q", "k", "v", "bias", "out"))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make, message", REFUSED, ids=[make.__name__ for make, _ in REFUSED])
def test_memory_that_cannot_be_read_in_place(make: Any, message: str, dtype: str, argument: str) -> None:
    a = normal(np.random.default_rng(9), (4, 4), dtype)
    arguments = {"q": a, "k": a, "v": a, argument: make(a)}
    name = "o(ut)?" if argument == "out" else argument
    with pytest.raises(ValueError, match=rf"^{name}\b.*{message}"):
        flashc.attention(**arguments)


def test_out_must_not_overlap_itself() -> None:
    q = normal(np.random.default_rng(10), (4, 4))
    overlapping = np.lib.stride_tricks.as_strided(np.zeros(16, np.float32), (4, 4), (4, 4))
    with pytest.raises(ValueError, match=r"^out.stride\[3\]: the output overlaps itself"):
        flashc.attention(q, q, q, out=overlapping)


READ_ONLY = {
    "numpy": frozen,
    "bytes": lambda a: memoryview(a.tobytes()).cast("f", a.shape),
    "DLPack": lambda a: Dlpack(frozen(a)),
    "broadcast_to": lambda a: np.broadcast_to(a, a.shape),
}


@pytest.mark.parametrize("kind", READ_ONLY)
def test_read_only_outputs(kind: str) -> None:
    q = normal(np.random.default_rng(11), (4, 4))
    out = READ_ONLY[kind](np.zeros((4, 4), np.float32))
    for call in (lambda: flashc.attention(q, q, q, out=out), lambda: flashc.softmax(q, out=out)):
        with pytest.raises(ValueError, match="^out: expected an array that can be written"):
            call()


def test_memory_that_the_library_cannot_have() -> None:
    """A bit for each of 2^48 pages, of which none has an element: 32 TiB."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages, rows = np.empty((2**48, 1, 8, 0), np.float32), np.empty((1, 1, 1, 0), np.float32)
    resource.setrlimit(resource.RLIMIT_AS, (2**44, before[1]))
    try:
        with pytest.raises(MemoryError, match="^block_table: could not allocate"):
            flashc.append_kv(None, rows, None, pages, [0], block_table=[[0]])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# ---- references -----------------------------------------------------------------------------------------------

REPEATS = 200


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_reference_is_kept(dtype: str) -> None:
    """After calls that succeed and calls that fail at each stage."""
    rng = np.random.default_rng(12)
    q, k, v, out = (normal(rng, (4, 4), dtype) for _ in range(4))
    lent = [q, k, v, out, Dlpack(q.view(np.uint16) if dtype == "bf16" else q), [1], object()]
    objects = [*lent, *(a.dtype for a in lent[:4])]
    calls = [
        lambda: flashc.attention(q, k, v, out=out, return_lse=True),
        lambda: flashc.explain(q, k, v),
        lambda: flashc.attention(q, lent[4], v),
        lambda: flashc.attention(q, k, v[:2]),
        lambda: flashc.attention(q, k, v, out=out[:2]),
        lambda: flashc.attention(q, k, v, mask=out),
        lambda: flashc.attention(q, k, v, causal=True, align=lent[5] * 2),
        lambda: flashc.attention(q, k, v, causal=True, align=lent[6]),
        lambda: flashc.attention(q, k, v, kernel="none"),
        lambda: flashc.attention(q, k, v, scale=lent[6]),
        lambda: flashc.attention(q, k, v, workspace=lent[6]),
        lambda: flashc.attention(q, k, v, progress=lent[6]),
        lambda: flashc.softmax(q, out=out),
        lambda: flashc.softmax(q, out=v[:2]),
        lambda: flashc.merge_partials([q, k], [q[0], lent[6]]),
        lambda: flashc.compare(q, lent[6]),
        lambda: flashc.compare(q, k, rtol=lent[6]),
        lambda: flashc.is_softmax(q, tolerance=np.nan),
        lambda: flashc.convert(q, "float32"),
        lambda: flashc.trace([1.0, np.nan]),
    ]

    def run_all() -> None:
        for call in calls:
            try:
                call()
            except (TypeError, ValueError):
                pass

    run_all()
    gc.collect()
    before = [sys.getrefcount(o) for o in objects]
    for _ in range(REPEATS):
        run_all()
    gc.collect()
    after = [sys.getrefcount(o) for o in objects]
    grown = [(repr(o)[:40], b - a) for o, a, b in zip(objects, before, after, strict=True) if abs(b - a) >= REPEATS]
    assert not grown


def test_nothing_is_kept_of_what_most_calls_leave_out() -> None:
    """Arrays beside q, k and v, in calls that succeed and calls that fail after they were taken; and no object that was
    made on the way stays."""
    rng = np.random.default_rng(14)
    q, k, v, cache = (normal(rng, (1, 2, n, 4)) for n in (3, 3, 3, 8))
    codes, blocks = np.ones((1, 2, 8, 4), np.int8), np.ones((3, 3), bool)
    scales, scores, mass, row_max = (normal(rng, shape) for shape in ((1, 2, 8), (1, 2, 3, 3), (1, 2, 3), (1, 2, 3)))
    heads, angles = normal(rng, (2,)), normal(rng, (8, 2))
    one, starts, table = np.array([3]), np.array([0, 3]), np.zeros((1, 1), np.int32)
    objects = [q, k, v, cache, codes, blocks, scales, scores, mass, row_max, heads, angles, one, starts, table]
    scales[...] = 1
    number = np.int64(1000)  # beyond the ints that Python keeps
    long, double = normal(rng, (1, 2, 1000, 4)), np.zeros((3, 4))
    objects += [long, double]
    attention, append, prefix = flashc.attention, flashc.append_kv, flashc.shared_prefix_attention

    def state(**options: Any) -> None:
        made = flashc.AttentionState(q, seqlen_k=2000, **options)
        made.accumulate(long, long)
        made.merge(flashc.AttentionState(q, seqlen_k=2000))
        made.finish()

    def stop(*_: Any) -> None:
        raise ValueError

    fine: list[Callable[[], Any]] = [
        flashc.kernels, flashc.info,
        lambda: flashc.explain(q, k, v, return_items=True),
        lambda: attention(q, k, v, alibi_slopes=heads, sinks=heads, align=number, block_mask=blocks,
                          block_mask_tile=(1, 1), scores=scores, key_mass=mass, row_max=row_max),
        lambda: attention(q, k, v, seqlens_q=one, seqlens_k=one, leftpad_k=one - 3, kernel="f32_generic"),
        lambda: attention(q[0], k[0], v[0], cu_seqlens_q=starts, cu_seqlens_k=starts),
        lambda: attention(q, cache, cache, block_table=table, block_table_v=[[0]], seqlens_k=[3]),
        lambda: attention(q, codes, codes, k_scale=scales, v_scale=scales),
        lambda: attention(q, k, v, score_mod=lambda score, *_: score, progress=lambda *_: []),
        lambda: append(k, v, cache, codes, one, v_scale=scales, q=q, cos=angles, sin=angles, rotary_positions=one),
        lambda: append(k, v, cache, cache.copy(), one, block_table=table, seqlens=one),
        lambda: prefix(q, k[0], v[0], k, v),
        lambda: prefix(q, codes[0], codes[0], k, v, prefix_k_scale=scales[0], prefix_v_scale=scales[0]),
        state, lambda: state(align=number),
    ]
    wrong: list[Callable[[], Any]] = [
        lambda: attention(q, k, v, alibi_slopes=heads, sinks=heads, align=number, block_mask=blocks,
                          block_mask_tile=(1, 1), scores=scores, key_mass=mass, row_max=row_max, kernel="none"),
        lambda: attention(q, k, v, seqlens_q=one, seqlens_k=one + 1),
        lambda: attention(q, cache, cache, block_table=[[0], [1, 2]]),
        lambda: attention(q, codes, codes, k_scale=scales, v_scale=scales[..., :1, :2]),
        lambda: attention(q, Dlpack(double), v),
        lambda: attention(q, k, v, score_mod=stop),
        lambda: attention(q, k, v, progress=stop),
        lambda: append(k, v, cache, codes, one + 4, v_scale=scales),
        lambda: prefix(q, k[0], v[0, :1], k, v),
        lambda: state(score_mod=stop), lambda: state(seqlens_k=[2000, 1]),
    ]

    def run_all() -> None:
        for call in fine:
            call()
        for call in wrong:
            try:  # not pytest.raises(), which keeps objects itself
                call()
                raise AssertionError
            except (TypeError, ValueError):
                pass

    def counts() -> list[int]:
        gc.collect()
        return [*map(sys.getrefcount, objects), sys.getallocatedblocks()]

    for _ in range(2):  # what Python keeps for reuse grows at first
        before = counts()
        for _ in range(REPEATS):
            run_all()
    names = [*(f"{x.dtype}{list(x.shape)}" for x in objects), "all objects"]
    grown = [(name, b - a) for name, a, b in zip(names, before, counts(), strict=True) if b - a >= REPEATS]
    assert not grown


# In a process of its own, where no memory that others gave back is taken instead.
NUMBERS = """
import numpy as np, flashc
n = 2**16
batch, pages = np.zeros((n, 1, 1, 8), np.float32), np.zeros((1, 1, 1, 8), np.float32)
packed, each, starts = batch[:, 0, 0][None], np.ones(n, np.int64), np.arange(n + 1)
def calls():
    flashc.explain(batch, batch, batch, causal=True, align=each, seqlens_q=each, seqlens_k=each, leftpad_k=each)
    flashc.explain(packed, packed, packed, cu_seqlens_q=starts, cu_seqlens_k=starts)
    flashc.explain(batch, pages, pages, block_table=each[:, None] - 1, block_table_v=each[:, None] - 1, seqlens_k=each)
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
calls()
before = resident()
for _ in range(30):
    calls()
print((resident() - before) // each.nbytes)
"""


def test_copies_of_numbers_are_freed() -> None:
    """One that is not would be kept thirty times, or the half of each."""
    run = subprocess.run([sys.executable, "-c", NUMBERS], check=True, text=True, capture_output=True)
    assert int(run.stdout) < 10


def test_memory_is_given_back() -> None:
    """A bytearray cannot be resized while anyone looks at it."""
    q = normal(np.random.default_rng(13), (4, 4))
    memory = bytearray(128)
    for bad in ({}, {"kernel": "none"}, {"scale": "x"}, {"mask": q}, {"workspace": b""}):
        lent = memoryview(memory).cast("f", (2, 4, 4))
        try:
            flashc.attention(lent[0:1], lent[:1], q[None], out=lent[1:], **bad)
            assert not bad
        except (TypeError, ValueError):
            assert bad
        lent.release()
        memory.append(0)
        memory.pop()
    workspace = bytearray(2**20 + 64)
    with pytest.raises(ValueError, match="workspace"):
        flashc.attention(q, q, q, workspace=memoryview(workspace)[:8])
    workspace.append(0)
    size = flashc.explain(q, q, q).workspace_size
    start = -ctypes.addressof(ctypes.c_char.from_buffer(workspace)) % 64
    assert size < 2**20
    gc.collect()
    flashc.attention(q, q, q, workspace=memoryview(workspace)[start:start + size])
    workspace.append(0)
