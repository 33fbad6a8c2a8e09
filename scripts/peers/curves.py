"""The lines of the plots: from a record to numbers, without drawing anything."""

from __future__ import annotations

import dataclasses
from typing import Any

from .cases import CURVES, ITEM_SIZE, Case
from .document import limit_of, rows
from .reference import REDUCED

TITLES = {
    "seqlen": "Prefill: rate over sequence length",
    "head_dim": "Prefill: rate over head dimension",
    "batch": "Short sequences: rate over batch size",
    "cache": "Decode: K/V read rate over cache length",
}
X_LABELS = {
    "seqlen": "sequence length (tokens)",
    "head_dim": "head dimension",
    "batch": "batch size (sequences)",
    "cache": "keys in the cache (tokens)",
}


@dataclasses.dataclass
class Panel:
    """One pair of axes: lines of (x, rate), one a system, and the machine's limit."""

    title: str
    unit: str
    limit: float | None
    limit_name: str
    lines: dict[str, list[tuple[int, float]]]


def _panel_of(case: Case, group: str) -> tuple[Any, ...]:
    """Cases with the same of these share axes."""
    varying = {
        "seqlen": ("seqlen_q", "seqlen_k"),
        "cache": ("seqlen_k",),
        "batch": ("batch",),
        "head_dim": ("head_dim", "head_dim_v"),
    }[group]
    fields = dataclasses.asdict(case)
    return tuple(value for name, value in fields.items() if name not in (*varying, "groups"))


def _title(case: Case, group: str) -> str:
    """What the points have in common, in words."""
    heads = f"{case.heads} heads" if case.heads == case.heads_k else f"{case.heads}/{case.heads_k} heads"
    parts = [case.dtype, *([case.kind] if group not in ("cache", "batch") else []), heads]
    parts += [f"d {case.head_dim}"] if group != "head_dim" else []
    parts += [f"L {case.seqlen_k}"] if group in ("head_dim", "batch") else []
    parts += [f"{case.seqlen_q} queries"] if group == "cache" and case.seqlen_q > 1 else []
    return ", ".join([*parts, f"{case.threads} thread{'s' if case.threads > 1 else ''}"])


def panels(document: dict[str, Any], group: str) -> list[Panel]:
    """The panels of one plot that have a line: two points or more. Labels name reduced precision."""
    found: dict[tuple[Any, ...], Panel] = {}
    for row in rows(document):
        if group not in row.case.groups or row.rate is None:
            continue
        key = _panel_of(row.case, group)
        if key not in found:
            limit, name = limit_of(row.case, document["context"]["limits"])
            found[key] = Panel(_title(row.case, group), row.case.unit, limit, name, {})
        name = row.system + (" (reduced precision)" if row.status == REDUCED else "")
        found[key].lines.setdefault(name, []).append((getattr(row.case, CURVES[group]), row.rate))
    for panel in found.values():
        for line in panel.lines.values():
            line.sort()
    order = sorted(found.items(), key=lambda item: list(ITEM_SIZE).index(item[0][0]))  # by dtype, a case's first field
    return [panel for _, panel in order if any(len(line) > 1 for line in panel.lines.values())]
