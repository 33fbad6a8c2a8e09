"""While a call runs: progress, Ctrl-C, the GIL, other threads, fork, and the environment it starts in."""
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
from oracle import normal

Q = normal(np.random.default_rng(1), (4, 8))

# Long enough that a test can act while it runs (0.1 s and more on any machine), short enough to wait for.
LONG = np.broadcast_to(normal(np.random.default_rng(2), (1, 2048, 64)), (64, 2048, 64))


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
    whole = flashc.attention(LONG, LONG, LONG)
    assert (out == whole)[~rows].all(), "a row was left half done"
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
    """In a process of its own; its output. It must end by itself. SIGINT is not ignored there, as it is in the
    background jobs of a shell."""
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(text)], text=True, capture_output=True, timeout=120,
                            env={**os.environ, **environment},
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
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
    assert features == "" and "generic" in kernel
    assert all("generic" in name for name in available.split(","))
