"""Memory that flashc refuses to read or write, and memory that it gives back."""
import ctypes
import gc
import sys
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
        lambda: flashc.merge_states([q, k], [q[0], lent[6]]),
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
