"""python -m peers: what scripts/bench_peers runs once everything is installed."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import time
from typing import Any

from .options import parse

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _absent(folder: pathlib.Path) -> dict[str, str]:
    """System -> why it could not be installed, as scripts/bench_peers left it."""
    return {file.name: file.read_text().strip() for file in sorted(folder.glob("*"))}


def _systems(options: argparse.Namespace, absent: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """The systems to run, flashc first, and the executables among them."""
    from .systems import NAMES

    executables = dict(entry.split("=", 1) for entry in options.executable)
    known = [*NAMES, *executables]
    wanted = options.systems.split(",") if options.systems else known
    unknown = [name for name in wanted if name not in known]
    if unknown:
        sys.exit(f"bench_peers: error: unknown system {unknown[0]!r}: expected some of {', '.join(known)}")
    return [name for name in known if name in wanted and name not in absent], executables


def _limits(options: argparse.Namespace, cases: list[Any]) -> list[dict[str, Any]]:
    from . import machine

    from .hush import hush

    if options.no_limits:
        return []
    counts = sorted({case.threads for case in cases})
    with hush(options.hush):
        return [machine.limits(str(ROOT / "build/src/flashc-run"), threads) for threads in counts]


def _run(options: argparse.Namespace, file: pathlib.Path) -> dict[str, Any]:
    """Measures; after each case the file has all that is known."""
    from . import document, machine
    from .cases import all_cases, select
    from .measure import Settings, measure

    absent = _absent(ROOT / ".venv-peers/absent")
    systems, executables = _systems(options, absent)
    cases = select(all_cases(options.quick), options.cases, len(machine.pick_cpus(1 << 20)))
    if not cases:
        sys.exit("bench_peers: error: no case matches (--list names them)")
    old = json.loads(file.read_text()) if options.resume and file.is_file() else None
    if old and not options.again:
        cases = [case for case in cases if case.name not in old["context"]["cases"]]
        if not cases:
            return old
    context = machine.describe()
    seconds = min(options.seconds, 0.002) if options.quick else options.seconds
    # Unknown: as large as most are. Quick runs measure nothing that a cache could spoil.
    cache = 0 if options.quick else max((entry["size"] for entry in context["caches"]), default=32 << 20)
    settings = Settings(
        options.rounds,
        seconds,
        options.seed,
        executables,
        cache,
        lambda text: print(text, file=sys.stderr, flush=True),
        options.hush,
    )
    context |= {"rounds": options.rounds, "seconds": seconds, "seed": options.seed}
    if old:
        try:
            document.check_same_terms(old, context)
        except ValueError as error:
            sys.exit(f"bench_peers: error: --resume: {error}")
    limits = _limits(options, cases)
    outcomes: list[Any] = []
    start = time.monotonic()
    for index, case in enumerate(cases):
        if time.monotonic() - start > options.budget:
            settings.say("the budget is used up; --resume goes on")
            break
        settings.say(f"[{index + 1}/{len(cases)}] {case.name}")
        outcomes += measure(case, systems, settings)
        record = _record(context, systems, absent, limits, outcomes, old)
        file.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
    limits = machine.best_of(limits + _limits(options, cases))
    return _record(context, systems, absent, limits, outcomes, old)


def _record(
    context: dict[str, Any],
    systems: list[str],
    absent: dict[str, str],
    limits: list[dict[str, Any]],
    outcomes: list[Any],
    old: dict[str, Any] | None,
) -> dict[str, Any]:
    from . import document, machine

    named = {name: f"{name}: absent: {absent[name]}" for name in absent}
    for name in systems:
        told = next((outcome.about for outcome in outcomes if outcome.system == name and outcome.about), "")
        named[name] = (
            told or f"{name}: does not start: {next(o.reason for o in outcomes if o.system == name)}"
        )
    record = document.make(context | {"systems": named, "limits": machine.best_of(limits)}, outcomes)
    return document.merge(old, record) if old else record


def main() -> None:
    options = parse()
    if options.list:
        from .cases import all_cases, select

        print(*(case.name for case in select(all_cases(options.quick), options.cases, 1 << 20)), sep="\n")
        return
    folder = pathlib.Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    if options.redraw:
        record = json.loads(pathlib.Path(options.redraw).read_text())
    else:
        file = folder / "bench_peers.json"
        record = _run(options, file)
        file.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")

    from . import plots, table

    (folder / "bench_peers.txt").write_text(table.text(record))
    (folder / "bench_peers.md").write_text(table.markdown(record))
    print(table.text(record), table.markdown(record), sep="\n")
    for file in plots.write(record, folder, options.plots):
        print(f"plot: {file}")


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # of `| head`; standard output is flushed again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
