"""Objects that lie or raise: an exception that names the argument, or the right result."""
import ctypes
from typing import Any

import numpy as np
import pytest

import flashc
import oracle
from oracle import normal

Q = normal(np.random.default_rng(1), (4, 8))


class Raises:
    """Every way in raises what it was made with."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def _raise(self, *_: Any, **__: Any) -> Any:
        raise self.error

    __dlpack__ = __dlpack_device__ = __index__ = __float__ = __bool__ = __call__ = __len__ = __getitem__ = _raise
    __eq__ = _raise
    __hash__ = None  # type: ignore[assignment]
    shape = dtype = property(_raise)


ERRORS = (OSError("boo"), TypeError("boo"), AttributeError("boo"), BufferError("boo"), OSError("boo\nmore"))


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("argument", ("q", "k", "v", "mask", "bias", "out", "align", "scale", "causal", "num_threads"))
def test_exceptions_of_arguments_name_the_argument(argument: str, error: Exception) -> None:
    arguments = {"q": Q, "k": Q, "v": Q, "align": 0, argument: Raises(error)}
    with pytest.raises((TypeError, ValueError, type(error)), match=rf"^{argument}: |boo"):
        flashc.attention(**arguments)


@pytest.mark.parametrize("error", (KeyboardInterrupt(), MemoryError()), ids=repr)
@pytest.mark.parametrize("argument",
                         ("k", "mask", "bias", "out", "align", "scale", "causal", "num_threads", "progress"))
def test_what_is_not_about_an_argument_goes_through(argument: str, error: BaseException) -> None:
    arguments = {"q": Q, "k": Q, "v": Q, "align": 0, argument: Raises(error)}
    with pytest.raises(type(error)):
        flashc.attention(**arguments)


class Gives:
    """A producer whose __dlpack__ gives anything at all."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __dlpack__(self, **_: Any) -> Any:
        return self.answer

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def capsule(name: bytes, address: int) -> Any:
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return new(address, name, None)


class Tensor(ctypes.Structure):
    """DLTensor behind a DLManagedTensorVersioned's first fields."""
    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
                ("deleter", ctypes.c_void_p), ("flags", ctypes.c_uint64), ("data", ctypes.c_void_p),
                ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
                ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
                ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
                ("byte_offset", ctypes.c_uint64)]


MEMORY = (ctypes.c_float * 64)(*(i / 64 for i in range(64)))


def tensor(shape: tuple[int, ...] = (4, 8), strides: tuple[int, ...] | None = None, **fields: int) -> Gives:
    """A producer of a [4, 8] float32 tensor of MEMORY's first numbers, but for the fields that are given."""
    made = Tensor(major=1, data=ctypes.addressof(MEMORY), device_type=1, ndim=len(shape), code=2, bits=32, lanes=1,
                  shape=(ctypes.c_int64 * len(shape))(*shape))
    if strides is not None:
        made.strides = (ctypes.c_int64 * len(strides))(*strides)
    for name, value in fields.items():
        setattr(made, name, value)
    producer = Gives(capsule(b"dltensor_versioned", ctypes.addressof(made)))
    producer.made = made  # type: ignore[attr-defined]
    return producer


def test_hand_made_tensor_is_read() -> None:
    """The layout above is right: otherwise the table below tests nothing."""
    numbers = np.frombuffer(MEMORY, np.float32)
    first = numbers[:32].reshape(4, 8)
    for k, held in ((tensor(), first), (tensor(byte_offset=16), numbers[4:36].reshape(4, 8)),
                    (tensor(strides=(8, 1)), first), (tensor(strides=(1, 4)), numbers[:32].reshape(8, 4).T),
                    (tensor(strides=(0, 0)), np.broadcast_to(numbers[:1], (4, 8))), (tensor(device_type=3), first)):
        assert flashc.attention(Q, k, Q).tobytes() == flashc.attention(Q, held, Q).tobytes()


HUGE = 2**40
DLPACK_TABLE = {
    "no capsule": (Gives(3), TypeError, "no DLPack capsule"),
    "None": (Gives(None), TypeError, "no DLPack capsule"),
    "capsule of another name": (Gives(capsule(b"something", 8)), TypeError, "no DLPack capsule"),
    "used capsule": (Gives(capsule(b"used_dltensor", 8)), TypeError, "no DLPack capsule"),
    "version 2": (tensor(major=2), ValueError, "DLPack version 1, found 2"),
    "GPU": (tensor(device_type=2), ValueError, "device type 2"),
    "float64": (tensor(bits=64), TypeError, "float32"),
    "4 lanes": (tensor(lanes=4), TypeError, "float32"),
    "int32": (tensor(code=0), TypeError, "float32"),
    "negative rank": (tensor(ndim=-1), ValueError, "0 to 32 axes, found -1"),
    "rank 100": (tensor(shape=(1,) * 100), ValueError, "0 to 32 axes, found 100"),
    "negative size": (tensor(shape=(-4, 8)), ValueError, "found -4 on axis 0"),
    "2^80 elements": (tensor(shape=(HUGE, HUGE)), ValueError, "2\\^63"),
    "no data": (tensor(data=0), ValueError, "NULL"),
    "odd address": (tensor(byte_offset=1), ValueError, "aligned"),
    "huge strides": (tensor(strides=(2**62, 2**62)), ValueError, "stride"),
}


@pytest.mark.parametrize("name", DLPACK_TABLE)
def test_dlpack_that_cannot_be(name: str) -> None:
    k, exception, message = DLPACK_TABLE[name]
    with pytest.raises(exception, match=rf"^k\b.*{message}"):
        flashc.attention(Q, k, Q)


def test_claimed_sizes_do_not_overflow() -> None:
    big = tensor(shape=(2**31, 2**31), strides=(0, 0))
    for call in (lambda: flashc.compare(big, big), lambda: flashc.is_softmax(big)):
        with pytest.raises(ValueError, match="^[ay]: expected"):
            call()
    deep = tensor(shape=(0, HUGE, HUGE), strides=(0, 0, 0))
    with pytest.raises(ValueError, match="^y: expected"):
        flashc.is_softmax(deep)


@pytest.mark.parametrize("table", (3, capsule(b"wrong", 8), None), ids=("int", "wrong capsule", "None"))
def test_wrong_exchange_tables_are_passed_over(table: Any) -> None:
    class Odd(Gives):
        __dlpack_c_exchange_api__ = table

    k = np.zeros((4, 8), np.float32)
    assert flashc.attention(Q, Odd(k.__dlpack__()), Q).tobytes() == flashc.attention(Q, k, Q).tobytes()


def test_lying_shapes() -> None:
    class Namespace:
        shape, dtype = (4, 8), np.dtype(np.float32)
        ndim = 2

        def __init__(self, shape: Any) -> None:
            self.shape = shape

        def __array_namespace__(self) -> Any:
            return np

        def __dlpack__(self, **options: Any) -> Any:
            return Q.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return Q.__dlpack_device__()

    assert flashc.attention(Namespace((4, 8)), Q, Q).tobytes() == flashc.attention(Q, Q, Q).tobytes()
    for shape in ((3, 8), (400, 8), (1, 4, 8)):
        with pytest.raises(ValueError, match="^out: expected"):
            flashc.attention(Namespace(shape), Q, Q)
    for shape in ((4, 7), (4, 900), (4, 4, 9)):
        with pytest.raises(ValueError, match="^out: expected head_dim"):
            flashc.attention(Q, Q, Namespace(shape))
    with pytest.raises((TypeError, ValueError)):
        flashc.attention(Namespace(("a", None)), Q, Q)


def test_a_list_that_shrinks_while_it_is_read() -> None:
    q = np.zeros((3, 1, 2, 8), np.float32)

    class Shrinks:
        def __index__(self) -> int:
            align.clear()
            return 1

    align: list[Any] = [Shrinks(), 0, 0]
    with pytest.raises(TypeError, match="^align: expected"):
        flashc.attention(q, q, q, causal=True, align=align)


def test_bfloat16_in_name_only() -> None:
    """An array that calls itself bfloat16 and views itself as something else."""
    class Odd(np.ndarray):
        def view(self, *_: Any) -> Any:
            return np.zeros(4, np.uint8)

    odd = np.zeros((4, 8), oracle.BFLOAT16).view(Odd)
    with pytest.raises(TypeError, match="^k: expected"):
        flashc.attention(Q, odd, Q)
