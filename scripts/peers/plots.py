"""Draws the curves with matplotlib."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from .cases import CURVES  # noqa: E402
from .curves import TITLES, X_LABELS, Panel, panels  # noqa: E402

# Okabe and Ito's colours, told apart by colour-blind readers too; markers for grey printers.
_STYLES = {
    "flashc": {"color": "#D55E00", "marker": "o", "linewidth": 2.4, "zorder": 5},
    "torch": {"color": "#0072B2", "marker": "s"},
    "onnxruntime": {"color": "#009E73", "marker": "^"},
    "openvino": {"color": "#CC79A7", "marker": "D"},
    "jax": {"color": "#56B4E9", "marker": "v"},
}
_OTHERS = [
    {"color": "#E69F00", "marker": "P"},
    {"color": "#666666", "marker": "X"},
    {"color": "#B8A000", "marker": "*"},
]
_PANEL_INCHES = (4.3, 3.5)


def _style(name: str, others: list[str]) -> dict[str, Any]:
    system = name.split(" ")[0]
    style = _STYLES.get(system) or _OTHERS[others.index(system) % len(_OTHERS)]
    return {"linewidth": 1.5, "markersize": 5} | style | ({"linestyle": ":"} if name != system else {})


def _draw(axes: Axes, panel: Panel, group: str, others: list[str]) -> None:
    for name, line in panel.lines.items():
        axes.plot(*zip(*line), label=name, **_style(name, others))
    highest = max(rate for line in panel.lines.values() for _, rate in line)
    # A limit far above every line would press them to the bottom.
    if panel.limit and panel.limit < 4 * highest:
        axes.axhline(panel.limit, color="0.35", linestyle="--", linewidth=1.0)
        axes.annotate(
            f"{panel.limit_name} {panel.limit:.0f}",
            (0.01, panel.limit),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=8,
            color="0.35",
        )
        highest = max(highest, panel.limit)
    axes.set_ylim(0, 1.1 * highest)
    ticks = sorted({x for line in panel.lines.values() for x, _ in line})
    axes.set_xscale("log", base=2)
    # A number that the next one would touch is left out (112 before 128).
    crowded = [after < 1.16 * x for x, after in zip(ticks, [*ticks[1:], math.inf])]
    axes.set_xticks(ticks, ["" if close else _short(x) for x, close in zip(ticks, crowded)])
    axes.minorticks_off()
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(X_LABELS[group])
    axes.set_ylabel(panel.unit + (" of useful work" if panel.unit == "GFLOP/s" else " of K and V"))
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def _short(x: int) -> str:
    return f"{x // 1024}k" if x >= 1024 and x % 1024 == 0 else str(x)


def figure(document: dict[str, Any], group: str) -> Figure | None:
    """One plot of a record, or None if it has no curve of that group."""
    found = panels(document, group)
    if not found:
        return None
    names = {name: None for panel in found for name in panel.lines}
    others = [name.split(" ")[0] for name in names if name.split(" ")[0] not in _STYLES]
    width, height = _PANEL_INCHES
    drawing, grid = plt.subplots(
        1, len(found), figsize=(width * len(found), height + 0.9), squeeze=False, layout="constrained"
    )
    handles: dict[str, Any] = {}
    for axes, panel in zip(grid[0], found):
        _draw(axes, panel, group, others)
        drawn, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, drawn))
    context = document["context"]
    drawing.suptitle(TITLES[group], fontsize=12, fontweight="bold")
    order = sorted(handles, key=lambda name: [*_STYLES, *others].index(name.split(" ")[0]))
    where = f"{context['cpu_name']}, {context['date'][:10]}, median of {context['rounds']} interleaved rounds"
    legend = drawing.legend(
        [handles[name] for name in order],
        order,
        loc="outside lower center",
        frameon=False,
        ncols=len(order) if len(found) > 2 or len(order) <= 6 else 4,
        title=where,
        title_fontsize=8,
    )
    legend.get_title().set_color("0.35")
    return drawing


def write(document: dict[str, Any], folder: pathlib.Path, kind: str) -> list[pathlib.Path]:
    """Writes GROUP.png or GROUP.svg for every curve the record has."""
    written = []
    for group in CURVES:
        drawing = figure(document, group)
        if drawing is not None:
            written.append(folder / f"{group}.{kind}")
            drawing.savefig(written[-1], dpi=130)
            plt.close(drawing)
    return written
