"""The other end of worker.py: starts a system's process, asks it, and sees that it sleeps when it should."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import resource
import select
import subprocess
import sys
import time
from typing import Any

from .cases import Case

# Longest wait for one answer: the largest case of the slowest system takes a minute or two.
ANSWER_SECONDS = 900.0
# A process sleeps when it used less than this share of a core over a pause.
PAUSE_SECONDS, AWAKE_SHARE, LONGEST_PAUSE = 0.01, 0.05, 2.0


class Failed(Exception):
    """A system said no, or died, or did not answer."""


def write_case(folder: pathlib.Path, case: Case, copies: int) -> None:
    (folder / "case.json").write_text(json.dumps(dataclasses.asdict(case) | {"copies": copies}))


class Peer:
    """One system's process for one case, on these CPUs only."""

    def __init__(
        self,
        name: str,
        folder: pathlib.Path,
        threads: int,
        cpus: set[int],
        memory: int,
        executable: str | None = None,
    ) -> None:
        """memory: bytes it may take (more is its own out-of-memory error, not the machine's)."""
        self.name = name
        self.log = folder / f"{name}.log"
        command = (
            [executable, str(folder)]
            if executable
            else [sys.executable, "-m", "peers.worker", name, str(folder)]
        )
        count = str(threads)
        environment = os.environ | {
            "OMP_NUM_THREADS": count,
            "MKL_NUM_THREADS": count,
            "OPENBLAS_NUM_THREADS": count,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),
        }
        if threads == 1:
            environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        # The child inherits this thread's CPUs, from its first instruction on.
        mine = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus)
        try:
            with self.log.open("wb") as log:
                self.process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment
                )
        except OSError as error:
            raise Failed(f"cannot start {command[0]}: {error.strerror}") from None
        finally:
            os.sched_setaffinity(0, mine)
        resource.prlimit(self.process.pid, resource.RLIMIT_DATA, (memory, memory))
        self.buffer = b""
        try:
            self._answer()
        except Failed:
            self.close()
            raise

    def ask(self, command: str, argument: object = "") -> dict[str, Any]:
        """The answer; raises Failed with the system's own reason."""
        try:
            self.process.stdin.write(f"{command} {argument}".strip().encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self._last_words()) from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        deadline = time.monotonic() + ANSWER_SECONDS
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.close()
                raise Failed(f"no answer in {ANSWER_SECONDS:.0f} s")
            received = os.read(descriptor, 65536)
            if not received:
                raise Failed(self._last_words())
            self.buffer += received
        line, _, self.buffer = self.buffer.partition(b"\n")
        word, _, rest = line.decode(errors="replace").partition(" ")
        if word != "ok":
            raise Failed(rest or line.decode(errors="replace"))
        return json.loads(rest or "{}")

    def _last_words(self) -> str:
        code = self.close()
        text = self.log.read_text(errors="replace").strip().splitlines()
        how = f"died of signal {-code}" if code < 0 else f"ended with {code}"
        return f"{how}: {text[-1]}" if text else how

    def wait_until_asleep(self) -> bool:
        """Waits until no thread of the process runs (pools spin on after a call); False if one goes on."""
        clock = (~self.process.pid << 3) | 2  # the process's CPU time, as clock_getcpuclockid() names it
        deadline = time.monotonic() + LONGEST_PAUSE
        while time.monotonic() < deadline:
            before, start = time.clock_gettime(clock), time.monotonic()
            time.sleep(PAUSE_SECONDS)
            if time.clock_gettime(clock) - before < AWAKE_SHARE * (time.monotonic() - start):
                return True
        return False

    def close(self) -> int:
        """Ends the process; its exit code."""
        if self.process.poll() is None:
            try:
                self.process.stdin.write(b"quit\n")
                self.process.stdin.close()
                self.process.wait(5)
            except (BrokenPipeError, ValueError, subprocess.TimeoutExpired):
                self.process.kill()
        self.process.stdout.close()
        return self.process.wait()
