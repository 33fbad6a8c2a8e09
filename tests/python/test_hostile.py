"""Objects that lie or raise, callbacks, Ctrl-C, threads and fork: an exception or the right result, never a broken process."""
import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
from typing import Any

import numpy as np
import pytest

import flashc
import oracle
from oracle import normal

Q = normal(np.random.default_rng(1), (4, 8))

# Long enough that a test can act while it runs (0.1 s and more on any machine), short enough to wait for.
LONG = np.broadcast_to(normal(np.random.default_rng(2), (1, 2048, 64)), (64, 2048, 64))


class Raises:
    """Every way in raises what it was made with."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def _raise(self, *_: Any, **__: Any) -> Any:
        raise self.error

    __dlpack__ = __dlpack_device__ = __index__ = __float__ = __bool__ = __call__ = __len__ = __getitem__ = _raise
    shape = dtype = property(_raise)


ERRORS = (OSError("boo"), TypeError("boo"), AttributeError("boo"), BufferError("boo"), OSError("boo\nmore"))


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("argument", ("q", "k", "v", "mask", "bias", "out", "align", "scale", "causal", "num_threads"))
def test_exceptions_of_arguments_name_the_argument(argument: str, error: Exception) -> None:
    arguments = {"q": Q, "k": Q, "v": Q, "align": 0, argument: Raises(error)}
    with pytest.raises((TypeError, ValueError, type(error)), match=rf"^{argument}: |boo"):
        flashc.attention(**arguments)


@pytest.mark.parametrize("argument", ("k", "mask", "bias", "out", "align", "scale", "causal", "num_threads", "progress"))
def test_ctrl_c_inside_an_argument_goes_through(argument: str) -> None:
    arguments = {"q": Q, "k": Q, "v": Q, "align": 0, argument: Raises(KeyboardInterrupt())}
    with pytest.raises(KeyboardInterrupt):
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


MEMORY = (ctypes.c_float * 64)()


def tensor(shape: tuple[int, ...] = (4, 8), strides: tuple[int, ...] | None = None, **fields: int) -> Gives:
    """A producer of a [4, 8] float32 tensor of zeros, but for the fields that are given."""
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
    zeros = np.zeros((4, 8), np.float32)
    for k in (tensor(), tensor(byte_offset=16), tensor(strides=(8, 1)), tensor(strides=(0, 0)), tensor(device_type=3)):
        assert flashc.attention(Q, k, Q).tobytes() == flashc.attention(Q, zeros, Q).tobytes()


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


# ---- progress ---------------------------------------------------------------------------------------------------

def test_progress_counts_items() -> None:
    seen: list[tuple[int, int]] = []
    total = flashc.explain(LONG, LONG, LONG, num_threads=1).num_items
    plain = flashc.attention(LONG[:8], LONG[:8], LONG[:8])
    o = flashc.attention(LONG[:8], LONG[:8], LONG[:8], num_threads=1, progress=lambda d, t: seen.append((d, t)))
    assert o.tobytes() == plain.tobytes()
    done = [d for d, _ in seen]
    assert done == sorted(done) and {t for _, t in seen} == {total // 8} and done[-1] == total // 8


def test_progress_may_raise() -> None:
    class Stop(BaseException):
        pass

    calls = 0

    def progress(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if done >= 3:
            raise Stop("enough")

    out = np.full(LONG.shape, np.float32(7))
    with pytest.raises(Stop, match="enough"):
        flashc.attention(LONG, LONG, LONG, out=out, num_threads=1, progress=progress)
    rows = (out == 7).all(axis=-1)
    assert 0 < rows.sum() < rows.size
    whole = flashc.attention(LONG[:1], LONG[:1], LONG[:1])[0]
    assert all((head == whole)[~row].all() for head, row in zip(out, rows, strict=True)), "a row was left half done"
    assert flashc.attention(Q, Q, Q).shape == Q.shape


def test_progress_may_call_flashc() -> None:
    results = []

    def progress(done: int, total: int) -> None:
        results.append(flashc.attention(Q, Q, Q).tobytes())
        with pytest.raises(ValueError, match="none of this name"):
            flashc.attention(Q, Q, Q, kernel="none of this name")

    o = flashc.attention(LONG[:4], LONG[:4], LONG[:4], progress=progress)
    assert o.tobytes() == flashc.attention(LONG[:4], LONG[:4], LONG[:4]).tobytes()
    assert results and set(results) == {flashc.attention(Q, Q, Q).tobytes()}


# ---- Ctrl-C, the GIL, threads, fork -------------------------------------------------------------------------------

def run_script(text: str, **environment: str) -> str:
    """In a process of its own; its output. It must end by itself."""
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(text)], text=True, capture_output=True, timeout=120,
                            env={**os.environ, **environment})
    assert result.returncode == 0, (result.returncode, result.stderr)
    return result.stdout


@pytest.mark.parametrize("use_progress", (False, True))
def test_ctrl_c_during_a_long_call(use_progress: bool) -> None:
    """The call would take many minutes. It raises KeyboardInterrupt, and the process goes on."""
    out = run_script(f"""
        import os, signal, threading, flashc, numpy as np
        q = np.broadcast_to(np.ones((1, 1, 64), np.float32), (256, 2**16, 64))
        small = np.ones((4, 8), np.float32)
        before = flashc.attention(small, small, small).tobytes()
        def interrupt(started, patience):
            started.wait(patience)
            os.kill(os.getpid(), signal.SIGINT)
        for _ in range(2):
            started = threading.Event()
            progress = (lambda done, total: started.set()) if {use_progress} else None
            threading.Thread(target=interrupt, args=(started, None if {use_progress} else 0.5)).start()
            try:
                flashc.attention(q, q, q, progress=progress)
            except KeyboardInterrupt:
                print("interrupted")
            assert flashc.attention(small, small, small).tobytes() == before
    """)
    assert out.split() == ["interrupted", "interrupted"]


def test_signal_handlers_run_during_a_call() -> None:
    """One that raises cancels with its own exception; one that returns lets the call go on."""
    calls = 0

    def handler(number: int, frame: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise LookupError("from the handler")

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        sent = [False, False]

        def progress(done: int, total: int) -> None:
            which = calls
            if which < 2 and not sent[which]:
                sent[which] = True
                os.kill(os.getpid(), signal.SIGUSR1)

        with pytest.raises(LookupError, match="from the handler"):
            flashc.attention(LONG, LONG, LONG, progress=progress)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert calls == 2


def test_other_threads_run_during_a_call() -> None:
    """The GIL is free: a Python thread counts while the call works. With it held, it could not start before the end."""
    running, counted_inside = threading.Event(), threading.Event()
    inside = False

    def count() -> None:
        running.set()
        for _ in range(10**9):
            if inside_seen():
                counted_inside.set()
                return
            if finished.is_set():
                return

    def inside_seen() -> bool:
        return inside

    finished = threading.Event()
    thread = threading.Thread(target=count)
    thread.start()
    running.wait()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)  # only a released GIL lets the other thread run from here on
    try:
        inside = True
        flashc.attention(LONG, LONG, LONG)
        seen = counted_inside.is_set()
    finally:
        sys.setswitchinterval(interval)
        finished.set()
        thread.join()
    assert seen


def test_many_threads_at_once() -> None:
    rng = np.random.default_rng(3)
    problems = [tuple(normal(rng, (3, 70 + 13 * i, 32)) for _ in range(3)) for i in range(8)]
    expected = [flashc.attention(*p).tobytes() for p in problems]
    wrong: list[int] = []

    def work(i: int) -> None:
        out = np.empty_like(problems[i][0])
        for _ in range(30):
            if flashc.attention(*problems[i], out=out).tobytes() != expected[i]:
                wrong.append(i)
            with pytest.raises(ValueError, match=f"found \"kernel{i}\""):
                flashc.attention(*problems[i], kernel=f"kernel{i}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_fork_after_use() -> None:
    out = run_script("""
        import os, flashc, numpy as np
        q = np.random.default_rng(0).standard_normal((4, 300, 64)).astype(np.float32)
        before = flashc.attention(q, q, q, num_threads=2).tobytes()
        child = os.fork()
        if child == 0:
            os._exit(42 if flashc.attention(q, q, q, num_threads=2).tobytes() == before else 1)
        _, status = os.waitpid(child, 0)
        assert flashc.attention(q, q, q, num_threads=2).tobytes() == before
        print(os.waitstatus_to_exitcode(status))
    """)
    assert out.strip() == "42"


def test_disabled_cpu_features() -> None:
    out = run_script("""
        import flashc, numpy as np
        q = np.ones((4, 8), np.float32)
        print(",".join(flashc.info().cpu_features))
        print(flashc.explain(q, q, q).kernel)
        print(",".join(k.name for k in flashc.kernels() if k.unavailable is None))
        for kernel in flashc.kernels():
            try:
                assert (flashc.attention(q, q, q, kernel=kernel.name) == 1).all() and kernel.unavailable is None
            except ValueError as error:
                assert kernel.unavailable is not None and kernel.unavailable in str(error), (kernel, error)
    """, FLASHC_DISABLE_CPU_FEATURES=",".join(flashc.info().cpu_features))
    features, kernel, available = out.split("\n")[:3]
    assert features == "" and kernel.startswith("f32_generic")
    assert all(name.startswith("f32_generic") for name in available.split(","))
