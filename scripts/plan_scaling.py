#!/usr/bin/env python3
"""How attention scales with threads, beyond those of this machine, as `flashc-run explain --predict` simulates it; and
how far that is from what is measured here, where it can be.

    scripts/plan_scaling.py [--bandwidth GB/S] [--output FOLDER]    curves for 1 to 128 threads, as JSON and SVG
    scripts/plan_scaling.py --check [--rounds 3]                    a table of predicted and measured times

Needs build/src/flashc-run and NumPy; the picture needs matplotlib, the check a machine that does nothing else.
Predictions are for K and V that come from memory, so they are compared with `flashc-run bench --cold`. A round of the
check predicts and measures once. What counts of the predictions is their median, of what was measured the fastest
round (each the median of ten repeats): other work on the machine only adds.
"""

import argparse
import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "build/src/flashc-run"
MOST_THREADS = 128
TRIES = 20

PREFILL = "--heads 32 --heads-k 8 --seqlen-q 2048 --head-dim 128"
LONG_DECODE = "--seqlen-q 1 --seqlen-k 16384 --head-dim 128"
DECODE = f"--batch 8 --heads 32 --heads-k 8 {LONG_DECODE} --dtype bf16"
# A server's step: four prompts, or pieces of them, and 12 sequences of which each adds one token.
MIXED_QUERIES = [512, 384, 256, 128] + [1] * 12
MIXED_KEYS = [512, 1024, 256, 2048] + [128 + 150 * i for i in range(12)]
MIXED = (
    "-q q.npy -k k.npy -v v.npy --cu-seqlens-q cu_q.npy --cu-seqlens-k cu_k.npy --causal --align bottom-right"
)
CURVES = {
    "prefill, 2,048 tokens": PREFILL,
    "causal prefill, 2,048 tokens": f"{PREFILL} --causal --align top-left",
    "decode, batch 8, 16,384 keys": DECODE,
    "mixed batch: 4 prompts, 12 tokens": MIXED,
}
CHECKS = {
    "f32 full d64 h8 L2048": "--heads 8 --seqlen-q 2048 --head-dim 64",
    "f32 causal d64 h8 L2048": "--heads 8 --seqlen-q 2048 --head-dim 64 --causal --align top-left",
    "f32 full d128 h8 L2048": "--heads 8 --seqlen-q 2048 --head-dim 128",
    "f32 causal d128 h8 L2048": "--heads 8 --seqlen-q 2048 --head-dim 128 --causal --align top-left",
    "f32 causal d128 h32k8 L1024": "--heads 32 --heads-k 8 --seqlen-q 1024 --head-dim 128 --causal --align top-left",
    "f32 full d64 h12 B16 L128": "--batch 16 --heads 12 --seqlen-q 128 --head-dim 64",
    "f32 decode d128 h32k8 L1x16384": f"--heads 32 --heads-k 8 {LONG_DECODE}",
    "bf16 decode d128 h32k8 L1x16384": f"--heads 32 --heads-k 8 {LONG_DECODE} --dtype bf16",
    "f32 decode d128 h8k1 L1x16384": f"--heads 8 --heads-k 1 {LONG_DECODE}",
    "f32 mixed batch d128 h32k8 B16": MIXED,
}
# Okabe and Ito's colours, as in the other plots.
STYLES = [("#D55E00", "o"), ("#0072B2", "s"), ("#009E73", "^"), ("#CC79A7", "D")]


class Runner:
    """flashc-run in a folder that has the mixed batch, packed."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        rng = np.random.default_rng(0)
        for name, heads, lengths in (("q", 32, MIXED_QUERIES), ("k", 8, MIXED_KEYS), ("v", 8, MIXED_KEYS)):
            values = rng.standard_normal((heads, sum(lengths), 128), dtype=np.float32)
            np.save(self.folder / f"{name}.npy", values)
            np.save(self.folder / f"cu_{name}.npy", np.cumsum([0, *lengths]))

    def run(self, command, shape, *options):
        words = [PROGRAM, command, "--json", *shape.split(), *map(str, options)]
        return json.loads(subprocess.run(words, cwd=self.folder, stdout=subprocess.PIPE, check=True).stdout)

    def predict(self, shape, threads, bandwidth=None):
        """Once more, a few times, where other work disturbed it."""
        given = [] if bandwidth is None else ["--bandwidth", bandwidth]
        for _ in range(TRIES):
            found = self.run("explain", shape, "--predict", "--threads", threads, *given)
            if not found["costs"]["disturbed"]:
                return found
            time.sleep(5)
        sys.exit("plan_scaling.py: this machine does other work: nothing can be measured on it now")

    def measure(self, shape, threads):
        """Seconds of the median repeat."""
        entries = self.run("bench", shape, "--cold", "--no-limits", "--threads", threads)["benchmarks"]
        return next(e["real_time"] for e in entries if e.get("aggregate_name") == "median") * 1e-6


def check(runner, rounds, names):
    """Prints the table; returns the largest error."""
    worst = 0.0
    print("| | 1 thread: predicted | measured | error | 2 threads: predicted | measured | error |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        predicted, measured = {1: [], 2: []}, {1: [], 2: []}
        for _ in range(rounds):
            for prediction in runner.predict(CHECKS[name], 2)["predictions"]:
                predicted[prediction["threads"]].append(prediction["seconds"])
            for threads in (1, 2):
                measured[threads].append(runner.measure(CHECKS[name], threads))
        cells = [name]
        for threads in (1, 2):
            foreseen, found = statistics.median(predicted[threads]), min(measured[threads])
            worst = max(worst, abs(foreseen / found - 1))
            cells += [f"{1e3 * foreseen:.3g} ms", f"{1e3 * found:.3g} ms", f"{100 * (foreseen / found - 1):+.1f} %"]
        print("| " + " | ".join(cells) + " |", flush=True)
    return worst


def draw(record, path):
    """Speed-up over one thread, one panel for each bandwidth."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = record["panels"]
    figure, grid = plt.subplots(1, len(panels), figsize=(4.9 * len(panels), 4.6), sharey=True, layout="constrained",
                                squeeze=False)
    ticks = [p["threads"] for p in next(iter(panels[0]["curves"].values()))]
    for axes, panel in zip(grid[0], panels):
        axes.plot(ticks, ticks, color="0.75", linestyle="--", linewidth=1.0, label="ideal")
        for (name, curve), (color, marker) in zip(panel["curves"].items(), STYLES):
            speedup = [curve[0]["seconds"] / p["seconds"] for p in curve]
            axes.plot(ticks, speedup, color=color, marker=marker, markersize=5, linewidth=1.6, label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.set_yticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.set_title(f"memory of {panel['gbytes_per_second']:.0f} GB/s ({panel['source']})", fontsize=10)
        axes.set_xlabel("threads")
        axes.grid(color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("times as fast as one thread")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.suptitle("Predicted scaling of flashc, 32 query heads on 8 K/V heads, head_dim 128", fontsize=12,
                    fontweight="bold")
    legend = figure.legend(handles, labels, loc="outside lower center", frameon=False, ncols=3,
                           title="costs measured with 1 and 2 threads", title_fontsize=8)
    legend.get_title().set_color("0.35")
    figure.savefig(path)


def curves(runner, bandwidth):
    measured = max(runner.predict(shape, 1)["memory"]["gbytes_per_second"] for shape in CURVES.values())
    panels = []
    for source, given in (("as measured here", measured), ("given", bandwidth)):
        panels.append({"source": source, "gbytes_per_second": given, "curves": {}})
        for name, shape in CURVES.items():
            found = runner.predict(shape, MOST_THREADS, given)
            panels[-1]["curves"][name] = found["predictions"]
            print(f"\n{name}, {given:.0f} GB/s: {found['kernel']}, {found['items']} items")
            for p in found["predictions"]:
                print(f"{p['threads']:4} threads {1e3 * p['seconds']:10.3f} ms, balance {100 * p['balance']:3.0f} %, "
                      f"limited by {p['limited_by']}")
    return {"panels": panels}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bandwidth", type=float, default=460.0,
                        help="GB/s of the second panel's memory; default 460: twelve channels of DDR5-4800")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "data/scaling", help="default data/scaling")
    parser.add_argument("--check", action="store_true", help="compare with what is measured here")
    parser.add_argument("--rounds", type=int, default=3, help="of the check; default 3")
    parser.add_argument("--cases", nargs="*", choices=[*CHECKS], default=[*CHECKS], metavar="CASE", help="of the check")
    options = parser.parse_args()
    if not options.check and importlib.util.find_spec("matplotlib") is None:
        parser.error("matplotlib is not installed here, which the picture needs: take .venv-all/bin/python "
                     "(scripts/setup python-all)")
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(folder)
        if options.check:
            worst = check(runner, options.rounds, options.cases)
            print(f"largest error {100 * worst:.1f} %")
            return
        record = curves(runner, options.bandwidth)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "scaling.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(record, options.output / "scaling.svg")
    print(f"\n{options.output}/scaling.svg", file=sys.stderr)


if __name__ == "__main__":
    main()
