#!/usr/bin/env python3
"""What flashc is to reach in speed, and what it reaches on this machine: targets, measured values and verdicts.

    scripts/measure_targets.py                       all targets: a quarter of an hour on an otherwise idle machine
    scripts/measure_targets.py --targets 'decode*'   those whose name matches
    scripts/measure_targets.py --budget 60           those without a value yet, as many as fit in a minute; to go on
    scripts/measure_targets.py --show                measures nothing

Every value is that of `flashc-run bench`: a share of the limit that the same process measured (f32 or bf16
multiply-add peak, read bandwidth), or the times of two commands in turn. The median of the rounds counts. Values are
kept in --record, and a later run adds to them. What is compared with other software comes from scripts/bench_peers,
whose record is --peers: as it comes with flashc, that of the machine which the last line but one names.
Needs build/src/flashc-run and NumPy.
"""

import argparse
import dataclasses
import datetime
import fnmatch
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "build/src/flashc-run"
LENGTHS = [2048, 1500, 1000, 500]  # of sequences that are not of one length

PREFILL = "--heads 8 --seqlen-q 2048 --threads 1"
CAUSAL = "--causal --align top-left"
GROUPED = f"--heads 32 --heads-k 8 --seqlen-q 1024 --head-dim 128 {CAUSAL}"
DECODE = "--seqlen-q 1 --seqlen-k 16384 --head-dim 128 --cold"
CACHE = f"--heads 32 --heads-k 8 {DECODE}"
SHORT = "--batch 16 --heads 12 --seqlen-q 128 --head-dim 64"


class Runner:
    """flashc-run bench in a folder that has the arrays which some targets need."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.made = set()

    def arrays(self, command):
        """Makes the .npy files that a command names."""
        rng = np.random.default_rng(0)
        for name in {word for word in command.split() if word.endswith(".npy")} - self.made:
            if name == "lengths.npy":
                array = np.array(LENGTHS)
            elif name == "cu.npy":
                array = np.cumsum([0, *LENGTHS])
            elif name.startswith("packed"):  # q, k or v
                array = rng.standard_normal((8, sum(LENGTHS), 128), dtype=np.float32)
            else:
                heads = {"bias_head.npy": (8,), "bias_shared.npy": ()}[name]
                array = rng.standard_normal((*heads, 2048, 2048), dtype=np.float32)
            np.save(self.folder / name, array)
            self.made.add(name)

    def bench(self, command, limits=False):
        """The medians over the repeats, as bench's JSON has them, and the limits with so many threads."""
        self.arrays(command)
        words = [PROGRAM, "bench", "--json", *command.split(), *([] if limits else ["--no-limits"])]
        found = json.loads(subprocess.run(words, cwd=self.folder, stdout=subprocess.PIPE, check=True).stdout)
        median = next(e for e in found["benchmarks"] if e.get("aggregate_name") == "median")
        of_threads = [e for e in found["context"]["limits"] if e["threads"] == median["threads"]]
        return median | {"limits": of_threads[0] if of_threads else {}}

    def seconds(self, *commands):
        return sum(self.bench(command)["real_time"] for command in commands) * 1e-6


def shown(value, target, digits):
    """With so many decimals, and as many more as tell it from the target."""
    while digits < 12 and value != target and f"{value:.{digits}f}" == f"{target:.{digits}f}":
        digits += 1
    return f"{value:.{digits}f}"


@dataclasses.dataclass(frozen=True)
class Target:
    """value(runner) is to be at least (or, with most, at most) target. Values are shares of a limit or ratios; with
    seconds they are times. compute_bound: a share of the multiply-add peak that will do as well, the second value."""

    name: str
    target: float
    value: Callable[[Runner], float | tuple[float, float]]
    most: bool = False
    kind: str = "share"
    compute_bound: float | None = None

    def met(self, value, second):
        if self.compute_bound is not None and second is not None and second >= self.compute_bound:
            return True
        return value <= self.target if self.most else value >= self.target

    def text(self, value):
        factor, digits, unit = {"share": (100, 1, " %"), "ratio": (1, 2, ""), "seconds": (1e6, 2, " us")}[self.kind]
        return shown(factor * value, factor * self.target, digits) + unit


def peak(name, target, command):
    return Target(name, target, lambda run: run.bench(command, limits=True)["share_of_fma_peak"])


def avx2_peak(name, target, command):
    def value(run):
        found = run.bench(command, limits=True)
        return found["gflops"] / found["limits"]["avx2_gflops"]

    return Target(name, target, value)


def bandwidth(name, target, command):
    return Target(name, target, lambda run: run.bench(command, limits=True)["share_of_read_bandwidth"])


def at_most(name, target, commands, of, work=1.0):
    """The time of these commands, over that of the others and over how much more work they do."""
    return Target(name, target, lambda run: run.seconds(*commands) / run.seconds(*of) / work, True, "ratio")


def rate_of(name, target, command, of):
    """The time of the other command over that of this one."""
    return Target(name, target, lambda run: run.seconds(of) / run.seconds(command), kind="ratio")


def chunked(name, queries, command):
    """Some queries over the time of one, or bound by arithmetic: three quarters of the peak."""

    def value(run):
        one = run.seconds(command)
        some = run.bench(command.replace("--seqlen-q 1 ", f"--seqlen-q {queries} "), limits=True)
        return some["real_time"] * 1e-6 / one, some["share_of_fma_peak"]

    return Target(name, 1.3, value, True, "ratio", 0.75)


def prefill(dtype, dim, causal=False, more=""):
    return f"{PREFILL} --head-dim {dim} --dtype {dtype}{' ' + CAUSAL if causal else ''}{more}"


def window_work(seqlen, window):
    """The visible pairs of a causal window over those of plain causal."""
    hidden = (seqlen - window) * (seqlen - window + 1) // 2
    return 1 - hidden / (seqlen * (seqlen + 1) // 2)


def speed_targets():
    """Plain attention."""
    for dim, full, causal in ((32, 0.85, 0.80), (64, 0.90, 0.87), (128, 0.90, 0.87), (256, 0.90, 0.87)):
        yield peak(f"f32 full d{dim}", full, prefill("f32", dim))
        yield peak(f"f32 causal d{dim}", causal, prefill("f32", dim, True))
    for dim in (40, 80, 96, 112):
        yield peak(f"f32 full d{dim}", 0.85, prefill("f32", dim))
    yield peak("f32 full d192v128", 0.85, prefill("f32", 192, more=" --head-dim-v 128"))
    for dim, full, causal in ((64, 0.77, 0.70), (128, 0.85, 0.78)):
        yield peak(f"bf16 full d{dim}", full, prefill("bf16", dim))
        yield peak(f"bf16 causal d{dim}", causal, prefill("bf16", dim, True))
    for dim in (64, 128):
        for causal in (False, True):
            name = f"f16 {'causal' if causal else 'full'} d{dim}: rate, of f32's"
            yield rate_of(name, 0.95, prefill("f16", dim, causal), prefill("f32", dim, causal))
    yield peak("f32 short d64 h12 B16 L128", 0.75, f"{SHORT} --threads 1")
    for causal, target in ((False, 0.85), (True, 0.80)):
        for dim in (64, 128):
            name = f"f32_avx2 {'causal' if causal else 'full'} d{dim}, of 256-bit peak"
            yield avx2_peak(name, target, prefill("f32", dim, causal, " --kernel f32_avx2"))
    for name, shape in (
        ("f32 full d64", "--heads 8 --seqlen-q 2048 --head-dim 64"),
        ("f32 causal d128", f"--heads 8 --seqlen-q 2048 --head-dim 128 {CAUSAL}"),
        ("f32 causal d128 h32k8", GROUPED),
        ("bf16 causal d128 h32k8", f"{GROUPED} --dtype bf16"),
        ("f32 short d64", SHORT),
    ):
        yield rate_of(f"two threads, {name}: times one", 1.9, f"{shape} --threads 2", f"{shape} --threads 1")
    smallest = "--heads 1 --seqlen-q 1 --seqlen-k 1 --head-dim 1 --threads 1"
    yield Target("smallest call", 1e-6, lambda run: run.seconds(smallest), True, "seconds")


def decode_targets():
    """K and V from memory, two threads."""
    for dtype in ("f32", "bf16", "f16"):
        yield bandwidth(f"decode {dtype} h32k8 L16384", 0.85, f"{CACHE} --dtype {dtype} --threads 2")
        for name, shape in (
            ("h8k1 L16384", f"--heads 8 --heads-k 1 {DECODE}"),
            ("h32k8 B8 L2048", f"--batch 8 {CACHE}".replace("16384", "2048")),
        ):
            yield bandwidth(f"decode {dtype} {name}", 0.85, f"{shape} --dtype {dtype} --threads 2")
        for queries in (4, 16):
            name = f"decode {dtype} h32k8 L16384, {queries} queries: times one"
            yield chunked(name, queries, f"{CACHE} --dtype {dtype} --threads 2")
    for cache in ("i8", "q8_0"):
        for group, target in ((1, 0.75), (2, 0.75), (4, 0.50)):
            shape = f"--heads {8 * group} --heads-k 8 {DECODE} --cache-dtype {cache} --threads 2"
            yield bandwidth(f"decode {cache} h{8 * group}k8 L16384", target, shape)


def feature_targets():
    """Features, one thread, against the same work without them."""
    for dim in (64, 128):
        causal = f"--heads 4 --seqlen-q 8192 --head-dim {dim} --threads 1 --repeats 5 {CAUSAL}"
        name = f"window 1024 at 8192, d{dim}: time, of its share of causal's"
        yield at_most(name, 1.25, [f"{causal} --window 1023,-1"], [causal], window_work(8192, 1024))
    d128 = "--heads 8 --head-dim 128 --threads 1"
    uneven = [f"{d128} --seqlen-q {n}" for n in LENGTHS]
    lengths = f"--batch 4 {d128} --seqlen-q 2048 --seqlens-q lengths.npy --seqlens-k lengths.npy"
    yield at_most("lengths: time, of plain calls'", 1.1, [lengths], uneven)
    packed = "-q packed_q.npy -k packed_k.npy -v packed_v.npy --cu-seqlens-q cu.npy --cu-seqlens-k cu.npy --threads 1"
    yield at_most("packed: time, of plain calls'", 1.1, [packed], uneven)
    batch = f"--batch 4 {d128} --seqlen-q 1024"
    yield at_most("packed, one length: time, of the plain call's", 1.1, [f"{batch} --packed"], [batch])
    one_thread = f"{CACHE} --threads 1"
    for page in (16, 256):
        for name, shape in (
            ("f32 full d128", prefill("f32", 128)),
            ("bf16 full d128", prefill("bf16", 128)),
            ("decode f32", one_thread),
            ("decode bf16", f"{one_thread} --dtype bf16"),
        ):
            name = f"pages of {page}, {name}: time, of the plain call's"
            yield at_most(name, 1.1, [f"{shape} --page-size {page}"], [shape])
    for dim in (64, 128):
        plain = prefill("f32", dim)
        for bias in ("head", "shared"):
            name = f"bias ({bias}), d{dim}: time, of no bias"
            yield at_most(name, 1.12, [f"{plain} --bias bias_{bias}.npy"], [plain])
        yield at_most(f"softcap, d{dim}: time, of no softcap", 1.35, [f"{plain} --softcap 30"], [plain])


# Times the best of the other systems (or a named one) in a case of scripts/bench_peers; the first pattern that matches.
PEER_TARGETS = (
    ("f32/full/d64/h12/*", 1.3, ""),
    ("f32/window1024/*", 5.0, "torch"),
    ("*/decode/*", 2.0, ""),
    ("f32/full/*", 1.05, ""),
    ("f32/bias/*", 1.05, ""),
    ("f32/shared-bias/*", 1.05, ""),
    ("f32/causal/*", 1.35, ""),
    ("bf16/full/d64/*", 1.1, ""),
    ("bf16/full/*", 1.2, ""),
    ("bf16/causal/*", 2.0, ""),
    ("f16/*", 1.3, ""),
)


def peer_rows(file):
    """(name, target, value, met) of every case of the table that has a target."""
    record = json.loads(file.read_text())
    table = {name for name, case in record["context"]["cases"].items() if "table" in case["groups"]}
    seconds = {}
    for entry in record["benchmarks"]:
        if entry.get("aggregate_name") == "median" and entry["status"] == "right":
            seconds.setdefault(entry["case"], {})[entry["system"]] = entry["real_time"]
    for case, systems in seconds.items():
        target, only = next(((t, o) for p, t, o in PEER_TARGETS if fnmatch.fnmatchcase(case, p)), (None, ""))
        others = {name: s for name, s in systems.items() if name != "flashc" and only in ("", name)}
        if target is None or not others or "flashc" not in systems or case not in table:
            continue
        best = min(others, key=others.get)
        ratio = others[best] / systems["flashc"]
        yield f"{case}, times {best}", f"{target:.2f}", shown(ratio, target, 2), ratio >= target


def peer_source(file):
    """Where the rows of peer_rows() were measured, which need not be here."""
    context = json.loads(file.read_text())["context"]
    return f"{context['cpu_name']}, {context['date'][:10]}, {context['systems']['flashc']}"


def measure(targets, record, runner, options):
    """One target after the other, its rounds together; every value is on disk before the next one is measured."""
    start = time.monotonic()
    for target in targets:
        if time.monotonic() - start > options.budget:
            print("the budget is used up: run again to go on", file=sys.stderr)
            return
        values = [target.value(runner) for _ in range(options.rounds)]
        pairs = [v if isinstance(v, tuple) else (v, None) for v in values]
        record[target.name] = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "values": [first for first, _ in pairs],
            "second": [second for _, second in pairs if second is not None],
        }
        options.record.parent.mkdir(parents=True, exist_ok=True)
        options.record.write_text(json.dumps(record, indent=1) + "\n")
        print(f"{target.name}: {', '.join(target.text(v) for v, _ in pairs)}", file=sys.stderr, flush=True)


def print_table(targets, record, peers):
    rows = []
    for target in targets:
        limit = ("at most " if target.most else "at least ") + target.text(target.target)
        limit += f" or {100 * target.compute_bound:.0f} % of peak" if target.compute_bound else ""
        found = record.get(target.name)
        if found is None:
            rows.append((target.name, limit, "not measured", ""))
            continue
        value = statistics.median(found["values"])
        second = statistics.median(found["second"]) if found["second"] else None
        share = f" ({shown(100 * second, 100 * target.compute_bound, 1)} % of peak)" if second is not None else ""
        rows.append((target.name, limit, target.text(value) + share, "met" if target.met(value, second) else "missed"))
    if peers.is_file():
        rows += [(name, f"at least {target}", value, "met" if met else "missed")
                 for name, target, value, met in peer_rows(peers)]
    widths = [max(len(row[i]) for row in [*rows, ("", "target", "measured", "verdict")]) for i in range(4)]
    for row in [("", "target", "measured", "verdict"), tuple("-" * w for w in widths), *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
    verdicts = [row[3] for row in rows]
    if peers.is_file():
        print(f"\n'times' another system: as recorded in {peers}, on {peer_source(peers)}")
    print(f"\n{verdicts.count('met')} met, {verdicts.count('missed')} missed, {verdicts.count('')} not measured")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", action="append", metavar="PATTERN", help="names to measure; may be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="no new target is begun after so long")
    parser.add_argument("--record", type=pathlib.Path, default=ROOT / "build/targets.json", metavar="FILE",
                        help="default build/targets.json")
    parser.add_argument("--peers", type=pathlib.Path, default=ROOT / "data/peers/bench_peers.json", metavar="FILE",
                        help="a record of scripts/bench_peers; default data/peers/bench_peers.json")
    parser.add_argument("--show", action="store_true", help="only print what is recorded")
    options = parser.parse_args()
    targets = [*speed_targets(), *decode_targets(), *feature_targets()]
    record = json.loads(options.record.read_text()) if options.record.is_file() else {}
    wanted = [t for t in targets if not options.targets or any(fnmatch.fnmatchcase(t.name, p) for p in options.targets)]
    if options.budget is not None:
        wanted = [t for t in wanted if t.name not in record]
    else:
        options.budget = float("inf")
    if not options.show:
        with tempfile.TemporaryDirectory() as folder:
            measure(wanted, record, Runner(folder), options)
    print_table(targets, record, options.peers)


if __name__ == "__main__":
    main()
