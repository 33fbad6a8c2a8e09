"""The record of a run in Google Benchmark's JSON layout: made from outcomes, read back as rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from . import statistics
from .cases import Case, all_cases
from .machine import best_of
from .measure import Outcome
from .reference import REDUCED, RIGHT

_AGGREGATES = {"mean": statistics.mean, "median": statistics.median, "stddev": statistics.stddev}


def limit_of(case: Case, limits: Sequence[dict[str, Any]]) -> tuple[float | None, str]:
    """What bounds the case on this machine, in its unit, and the name of that limit."""
    entry = next((found for found in limits if found["threads"] == case.threads), {})
    if case.cold:
        return entry.get("read_gbytes_per_second"), "read bandwidth"
    if case.dtype == "bf16" and entry.get("bf16_gflops"):
        return entry["bf16_gflops"], "bf16 peak"
    return entry.get("fma_gflops"), "f32 FMA peak"


def _identity(outcome: Outcome, family: int, aggregate: str = "") -> dict[str, Any]:
    run_name = f"{outcome.case.name}/{outcome.system}"
    entry = {
        "name": f"{run_name}_{aggregate}" if aggregate else run_name,
        "family_index": family,
        "per_family_instance_index": 0,
        "run_name": run_name,
        "run_type": "aggregate" if aggregate else "iteration",
        "repetitions": len(outcome.rounds),
        "threads": outcome.case.threads,
    }
    return entry | ({"aggregate_name": aggregate, "aggregate_unit": "time"} if aggregate else {})


def _counters(outcome: Outcome, seconds: float, limit: float | None) -> dict[str, float]:
    rate = outcome.case.work / seconds if seconds > 0 else math.nan
    found = {
        "gflops": outcome.case.flops * 1e-9 / seconds if seconds > 0 else math.nan,
        "kv_gbytes_per_second": outcome.case.kv_bytes * 1e-9 / seconds if seconds > 0 else math.nan,
        "share_of_limit": rate / limit if limit else math.nan,
    }
    return {key: value for key, value in found.items() if math.isfinite(value)}


def _entries(outcome: Outcome, family: int, limit: float | None) -> list[dict[str, Any]]:
    """One entry for each round, then mean, median, stddev; or one that says why there are no times."""
    common: dict[str, Any] = {"case": outcome.case.name, "system": outcome.system, "status": outcome.status}
    if outcome.verdict is not None and math.isfinite(outcome.verdict.row_error):
        common |= {
            "row_error": outcome.verdict.row_error,
            "max_error": outcome.verdict.max_error,
            "rows_checked": outcome.verdict.rows,
        }
    if outcome.status not in (RIGHT, REDUCED):
        return [
            _identity(outcome, family) | common | {"error_occurred": True, "error_message": outcome.reason}
        ]
    common |= {"label": outcome.variant, "copies": outcome.copies, "restless": outcome.restless}
    if outcome.peak_bytes is not None:
        common["peak_rss_growth_bytes"] = outcome.peak_bytes
    entries = []
    times = [(r["seconds"] / r["iterations"], r["cpu_seconds"] / r["iterations"]) for r in outcome.rounds]
    for index, (real, cpu) in enumerate(times):
        entries.append(
            _identity(outcome, family)
            | {
                "repetition_index": index,
                "iterations": outcome.rounds[index]["iterations"],
                "real_time": real * 1e6,
                "cpu_time": cpu * 1e6,
                "time_unit": "us",
            }
            | common
            | _counters(outcome, real, limit)
        )
    for name, function in _AGGREGATES.items():
        real, cpu = (function(column) for column in zip(*times))
        counters = _counters(outcome, real, limit) if name != "stddev" else {}
        entries.append(
            _identity(outcome, family, name)
            | {"iterations": len(times), "real_time": real * 1e6, "cpu_time": cpu * 1e6, "time_unit": "us"}
            | common
            | counters
        )
    return entries


def make(context: dict[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """context: what machine.describe() gives, with limits and systems (name -> version, or why absent)."""
    cases = {outcome.case.name: dataclasses.asdict(outcome.case) for outcome in outcomes}
    entries: list[dict[str, Any]] = []
    for family, outcome in enumerate(outcomes):
        limit, _ = limit_of(outcome.case, context["limits"])
        entries += _entries(outcome, family, limit)
    return {"context": context | {"cases": cases}, "benchmarks": entries}


def check_same_terms(old: dict[str, Any], context: dict[str, Any]) -> None:
    """What is measured in this context may join the record old; ValueError if not."""
    for key in ("cpu_name", "num_cpus", "rounds", "seed"):
        if old["context"][key] != context[key]:
            raise ValueError(f"{key} was {old['context'][key]} in the record, and is {context[key]}")


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """new, and of old the cases that new does not have, in the cases' order; of both, limits are the best."""
    context = new["context"]
    check_same_terms(old, context)
    kept = {name: case for name, case in old["context"]["cases"].items() if name not in context["cases"]}
    entries = [entry for entry in old["benchmarks"] if entry["case"] in kept] + new["benchmarks"]
    order = {case.name: index for index, case in enumerate(all_cases())}
    entries.sort(key=lambda entry: order.get(entry["case"], len(order)))
    families: dict[str, int] = {}
    for entry in entries:
        entry["family_index"] = families.setdefault(entry["run_name"], len(families))
    limits = best_of(old["context"]["limits"] + context["limits"])
    systems = old["context"]["systems"] | context["systems"]
    merged = context | {"cases": kept | context["cases"], "limits": limits, "systems": systems}
    return {"context": merged, "benchmarks": entries}


@dataclasses.dataclass(frozen=True)
class Row:
    """One system in one case, read back from a document. Times in seconds, None where there are none."""

    case: Case
    system: str
    status: str
    reason: str
    variant: str
    seconds: float | None  # median
    spread: float | None
    share: float | None
    peak_bytes: int | None
    row_error: float | None
    restless: bool

    @property
    def rate(self) -> float | None:
        return None if self.seconds is None else self.case.work / self.seconds


def rows(document: dict[str, Any]) -> list[Row]:
    cases = {name: Case(**fields) for name, fields in document["context"]["cases"].items()}
    runs: dict[str, list[dict[str, Any]]] = {}
    for entry in document["benchmarks"]:
        if entry["run_type"] == "iteration":
            runs.setdefault(entry["run_name"], []).append(entry)
    found = []
    for entries in runs.values():
        first = entries[0]
        case = cases[first["case"]]
        times = [entry["real_time"] * 1e-6 for entry in entries if "real_time" in entry]
        seconds = statistics.median(times) if times else None
        limit, _ = limit_of(case, document["context"]["limits"])
        found.append(
            Row(
                case,
                first["system"],
                first["status"],
                first.get("error_message", ""),
                first.get("label", ""),
                seconds,
                statistics.spread(times) if times else None,
                case.work / seconds / limit if times and limit else None,
                first.get("peak_rss_growth_bytes"),
                first.get("row_error"),
                first.get("restless", False),
            )
        )
    return found


def advantage(of_case: Sequence[Row], ours: str = "flashc") -> tuple[float, str] | None:
    """How many times faster ours is than the best of the others that are right, and which that is."""
    right = [row for row in of_case if row.status == RIGHT and row.rate is not None]
    mine = next((row for row in right if row.system == ours), None)
    others = [row for row in right if row.system != ours]
    if mine is None or not others:
        return None
    best = max(others, key=lambda row: row.rate)
    return mine.rate / best.rate, best.system
