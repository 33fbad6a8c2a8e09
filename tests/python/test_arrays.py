"""Where arrays lie and what they are: any strides, every protocol, nothing copied or touched, kinds of results."""
import array
import ctypes
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flashc
import oracle
from arrays import Dlpack, frozen
from oracle import BFLOAT16, DTYPES, normal

try:
    import array_api_strict
except ImportError:
    array_api_strict = None

SHAPE = (2, 3, 10, 6)  # batch, heads, rows, dim


def padded(a: Any) -> Any:
    big = np.full((*a.shape[:-1], 2 * a.shape[-1] + 3), 99, a.dtype)
    big[..., 2:-1:2] = a
    return big[..., 2:-1:2]


def reversed_axes(a: Any) -> Any:
    return np.ascontiguousarray(a[::-1, :, ::-1, ::-1])[::-1, :, ::-1, ::-1]


def in_structure(a: Any) -> Any:
    """A field at an address that is a whole number of elements, in records that are whole elements."""
    records = np.zeros(a.shape, np.dtype([("other", a.dtype), ("value", a.dtype), ("third", a.dtype)]))
    records["value"] = a
    return records["value"]


PLACES: dict[str, Callable[[Any], Any]] = {
    "as made": lambda a: a,
    "F-order": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.transpose(3, 1, 0, 2)).transpose(2, 1, 3, 0),
    "steps": padded,
    "negative strides": reversed_axes,
    "field of records": in_structure,
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) if a.dtype != BFLOAT16 else frozen(a),
    "subclass": lambda a: a.view(type("Sub", (np.ndarray,), {})),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", PLACES)
def test_inputs_lie_anywhere(place: str, dtype: str) -> None:
    """The same numbers elsewhere give the bits of the packed ones, and stay as they are."""
    rng = np.random.default_rng(1)
    q, k, v = (normal(rng, SHAPE, dtype) for _ in range(3))
    bias, mask = normal(rng, (2, 3, 10, 10), dtype), rng.random((2, 3, 10, 10)) < 0.7
    expected, expected_lse = flashc.attention(q, k, v, mask=mask, bias=bias, return_lse=True)
    oracle.check(expected, oracle.attention(q, k, v, mask=mask, bias=bias), expected_lse)
    moved = [PLACES[place](a) for a in (q, k, v, mask, bias)]
    before = [a.tobytes() for a in moved]
    o, lse = flashc.attention(*moved[:3], mask=moved[3], bias=moved[4], return_lse=True)
    assert o.tobytes() == expected.tobytes() and lse.tobytes() == expected_lse.tobytes()
    assert [a.tobytes() for a in moved] == before
    assert type(o) is np.ndarray


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [name for name in PLACES if name != "read-only"])
def test_outputs_lie_anywhere(place: str, dtype: str) -> None:
    rng = np.random.default_rng(2)
    q, k, v = (normal(rng, SHAPE, dtype) for _ in range(3))
    expected = flashc.attention(q, k, v)
    out = PLACES[place](np.full(SHAPE, 5, DTYPES[dtype]))
    owner = out.base if out.base is not None else out
    outside = not np.shares_memory(out, owner) or owner.nbytes > out.nbytes
    assert flashc.attention(q, k, v, out=out) is out
    assert np.array_equal(out, expected)
    if outside and owner.dtype == DTYPES[dtype]:  # what lies between the elements is as it was
        out[...] = 99
        assert (np.asarray(owner) == 99).all()


def test_broadcast_and_size_1_strides() -> None:
    rng = np.random.default_rng(3)
    q = np.broadcast_to(normal(rng, (1, 1, 10, 6)), SHAPE)
    k = np.broadcast_to(normal(rng, (2, 1, 1, 6)), SHAPE)
    v = np.broadcast_to(normal(rng, (6,)), SHAPE)
    oracle.check(flashc.attention(q, k, v), oracle.attention(q, k, v))
    # An axis of size 1 may have any stride, not even of whole elements.
    a = normal(rng, (1, 1, 4, 8))[..., :6]  # of what is contiguous NumPy itself exports usual ones
    odd = np.lib.stride_tricks.as_strided(a, a.shape, (7, -3, *a.strides[2:]))
    assert flashc.attention(odd, odd, odd).tobytes() == flashc.attention(a, a, a).tobytes()


def test_memmap(tmp_path: Any) -> None:
    rng = np.random.default_rng(4)
    arrays = [normal(rng, SHAPE) for _ in range(3)]
    mapped = []
    for i, a in enumerate(arrays):
        a.tofile(tmp_path / str(i))
        mapped.append(np.memmap(tmp_path / str(i), np.float32, "r", shape=SHAPE))
    out = np.memmap(tmp_path / "out", np.float32, "w+", shape=SHAPE)
    assert flashc.attention(*mapped, out=out) is out
    out.flush()
    assert (tmp_path / "out").read_bytes() == flashc.attention(*arrays).tobytes()


def test_only_the_output_view_is_written() -> None:
    rng = np.random.default_rng(5)
    q, k, v = (normal(rng, (4, 6)) for _ in range(3))
    big = np.full((9, 20), np.float32(77))
    inside = big[2:6, 3:15:2]
    flashc.attention(q, k, v, out=inside)
    assert np.array_equal(inside, flashc.attention(q, k, v))
    inside[...] = 77
    assert (big == 77).all()


# In a process of its own, since ru_maxrss is the highest it ever was.
NO_COPY = """
import resource, ml_dtypes, numpy as np, flashc
n, dtype = 2**18, np.dtype({dtype!r})
q = np.ones((1, 64), dtype)
k = np.ones((64, n), dtype).T[::-1]
v = np.ones((n, 128), dtype)[:, ::2][:, ::-1]
mask = np.ones((1, n), bool)
flashc.attention(q, k[:100], v[:100], mask=mask[:, :100], num_threads=1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
o = flashc.attention(q, k, v, mask=mask, num_threads=1)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
print(grown, min(k.nbytes, v.nbytes), bool((o == 1).all()))
"""


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_copy_is_made(dtype: str) -> None:
    """K and V of awkward strides, 32 MiB each or more: the process does not grow by any part of them that counts."""
    result = subprocess.run([sys.executable, "-c", NO_COPY.format(dtype=DTYPES[dtype].name)], check=True, text=True,
                            capture_output=True)
    grown, size, right = result.stdout.split()
    assert right == "True" and int(size) >= 2**25
    assert int(grown) < int(size) // 8, f"the process grew by {grown} bytes; the smaller of K and V has {size}"


# ---- protocols ------------------------------------------------------------------------------------------------

class OldDlpack(Dlpack):
    """From before DLPack had versions."""

    def __dlpack__(self, stream: Any = None) -> Any:  # type: ignore[override]
        return self.a.__dlpack__()


class RefusingDlpack(Dlpack):
    """Knows the word max_version, not what it asks for (array_api_strict with NumPy 1)."""

    def __dlpack__(self, *, max_version: Any = None, **_: Any) -> Any:
        if max_version is not None:
            raise NotImplementedError("max_version")
        return self.a.__dlpack__()


def as_ctypes(a: Any) -> Any:
    made: Any = ctypes.c_float
    for n in reversed(a.shape):
        made = made * n
    return made.from_buffer_copy(np.ascontiguousarray(a))


def as_memoryview(a: Any) -> Any:
    return memoryview(bytearray(a.tobytes())).cast("f", a.shape)


def as_array_array(a: Any) -> Any:
    """array.array has one axis only: a memoryview gives it its shape."""
    return memoryview(array.array("f", a.ravel().tolist())).cast("B").cast("f", a.shape)


KINDS: dict[str, Callable[[Any], Any]] = {
    "memoryview": as_memoryview, "ctypes": as_ctypes, "array.array": as_array_array, "DLPack": Dlpack,
    "DLPack without versions": OldDlpack,
}


@pytest.mark.parametrize("kind", KINDS)
def test_protocols(kind: str) -> None:
    """Each as every argument; NumPy comes back, or out itself."""
    rng = np.random.default_rng(6)
    q, k, v = normal(rng, (5, 8)), normal(rng, (9, 8)), normal(rng, (9, 4))
    bias = normal(rng, (5, 9))
    expected, expected_lse = flashc.attention(q, k, v, bias=bias, return_lse=True)
    make = KINDS[kind]
    o, lse = flashc.attention(make(q), make(k), make(v), bias=make(bias), return_lse=True)
    assert type(o) is np.ndarray and type(lse) is np.ndarray
    assert o.tobytes() == expected.tobytes() and lse.tobytes() == expected_lse.tobytes()
    out = make(np.zeros((5, 4), np.float32))
    assert flashc.attention(q, make(k), make(v), bias=bias, out=out) is out
    written = np.from_dlpack(out) if isinstance(out, Dlpack) else np.asarray(memoryview(out))
    assert written.tobytes() == expected.tobytes()
    y = flashc.softmax(make(q))
    assert type(y) is np.ndarray and y.tobytes() == flashc.softmax(q).tobytes()


def test_strides_that_nobody_follows() -> None:
    """Of arrays that are contiguous, or empty; DLPack tells them as they are."""
    big = normal(np.random.default_rng(6), (4, 2, 9))
    one, none = Dlpack(big[::4]), Dlpack(big[:, :0].swapaxes(0, 1))
    assert flashc.compare(one, big[:1]).equal and flashc.softmax(one).tobytes() == flashc.softmax(big[:1]).tobytes()
    assert flashc.compare(none, none).equal and flashc.is_softmax(none)


def test_dlpack_that_refuses_versions() -> None:
    q = normal(np.random.default_rng(6), (5, 8))
    assert flashc.attention(q, RefusingDlpack(q), q).tobytes() == flashc.attention(q, q, q).tobytes()


def test_bool_masks_of_other_protocols() -> None:
    rng = np.random.default_rng(7)
    q = normal(rng, (3, 8))
    mask = rng.random((3, 3)) < 0.5
    expected = flashc.attention(q, q, q, mask=mask).tobytes()
    for other in (memoryview(mask), ((ctypes.c_bool * 3) * 3).from_buffer_copy(mask), Dlpack(mask)):
        assert flashc.attention(q, q, q, mask=other).tobytes() == expected
    mask.view(np.uint8)[...] *= 200  # any byte but 0 is true
    assert flashc.attention(q, q, q, mask=mask).tobytes() == expected


@pytest.mark.skipif(array_api_strict is None, reason="NOT TESTED: array_api_strict is not installed")
def test_array_api_namespace() -> None:
    xp: Any = array_api_strict
    rng = np.random.default_rng(8)
    arrays = [normal(rng, (2, 5, 8)) for _ in range(3)]
    strict = [xp.asarray(a) for a in arrays]
    o, lse = flashc.attention(*strict, return_lse=True)
    assert type(o) is type(strict[0]) and type(lse) is type(strict[0])
    expected, expected_lse = flashc.attention(*arrays, return_lse=True)
    assert np.from_dlpack(o).tobytes() == expected.tobytes() and np.from_dlpack(lse).tobytes() == expected_lse.tobytes()
    out = xp.zeros((2, 5, 8), dtype=xp.float32)
    assert flashc.attention(*strict, out=out) is out
    assert np.from_dlpack(out).tobytes() == expected.tobytes()
    assert flashc.softmax(strict[0], out=out) is out
    assert type(flashc.softmax(strict[0])) is type(out)
    assert flashc.explain(*strict).kernel == flashc.explain(*arrays).kernel
    merged = flashc.merge_partials([o, o], [lse, lse])
    assert type(merged[0]) is type(out) and type(merged[1]) is type(out)
