#!/usr/bin/env python3
"""What torch's and flashc's threads cost each other in one process: matmul and attention called in turns, against each
called alone; in milliseconds per call.

    .venv-all/bin/python scripts/measure_thread_pools.py [--threads 2] [--rounds 15]

Three settings, each in a process of its own:
  shared     torch and flashc find the same libgomp.so.1 (by its soname), so there is one pool. The usual case.
  separate   flashc's module bound to a copy of libgomp under another name, as happens with wheels of torch that
             carry a renamed one: two pools, and the threads of each spin for a while after their work is done.
  passive    separate, with OMP_WAIT_POLICY=passive: idle threads sleep at once.
"""

import argparse
import ctypes
import importlib.util
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

NAME, OTHER_NAME = b"libgomp.so.1", b"libgomp-x.so"  # of the same length, to replace one by the other in place


def measure(threads: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of a call, alone and after a call of the other library."""
    import numpy as np
    import torch

    import flashc

    torch.set_num_threads(threads)
    a = torch.randn(768, 768)
    q = np.random.default_rng(0).standard_normal((8, 512, 64), dtype=np.float32)
    calls = {"matmul": lambda: a @ a, "attention": lambda: flashc.attention(q, q, q, num_threads=threads)}
    samples: dict[str, list[float]] = {}

    def timed(what: str, name: str) -> None:
        start = time.perf_counter()
        calls[name]()
        samples.setdefault(f"{name} {what}", []).append((time.perf_counter() - start) * 1e3)

    for _ in range(rounds):
        for name in calls:
            for _ in range(20):
                timed("alone", name)
            time.sleep(0.05)  # let the pool go to sleep before the other's turn
        for _ in range(20):
            for name in calls:
                timed("in turns", name)
    maps = pathlib.Path("/proc/self/maps").read_text(encoding="utf-8")
    runtimes = {line.split("/")[-1] for line in maps.splitlines() if "libgomp" in line}
    return {**{what: statistics.median(times) for what, times in samples.items()}, "runtimes": len(runtimes)}


def separate(folder: pathlib.Path) -> dict[str, str]:
    """A copy of the package bound to a renamed copy of libgomp; the environment that imports it."""
    import flashc

    package = folder / "flashc"
    shutil.copytree(pathlib.Path(flashc.__file__).parent, package)
    module = next(package.glob("_core*.so"))
    module.write_bytes(module.read_bytes().replace(NAME, OTHER_NAME))
    ctypes.CDLL(NAME.decode())
    maps = pathlib.Path("/proc/self/maps").read_text(encoding="utf-8")
    library = next(line.split()[-1] for line in maps.splitlines() if NAME.decode() in line)
    (folder / OTHER_NAME.decode()).write_bytes(pathlib.Path(library).read_bytes().replace(NAME, OTHER_NAME))
    return {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(folder)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.threads, options.rounds)))
        return
    missing = [name for name in ("torch", "flashc") if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"{missing[0]} is not installed here: take .venv-all/bin/python (scripts/test --all makes it)")
    with tempfile.TemporaryDirectory() as folder:
        other = separate(pathlib.Path(folder))
        settings = {"shared": {}, "separate": other, "passive": {**other, "OMP_WAIT_POLICY": "passive"}}
        for name, env in settings.items():
            command = [sys.executable, __file__, "--worker", f"--threads={options.threads}",
                       f"--rounds={options.rounds}"]
            done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=True)
            result = json.loads(done.stdout)
            runtimes = result.pop("runtimes")
            print(f"{name:9} {runtimes} libgomp  ", "   ".join(f"{what} {ms:.2f}" for what, ms in result.items()))


if __name__ == "__main__":
    main()
