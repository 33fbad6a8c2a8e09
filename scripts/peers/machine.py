"""What machine this is, what it could do at best, and which CPUs and how much memory a comparison may use."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import platform
import subprocess
from typing import Any

_CPU = pathlib.Path("/sys/devices/system/cpu")
# Data that is to come from memory must be this many times the last-level cache.
CACHE_FACTOR = 4


def _line(path: pathlib.Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def caches() -> list[dict[str, Any]]:
    """The caches of the first CPU, as Google Benchmark lists them."""
    found = []
    for folder in sorted((_CPU / "cpu0/cache").glob("index*")):
        size = _line(folder / "size").removesuffix("K")  # "48K"
        sharing = bin(int(_line(folder / "shared_cpu_map").replace(",", "") or "0", 16)).count("1")
        found.append(
            {
                "type": _line(folder / "type"),
                "level": int(_line(folder / "level") or 0),
                "size": int(size or 0) * 1024,
                "num_sharing": sharing,
            }
        )
    return found


def available_memory() -> int:
    """Bytes that can be had without swapping, within a container's limit."""
    lines = dict(line.split(":", 1) for line in _line(pathlib.Path("/proc/meminfo")).splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = (_line(pathlib.Path(f"/sys/fs/cgroup/memory.{name}")) for name in ("max", "current"))
    return min(available, max(0, int(limit) - int(used))) if limit.isdigit() and used.isdigit() else available


def copies_of(kv_bytes: int, cache_size: int, memory: int, systems: int) -> int:
    """How many copies of K and V a system takes in turn so that none is in a cache when its turn comes.

    CACHE_FACTOR times the last-level cache together, but all systems' copies in no more than half of memory;
    at least two, or one where even two do not fit.
    """
    wanted = max(2, -(-CACHE_FACTOR * cache_size // kv_bytes))
    return max(1, min(wanted, memory // 2 // systems // kv_bytes))


def pick_cpus(threads: int) -> set[int]:
    """So many CPUs of those that this process may use, on cores of their own as far as there are enough."""
    firsts, seconds = [], []
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = _line(_CPU / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu)
        (firsts if siblings.replace("-", ",").split(",")[0] == str(cpu) else seconds).append(cpu)
    return set((firsts + seconds)[:threads])


def limits(flashc_run: str, threads: int) -> dict[str, Any]:
    """What flashc-run bench measures on so many threads: fma_gflops, read_gbytes_per_second, ..."""
    shape = ["--heads", str(8 * threads), "--seqlen-q", "512", "--head-dim", "64"]  # work for every thread
    command = [flashc_run, "bench", "--json", "--repeats", "1", "--threads", str(threads), *shape]
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, pick_cpus(threads))
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    finally:
        os.sched_setaffinity(0, mine)
    found = [entry for entry in json.loads(done.stdout)["context"]["limits"] if entry["threads"] == threads]
    if not found:
        raise RuntimeError(f"flashc-run bench could not run {threads} threads at once")
    return found[0]


def best_of(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each number of threads, each of its numbers the largest that was measured.

    A limit is what the machine can do, and other work only ever takes away from it.
    """
    merged: dict[int, dict[str, Any]] = {}
    for entry in measured:
        best = merged.setdefault(entry["threads"], dict(entry))
        for key in ("fma_gflops", "bf16_gflops", "read_gbytes_per_second"):
            numbers = [x for x in (best.get(key), entry.get(key)) if x is not None]
            best[key] = max(numbers) if numbers else None
    return [merged[threads] for threads in sorted(merged)]


def describe() -> dict[str, Any]:
    """Machine and date, with Google Benchmark's keys where it has them."""
    info = _line(pathlib.Path("/proc/cpuinfo")).splitlines()
    fields = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in info if ":" in line]))
    khz = _line(_CPU / "cpu0/cpufreq/cpuinfo_max_freq")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "executable": "scripts/bench_peers",
        "num_cpus": os.cpu_count(),
        "mhz_per_cpu": round(int(khz) / 1000 if khz else float(fields.get("cpu MHz", 0))),
        "cpu_scaling_enabled": _line(_CPU / "cpu0/cpufreq/scaling_governor") not in ("", "performance"),
        "caches": caches(),
        "load_avg": list(os.getloadavg()),
        "library_build_type": "release",
        "cpu_name": fields.get("model name", platform.processor() or "unknown"),
        "cpu_model": " ".join(
            fields.get(key, "?") for key in ("vendor_id", "cpu family", "model", "stepping")
        ),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}, "
        f"Python {platform.python_version()}",
        "memory_bytes": available_memory(),
    }
