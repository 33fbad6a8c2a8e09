"""The record of a run as text: all numbers, and a Markdown table of rates with one row a case."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from .document import Row, advantage, limit_of, rows
from .machine import CACHE_FACTOR
from .reference import REDUCED, RIGHT, WRONG

_HEAD = ("", "median", "spread", "rate", "of limit", "memory", "row error", "")


def seconds_text(seconds: float) -> str:
    factor, unit = next(
        (f, u) for f, u, least in ((1.0, "s", 1.0), (1e3, "ms", 1e-3), (1e6, "us", 0.0)) if seconds >= least
    )
    return f"{seconds * factor:.4g} {unit}"


def bytes_text(count: int | None) -> str:
    if count is None:
        return "unknown"
    return f"{count / 2**10:.0f} KiB" if count < 2**20 else f"{count / 2**20:.1f} MiB"


def rate_text(rate: float) -> str:
    """Three digits, or all before the point."""
    return f"{rate:.0f}" if rate >= 99.5 else f"{rate:.1f}" if rate >= 9.95 else f"{rate:.2f}"


def header(context: dict[str, Any]) -> list[str]:
    """Machine, date, limits, versions."""
    cache = max((cache["size"] for cache in context["caches"]), default=0)
    lines = [
        f"machine    {context['cpu_name']} ({context['cpu_model']}), {context['num_cpus']} CPUs, "
        f"{context['mhz_per_cpu']} MHz, "
        f"last-level cache {cache / 2**20:.0f} MiB",
        f"system     {context['system']}",
        f"date       {context['date']}, load average at the start {context['load_avg'][0]:.2f}",
        f"method     {context['rounds']} interleaved rounds, turns of at least "
        f"{context['seconds'] * 1e3:.0f} ms, seed {context['seed']}",
    ]
    for limit in context["limits"]:
        numbers = [
            (limit.get("fma_gflops"), f"GFLOP/s f32 FMA peak ({limit.get('fma_isa')})"),
            (limit.get("bf16_gflops"), "GFLOP/s bf16 peak"),
            (limit.get("read_gbytes_per_second"), "GB/s read"),
        ]
        lines.append(
            f"limits     {limit['threads']} thread{'s' if limit['threads'] > 1 else ''}: "
            + ", ".join(f"{value:.1f} {name}" for value, name in numbers if value)
        )
    lines += [
        f"{'systems' if index == 0 else '':<10} {text}"
        for index, text in enumerate(context["systems"].values())
    ]
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    error = "" if row.row_error is None else f"{row.row_error:.1e}"
    if row.seconds is None:
        return (row.system, row.status, "", "", "", "", error, row.reason)
    notes = [row.variant] + (["less precision than its type: not ranked"] if row.status == REDUCED else [])
    notes += ["did not sleep while others ran"] if row.restless else []
    share = "" if row.share is None else f"{100 * row.share:.1f} %"
    return (
        row.system,
        seconds_text(row.seconds),
        f"{100 * row.spread:.1f} %",
        f"{rate_text(row.rate)} {row.case.unit}",
        share,
        bytes_text(row.peak_bytes),
        error,
        "; ".join(notes),
    )


def _aligned(table: Sequence[Sequence[str]]) -> Iterable[str]:
    """First and last column to the left, numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in list(zip(*table))[:-1]]
    for first, *middle, last in table:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(middle, widths[1:]))]
        yield "  ".join(["", *cells, last]).rstrip()


def case_lines(of_case: Sequence[Row], limits: Sequence[dict[str, Any]], copies: int) -> list[str]:
    """Everything about one case."""
    case = of_case[0].case
    limit, name = limit_of(case, limits)
    title = case.name + (f"   limit {limit:.1f} {case.unit}, {name}" if limit else "")
    if case.cold:
        noun = "copies" if copies > 1 else "copy"
        title += f"; {copies} {noun} of K and V in turn, {bytes_text(copies * case.kv_bytes)}"
    lines = [title, *_aligned([_HEAD, *map(_cells, of_case)])]
    found = advantage(of_case)
    if found:
        lines.append(f"  flashc / best peer ({found[1]}): {found[0]:.2f}")
    return lines


def text(document: dict[str, Any]) -> str:
    context = document["context"]
    copies = {entry["case"]: entry["copies"] for entry in document["benchmarks"] if "copies" in entry}
    blocks = [header(context)]
    for case, group in itertools.groupby(rows(document), key=lambda row: row.case.name):
        blocks.append(case_lines(list(group), context["limits"], copies.get(case, 1)))
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _entry(row: Row | None) -> str:
    if row is None or row.rate is None:
        return WRONG if row is not None and row.status == WRONG else "–"
    mark = "" if row.status == RIGHT else "~"
    return (
        mark
        + rate_text(row.rate)
        + (f" ({100 * row.share:.0f} %)" if row.system == "flashc" and row.share else "")
    )


def markdown(document: dict[str, Any]) -> str:
    """Rates of plain attention and of features, prefill in GFLOP/s and decode in GB/s of K and V."""
    found = [row for row in rows(document) if {"table", "features"} & set(row.case.groups)]
    systems = list(dict.fromkeys(row.system for row in found))
    blocks = []
    for group, cold, unit in (
        ("table", False, "GFLOP/s of useful work (causal counts half)"),
        ("table", True, "GB/s of K and V, read from memory"),
        ("features", False, "With features, GFLOP/s of useful work (causal counts half, padding not at all)"),
        ("features", True, "With features, GB/s of K and V as they lie, read from memory"),
    ):
        chosen = [row for row in found if group in row.case.groups and row.case.cold == cold]
        if not chosen:
            continue
        lines = [
            unit + ":",
            "",
            "| | " + " | ".join(systems) + " | flashc / best peer |",
            "|---|" + "---|" * (len(systems) + 1),
        ]
        for name, of_case in itertools.groupby(chosen, key=lambda row: row.case.name):
            by_system = {row.system: row for row in of_case}
            ratio = advantage(list(by_system.values()))
            cells = [_entry(by_system.get(system)) for system in systems]
            lines.append(
                f"| {name} | " + " | ".join(cells) + f" | {f'{ratio[0]:.2f} ({ratio[1]})' if ratio else ''} |"
            )
        blocks.append("\n".join(lines))
    notes = [
        "In brackets: share of the limit. –: the system cannot do it. ~: computed with less precision than "
        "the type has, not ranked."
    ]
    if any(row.case.cold for row in found):
        notes.append(
            f"Copies of K and V are used in turn, {CACHE_FACTOR} times the last-level cache together as far "
            "as memory allows."
        )
    return "\n".join(header(document["context"])) + "\n\n" + "\n\n".join([*blocks, *notes]) + "\n"
