"""The command line of scripts/bench_peers."""

from __future__ import annotations

import argparse

DESCRIPTION = """\
Compares flashc with PyTorch, ONNX Runtime, OpenVINO and JAX on this machine. Every system lives in a
process of its own and gets the same arrays; its result is checked against float64; then those that are
right are timed in turns, round after round, while the others sleep. Of several ways to call a system the
fastest that is right is taken."""

EPILOG = """\
Results: text on standard output; in DIR bench_peers.json (Google Benchmark's layout), bench_peers.txt,
bench_peers.md and one plot for each of seqlen, head_dim, batch and cache.

Other software (ggml, say) takes part as an executable that you build yourself: started as EXECUTABLE FOLDER,
it reads FOLDER/case.json and the raw arrays q.bin, k.bin, v.bin, bias.bin, ... ([batch, heads, seqlen, dim],
little-endian; scripts/peers/reference.py has all), says 'ok {}', and answers commands on standard input;
scripts/peers/worker.py has them.

Who lacks a feature gets the same result asked for in its own terms: windows, ALiBi and lengths as a mask or bias,
sinks as one more key, pages copied together, what int8 and q8_0 codes stand for in f32 or bf16. None of the four
has attention on such codes; their rates count the codes' bytes all the same, so that all have done the same work.

A row error is the largest over all rows of |result - exact| / |exact|. A result with the error of less
precision than its type has (f16 computed in bf16) is timed, marked ~ and not ranked; a wrong one is neither
timed nor ranked."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench_peers",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--cases",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only cases whose name, or group (table, features, seqlen, head_dim, batch, cache), matches, as in "
        "'f32/causal/*'; may be repeated",
    )
    add("--systems", default="", metavar="A,B", help="only these systems (default: all)")
    add(
        "--executable",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="one more system: an executable of yours, see below",
    )
    add("--rounds", type=_positive, default=5, metavar="N", help="interleaved rounds (default 5)")
    add("--seconds", type=float, default=0.05, metavar="S", help="least length of a turn (default 0.05)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the arrays (default 0)")
    add(
        "--quick",
        action="store_true",
        help="small cases and short turns: shows that every system works, its times mean nothing",
    )
    add("--no-limits", action="store_true", help="do not measure the FMA peak and the read bandwidth")
    add(
        "--hush",
        default="",
        metavar="COMMAND",
        help="while rounds are timed, 'COMMAND cat' runs: for one that keeps other work off the machine meanwhile",
    )
    add(
        "--resume",
        action="store_true",
        help="go on with the record in --out: only cases that it does not have",
    )
    add("--again", action="store_true", help="with --resume: also those that it has, in their place")
    add("--budget", type=float, default=float("inf"), metavar="S", help="begin no case after so many seconds")
    add("--list", action="store_true", help="print the names of the cases and stop")
    add("--out", default="build/peers", metavar="DIR", help="where results go (default build/peers)")
    add("--plots", choices=("png", "svg"), default="png", help="format of the plots (default png)")
    add(
        "--redraw",
        metavar="FILE",
        help="measure nothing: tables and plots of an earlier run's JSON file, into --out",
    )
    options = parser.parse_args(arguments)
    if not options.seconds >= 0.0:
        parser.error(f"--seconds: expected a number from 0, found {options.seconds}")
    for entry in options.executable:
        name, _, path = entry.partition("=")
        if not (name.isidentifier() and path):
            parser.error(f"--executable: expected NAME=PATH, found {entry!r}")
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value
