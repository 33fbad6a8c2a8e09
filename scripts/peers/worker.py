"""The process in which one system lives: python -m peers.worker SYSTEM FOLDER, started by process.py.

Reads commands from standard input, one a line, and sleeps between them. Answers on standard output, one line
each: "ok" and a JSON object, or "error" and a reason; "ok {}" once it is up. FOLDER holds case.json (the
fields of Case, and copies), q.bin, k.bin, v.bin (raw, little-endian, [batch, heads, seqlen, dim]) and what else the
case has: the arrays of reference.Arrays. An executable of the user's speaks the same, started as EXECUTABLE FOLDER:

    about      {"about": version in words}
    list       {"variants": [the ways it can compute the case]}
    open NAME  {}; makes this variant ready, and lets go of the one before
    run        {"peak_bytes": growth of resident memory at its highest in one call, null if unknown}; writes
               the result to o.bin: f32, [batch, heads, seqlen_q, head_dim_v]
    time N     {"seconds": s, "cpu_seconds": c} of N calls together, taking the copies of K and V in turn
    quit       ends the process
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import pathlib
import sys
import time
from typing import Any

import numpy as np

from . import reference, systems
from .cases import Case

ROWS = ", group as rows"  # the variants of Case.grouped()


class Worker:
    def __init__(self, system: str, folder: pathlib.Path) -> None:
        self.system = importlib.import_module(f"peers.systems.{system}")
        # flashc groups heads itself.
        self.groups_heads = system == "flashc"
        self.folder = folder
        fields = json.loads((folder / "case.json").read_text())
        self.copies = fields.pop("copies")
        self.case = Case(**fields)
        self.arrays = reference.load(folder, self.case)
        self.call: systems.Call | None = None
        self.next_copy = 0

    def about(self) -> dict[str, Any]:
        return {"about": self.system.about()}

    def list(self) -> dict[str, Any]:
        names = self.system.variants(self.case)
        grouped = None if self.groups_heads else self.case.grouped()
        return {
            "variants": names + [name + ROWS for name in (self.system.variants(grouped) if grouped else [])]
        }

    def open(self, name: str) -> dict[str, Any]:
        case, arrays = self.case, self.arrays
        if name.endswith(ROWS):
            case = case.grouped() or case
            arrays = dataclasses.replace(arrays, q=arrays.q.reshape(reference.shapes(case)["q"]))
        self.call = None
        self.call = self.system.build(name.removesuffix(ROWS), case, arrays, self.copies)
        self.next_copy = 0
        return {}

    def run(self) -> dict[str, Any]:
        before = _peak_start()
        self._calls(1)
        peak = _peak_since(before)
        result = np.asarray(self.call.output()).astype(np.float32)
        result = np.ascontiguousarray(result).reshape(reference.shapes(self.case)["o"])
        for b, length in enumerate(self.case.lengths):
            result[b, :, length:] = 0.0
        result.tofile(self.folder / "o.bin")
        return {"peak_bytes": peak}

    def time(self, count: str) -> dict[str, Any]:
        cpu, start = time.process_time(), time.perf_counter()
        self._calls(int(count))
        return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}

    def _calls(self, count: int) -> None:
        run, copies, copy = self.call.run, self.copies, self.next_copy
        for _ in range(count):
            run(copy)
            copy = copy + 1 if copy + 1 < copies else 0
        self.next_copy = copy


def _status(key: str) -> int | None:
    """Bytes of a line of /proc/self/status."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return None


def _peak_start() -> int | None:
    """Sets the peak back to what is resident now, the result: an earlier peak would hide a later one."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS:")
    except OSError:
        return None


def _peak_since(before: int | None) -> int | None:
    peak = None if before is None else _status("VmHWM:")
    return None if peak is None else max(0, peak - before)


def main() -> None:
    # What a system prints must not get into the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        worker = Worker(sys.argv[1], pathlib.Path(sys.argv[2]))
    except Exception as error:
        answers.write(f"error {_reason(error)}\n")
        return
    answers.write("ok {}\n")
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "quit":
            break
        try:
            answer = getattr(worker, command)(*([argument] if argument else []))
            answers.write(f"ok {json.dumps(answer)}\n")
        except Exception as error:
            answers.write(f"error {_reason(error)}\n")
    answers.flush()
    os._exit(0)  # no system's own clean-up: some take seconds, some crash


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]


if __name__ == "__main__":
    main()
