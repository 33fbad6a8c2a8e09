"""One case: all systems are checked against float64, then those that are right are timed in turns."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np

from . import machine, reference
from .cases import Case
from .hush import hush
from .process import Failed, Peer, write_case
from .reference import REDUCED, RIGHT, Verdict
from .statistics import calls_for, turns

FAILED = "failed"


@dataclasses.dataclass
class Settings:
    rounds: int
    seconds: float  # each system's turn of a round lasts at least so long
    seed: int
    executables: dict[str, str]
    cache_size: int
    say: Callable[[str], None]
    hush: str = ""  # see hush.py


@dataclasses.dataclass
class Outcome:
    """What became of one system in one case."""

    case: Case
    system: str
    status: str = FAILED  # RIGHT, REDUCED, WRONG or FAILED
    reason: str = ""  # why there are no times
    about: str = ""
    variant: str = ""
    verdict: Verdict | None = None
    peak_bytes: int | None = None
    copies: int = 1
    rounds: list[dict[str, float]] = dataclasses.field(
        default_factory=list
    )  # iterations, seconds, cpu_seconds
    restless: bool = False  # some thread of it did not sleep while another system ran
    refused: dict[str, str] = dataclasses.field(default_factory=dict)  # variant -> why it was not taken


def measure(case: Case, systems: list[str], settings: Settings) -> list[Outcome]:
    """Outcomes in the order of systems. Needs no system to work: what fails says why."""
    memory = machine.available_memory()
    copies = machine.copies_of(case.kv_bytes, settings.cache_size, memory, len(systems)) if case.cold else 1
    outcomes = [Outcome(case, name, copies=copies) for name in systems]
    with tempfile.TemporaryDirectory(prefix="bench_peers-") as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        arrays = reference.make_arrays(case, settings.seed)
        reference.save(folder, arrays)
        write_case(folder, case, copies)
        rows = reference.checked_rows(case)
        exact = reference.attention(case, arrays, rows)
        del arrays
        running: list[tuple[Outcome, Peer]] = []
        for outcome in outcomes:
            try:
                peer = Peer(
                    outcome.system,
                    folder,
                    case.threads,
                    machine.pick_cpus(case.threads),
                    memory * 2 // 3,
                    settings.executables.get(outcome.system),
                )
                stack.callback(peer.close)
                outcome.about = peer.ask("about")["about"]
                _choose(outcome, peer, folder, exact, rows, settings.seconds)
                if outcome.status not in (RIGHT, REDUCED):
                    peer.close()
            except Failed as failure:
                outcome.status, outcome.reason = FAILED, str(failure)
            settings.say(_progress(outcome))
            if outcome.status in (RIGHT, REDUCED):
                running.append((outcome, peer))
        _time(running, settings)
    return outcomes


def _progress(outcome: Outcome) -> str:
    found = outcome.verdict if outcome.status in (RIGHT, REDUCED) else f"{outcome.status}: {outcome.reason}"
    return f"  {outcome.system:<12} {outcome.variant + ': ' if outcome.variant else ''}{found}"


def _choose(
    outcome: Outcome,
    peer: Peer,
    folder: pathlib.Path,
    exact: np.ndarray,
    rows: np.ndarray,
    seconds_each: float,
) -> None:
    """Checks all variants and leaves the fastest open, of those that are right, else of less precision."""
    case = outcome.case
    checked: list[tuple[bool, float, str, Verdict, int | None]] = []
    wrong: Verdict | None = None
    for variant in peer.ask("list")["variants"]:
        try:
            (folder / "o.bin").unlink(missing_ok=True)
            peer.ask("open", variant)
            peak_bytes = peer.ask("run").get("peak_bytes")
            result = np.fromfile(folder / "o.bin", np.float32).reshape(reference.shapes(case)["o"])
            verdict = reference.judge(case.precision, result, exact, rows)
            if verdict.status in (RIGHT, REDUCED):
                calls = calls_for(peer.ask("time", 1)["seconds"], seconds_each)
                seconds = peer.ask("time", calls)["seconds"] / calls
                checked.append((verdict.status != RIGHT, seconds, variant, verdict, peak_bytes))
                continue
            wrong, outcome.refused[variant] = verdict, str(verdict)
        except (Failed, OSError, ValueError) as failure:
            outcome.refused[variant] = str(failure)
            if peer.process.poll() is not None:
                raise Failed(f"{variant}: {failure}") from None
    if checked:
        _, _, outcome.variant, outcome.verdict, outcome.peak_bytes = min(checked, key=lambda entry: entry[:2])
        outcome.status = outcome.verdict.status
        peer.ask("open", outcome.variant)
        peer.ask("time", max(1, outcome.copies if case.cold else 1))  # touches every copy
        return
    if wrong is not None:
        outcome.status, outcome.verdict = reference.WRONG, wrong
    outcome.reason = (
        "; ".join(f"{name}: {reason}" for name, reason in outcome.refused.items()) or "no way to compute this"
    )


def _time(running: list[tuple[Outcome, Peer]], settings: Settings) -> None:
    """The rounds. Before each turn every other system has been seen to sleep."""
    with hush(settings.hush):
        _rounds(running, settings)


def _rounds(running: list[tuple[Outcome, Peer]], settings: Settings) -> None:
    calls: dict[str, int] = {}
    for outcome, peer in list(running):
        try:
            seconds = peer.ask("time", 1)["seconds"]
            for _ in range(2):  # a first short run may be far slower than a longer one
                calls[outcome.system] = calls_for(seconds, settings.seconds)
                if calls[outcome.system] > 1:
                    seconds = peer.ask("time", calls[outcome.system])["seconds"] / calls[outcome.system]
        except Failed as failure:
            _drop(running, outcome, peer, failure)
        outcome.restless |= not _asleep(peer)
    for index in range(settings.rounds):
        for outcome, peer in turns(running, index):
            try:
                answer = peer.ask("time", calls[outcome.system])
                outcome.rounds.append(
                    {
                        "iterations": calls[outcome.system],
                        "seconds": answer["seconds"],
                        "cpu_seconds": answer.get("cpu_seconds", float("nan")),
                    }
                )
            except Failed as failure:
                _drop(running, outcome, peer, failure)
            outcome.restless |= not _asleep(peer)


def _asleep(peer: Peer) -> bool:
    return peer.process.poll() is not None or peer.wait_until_asleep()


def _drop(running: list[tuple[Outcome, Peer]], outcome: Outcome, peer: Peer, failure: Failed) -> None:
    running.remove((outcome, peer))
    outcome.status, outcome.reason, outcome.rounds = FAILED, str(failure), []
