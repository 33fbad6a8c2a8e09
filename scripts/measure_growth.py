#!/usr/bin/env python3
"""What attention costs as work grows: rate and memory beyond the tensors, for longer and longer sequences and caches.

    scripts/measure_growth.py [--output FOLDER]    growth.json (Google Benchmark's layout), growth.svg, in two minutes
    scripts/measure_growth.py --budget 60          only points that growth.json does not have yet, for a minute
    scripts/measure_growth.py --redraw             measures nothing

Every point is one `flashc-run bench`. Needs build/src/flashc-run, about 4 GB of memory and a machine that does nothing
else; the picture needs matplotlib.
"""

import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "build/src/flashc-run"

SEQLENS = [256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]
KEYS = [1024, 4096, 16384, 65536, 262144, 1000000]
PREFILL = "--heads 1 --head-dim 64 --causal --align top-left --seqlen-q"
DECODE = "--heads 8 --heads-k 2 --head-dim 128 --seqlen-q 1 --cold --seqlen-k"
# Panel -> line -> options, but for the last one's value.
CURVES = {
    "prefill": {
        f"{dtype}, {threads} thread{'s' if threads > 1 else ''}": f"--dtype {dtype} --threads {threads} {PREFILL}"
        for dtype in ("f32", "bf16")
        for threads in (1, 2)
    },
    "decode": {
        "f32, 2 threads": f"--threads 2 {DECODE}",
        "bf16, 2 threads": f"--dtype bf16 --threads 2 {DECODE}",
        "f32 on a q8_0 cache, 2 threads": f"--cache-dtype q8_0 --threads 2 {DECODE}",
    },
}
POINTS = {"prefill": SEQLENS, "decode": KEYS}
# Of q, k, v and o (or, in decode, of k and v) in f32, for each token.
TENSOR_BYTES = {"prefill": 4 * 64 * 4, "decode": 2 * 2 * 128 * 4}
# A call of more than a second is steady; three repeats of it will do.
LONG, LONG_REPEATS = 32768, "--repeats 3"
# Okabe and Ito's colours, as in the other plots.
STYLES = [("#D55E00", "o"), ("#0072B2", "s"), ("#009E73", "^"), ("#CC79A7", "D")]


def bench(options):
    words = [PROGRAM, "bench", "--json", *options.split()]
    return json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)


def limits():
    """Of one and of two threads."""
    return bench("--heads 16 --seqlen-q 512 --head-dim 64 --threads 2 --repeats 1")["context"]


def best(old, new):
    """Limits are what the machine can do: other work only takes away."""
    merged = {entry["threads"]: entry for entry in new}
    for entry in old:
        known = merged.setdefault(entry["threads"], entry)
        for key in ("fma_gflops", "bf16_gflops", "read_gbytes_per_second"):
            known[key] = max(known[key] or 0.0, entry[key] or 0.0) or None
    return list(merged.values())


def measure(record, budget, save):
    start = time.monotonic()
    there = {(entry["panel"], entry["line"], entry["x"]) for entry in record["benchmarks"]}
    wanted = [(panel, line, x) for panel, lines in CURVES.items() for line in lines for x in POINTS[panel]]
    wanted = [point for point in wanted if point not in there]
    if wanted:
        context = limits()
        record["context"] = context | {"limits": best(record["context"].get("limits", []), context["limits"])}
    for panel, line, x in wanted:
        if time.monotonic() - start > budget:
            print("the budget is used up: run again to go on", file=sys.stderr)
            return
        repeats = f"{LONG_REPEATS} " if panel == "prefill" and x >= LONG else ""
        found = bench(f"--no-limits {repeats}{CURVES[panel][line]} {x}")["benchmarks"]
        family = record["benchmarks"][-1]["family_index"] + 1 if record["benchmarks"] else 0
        record["benchmarks"] += [e | {"family_index": family, "panel": panel, "line": line, "x": x} for e in found]
        save(record)
        median = points(record, panel, line)[x]
        print(f"{panel} {line} {x}: {1e-3 * median['real_time']:.3f} ms", file=sys.stderr, flush=True)


def points(record, panel, line):
    """x -> the medians over the repeats."""
    return {
        entry["x"]: entry
        for entry in record["benchmarks"]
        if (entry["panel"], entry["line"], entry.get("aggregate_name")) == (panel, line, "median")
    }


def print_table(record):
    for panel, lines in CURVES.items():
        print(f"\n| {panel} | " + " | ".join(map(str, POINTS[panel])) + " |")
        print("|---" * (len(POINTS[panel]) + 1) + "|")
        for line in lines:
            found = points(record, panel, line)
            rate = "gflops" if panel == "prefill" else "kv_gbytes_per_second"
            cells = [f"{found[x][rate]:.3g}" if x in found else "" for x in POINTS[panel]]
            print(f"| {line}, {'GFLOP/s' if panel == 'prefill' else 'GB/s'} | " + " | ".join(cells) + " |")
            cells = [f"{1e-3 * found[x]['real_time']:.3g}" if x in found else "" for x in POINTS[panel]]
            print("| time, ms | " + " | ".join(cells) + " |")
            cells = [f"{found[x]['workspace_bytes'] / 1024:.0f}" if x in found else "" for x in POINTS[panel]]
            print("| workspace, KiB | " + " | ".join(cells) + " |")
            growths = [found[x]["peak_rss_growth_bytes"] if x in found else None for x in POINTS[panel]]
            print("| peak growth, KiB | " + " | ".join("" if g is None else f"{g / 1024:.0f}" for g in growths) + " |")


def short(x):
    return f"{x // 1024}k" if x % 1024 == 0 else "1M" if x == 1000000 else str(x)


def label_axes(axes, xs, x_label, y_label):
    axes.set_xscale("log", base=2)
    axes.set_xticks(xs, [short(x) for x in xs])
    axes.minorticks_off()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)


def draw(record, path):
    """Above the rates, below the memory beyond the tensors; prefill to the left, decode to the right."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(2, 2, figsize=(10.4, 7.6), layout="constrained", height_ratios=[1.5, 1])
    texts = {
        "prefill": ("Causal prefill, 1 head of 64", "sequence length (tokens)", "GFLOP/s of useful work", "gflops"),
        "decode": ("Decode, 8 heads on 2 K/V heads of 128", "keys in the cache (tokens)", "GB/s of K and V",
                   "kv_gbytes_per_second"),
    }
    for column, (panel, (title, x_label, y_label, key)) in enumerate(texts.items()):
        rates, memory = grid[0][column], grid[1][column]
        for (line, _), (color, marker) in zip(CURVES[panel].items(), STYLES):
            found = points(record, panel, line)
            xs = [x for x in POINTS[panel] if x in found]
            style = {"color": color, "marker": marker, "markersize": 5, "linewidth": 1.6}
            rates.plot(xs, [found[x][key] for x in xs], label=line, **style)
            memory.plot(xs, [found[x]["peak_rss_growth_bytes"] / 2**20 for x in xs], **style)
        xs = POINTS[panel]
        memory.plot(xs, [x * TENSOR_BYTES[panel] / 2**20 for x in xs], color="0.45", linestyle="--", linewidth=1.2)
        memory.annotate("f32 tensors", (xs[-3], xs[-3] * TENSOR_BYTES[panel] / 2**20), xytext=(-8, 4), ha="right",
                        textcoords="offset points", fontsize=9, color="0.35")
        memory.set_yscale("log")
        memory.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        rates.set_title(title, fontsize=11)
        label_axes(rates, POINTS[panel], "", y_label)
        rates.set_ylim(bottom=0)
        label_axes(memory, POINTS[panel], x_label, "peak beyond the tensors, MiB")
        rates.legend(loc="lower center", bbox_to_anchor=(0.5, -0.28), ncols=2, frameon=False, fontsize=9)
    figure.suptitle("flashc: rate and memory as work grows", fontsize=12, fontweight="bold")
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "data/growth", help="default data/growth")
    parser.add_argument("--budget", type=float, metavar="SECONDS",
                        help="begin no point after so long; go on with those missing")
    parser.add_argument("--redraw", action="store_true", help="table and picture of what is recorded")
    options = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("matplotlib is not installed here, which the picture needs: take .venv-all/bin/python "
                     "(scripts/setup python-all)")
    file = options.output / "growth.json"
    options.output.mkdir(parents=True, exist_ok=True)
    record = {"context": {}, "benchmarks": []}
    if file.is_file() and (options.redraw or options.budget is not None):
        record = json.loads(file.read_text())
    if not options.redraw:
        budget = float("inf") if options.budget is None else options.budget
        measure(record, budget, lambda found: file.write_text(json.dumps(found, indent=1) + "\n"))
    print_table(record)
    draw(record, options.output / "growth.svg")
    print(f"\n{options.output}/growth.svg", file=sys.stderr)


if __name__ == "__main__":
    main()
