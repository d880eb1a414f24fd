"""Charts of a run as matplotlib figures, and as PNG files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from .metrics import Line, Panel, Series, StepLog, panels_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Points of a line at most: beyond that, each stretch of points is reduced to its minimum and maximum.
POINTS = 2000

#: A line of at least so many points is smoothed, over its faint original; one of at most so many has markers.
SMOOTHED, MARKED = 60, 30

#: A scale is logarithmic if the maximum is more than so many times the minimum.
WIDE = 20.0

#: Kinds that are neither smoothed nor on a logarithmic scale.
LINEAR = ("evaluation", "weight", "rate")

#: Colors that color-blind readers can distinguish too (Okabe and Ito, 2008).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F5F3F", "#444444")

Numbers = NDArray[np.float64]


def charts(logs: Sequence[StepLog]) -> Iterator[tuple[str, Figure]]:
    """Each chart with the name of its file; empty charts are left out."""
    panels = panels_of(logs)
    by_kind = {kind: [panel for panel in panels if panel.kind == kind] for kind in {p.kind for p in panels}}
    kl = by_kind.get("kl", [])
    weights = [
        Panel("weight of the KL divergence (beta)", "weight", [line for line in panel.lines if _is_beta(line.name)])
        for panel in by_kind.get("weight", [])
    ]
    for name, chosen in (
        ("training_losses", by_kind.get("loss", [])),
        ("kl_loss", kl and [*kl, *(panel for panel in weights if panel.lines)]),
        ("learning_rates", by_kind.get("rate", [])),
        ("batch_times", by_kind.get("batch_time", [])),
    ):
        if chosen:
            yield name, chart(chosen, logs, columns=1)
    if panels:
        yield "training_overview", chart(panels, logs, columns=2)


def chart(panels: Sequence[Panel], logs: Sequence[StepLog], columns: int) -> Figure:
    """Panels in one or two columns, over the batches of the run."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(10.0 if columns == 1 else 17.0, 0.7 + 2.8 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    places = [axes for row in grid for axes in row]
    names = step_names(logs, letters=125 if columns == 1 else 90)
    above = 6.0 + 10.0 * (1 + max((row for _, _, row in names), default=-1))
    for number, axes in enumerate(places):
        if number >= len(panels):
            axes.remove()
            continue
        top = number < columns
        plot_panel(axes, panels[number], above=above if top else 6.0)
        mark_steps(axes, logs, names if top else [])
        if number + columns >= len(panels):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("batches of the run")
    return figure


def plot_panel(axes: Axes, panel: Panel, above: float) -> None:
    """One panel: a line for each metric, with a legend beside it and its title so many points above it."""
    axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold", pad=above)
    for number, line in enumerate(panel.lines):
        plot_line(axes, line, COLORS[number % len(COLORS)], noisy=panel.kind not in LINEAR)
    values = np.array([value for line in panel.lines for value in line.values])
    if panel.kind not in LINEAR and len(values) and values.min() > 0 and values.max() / values.min() > WIDE:
        axes.set_yscale("log")
        # A single value next to zero would take most of the height for itself.
        axes.set_ylim(bottom=max(values.min() / 1.5, float(np.percentile(values, 1)) / 3))
    else:
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, fontsize=8, frameon=False)


def plot_line(axes: Axes, line: Line, color: str, noisy: bool) -> None:
    """One metric, a stretch for each step: with markers if its points are few, smoothed if they are many."""
    named = False
    total = "/" not in line.name
    for series in line.stretches:
        at, values = arrays(series)
        finite = np.isfinite(values)
        label = line.name + ("" if finite.any() else " (not finite)")
        label = f" {label}" if label.startswith("_") else label  # a legend omits labels that begin with `_`
        label = label.replace("$", r"\$")  # not a formula
        style: dict[str, Any] = {"color": color, "linewidth": 2.0 if total else 1.3}
        if noisy and len(at) >= SMOOTHED:
            axes.plot(*decimated(at, values), color=color, linewidth=0.6, alpha=0.3, label=f"_{label}")
            at, values = smoothed(*binned(at, values))
        elif len(at) <= MARKED:
            style["marker"], style["markersize"] = "o", 3
        else:
            at, values = decimated(at, values)
        axes.plot(at, values, label=f"_{label}" if named else label, **style)
        named = True


def width(logs: Sequence[StepLog]) -> tuple[float, float]:
    """The batch at which the first step begins, and the number of batches from there to the last."""
    first = logs[0].first
    return first, max(max(log.last for log in logs) - first, 1.0)


def extents(logs: Sequence[StepLog]) -> Iterator[tuple[StepLog, float, float]]:
    """Each step with the batches at which it begins and ends; it begins where the one before ends."""
    start = logs[0].first
    for log in logs:
        yield log, start, log.last
        start = log.last


def step_names(logs: Sequence[StepLog], letters: float) -> list[tuple[str, float, int]]:
    """Each step's name, the center of its label as a share of the width, and the label's row above the panel.

    `letters` fit into the width. A label is centered over its step, within the margins; one that would
    overlap another moves to the next row, and is left out if all three rows are full.
    """
    if not logs:
        return []
    first, span = width(logs)
    ends = [-math.inf] * 3
    found = []
    for log, start, end in extents(logs):
        half = len(log.name) / letters / 2
        middle = max(min(((start + end) / 2 - first) / span, 1.0 - half), half)
        row = next((row for row, right in enumerate(ends) if middle - half > right), None)
        if row is not None:
            found.append((log.name, middle, row))
            ends[row] = middle + half + 1 / letters
    return found


def mark_steps(axes: Axes, logs: Sequence[StepLog], names: Sequence[tuple[str, float, int]]) -> None:
    """Shade every other step, with the names above; a dotted line marks the start of a session."""
    if not logs:
        return
    first, span = width(logs)
    axes.set_xlim(first - 0.01 * span, max(log.last for log in logs) + 0.01 * span)
    for number, (log, start, end) in enumerate(extents(logs)):
        if number:
            axes.axvline(start, color="0.35", linewidth=0.8, linestyle="--", label="_step")
        if number % 2:
            axes.axvspan(start, end, color="0.5", alpha=0.08, linewidth=0, label="_step")
        for at in log.resumed:
            axes.axvline(at, color="0.6", linewidth=0.8, linestyle=":", label="_session")
    for name, middle, row in names:
        axes.annotate(
            name,
            (first + middle * span, 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0.0, 1.0 + 10.0 * row),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            color="0.35",
        )


def arrays(series: Series) -> tuple[Numbers, Numbers]:
    """A series as arrays; values that are not finite become NaN, which is a gap."""
    values = np.array(series.values, dtype=np.float64)
    values[~np.isfinite(values)] = math.nan
    return np.array(series.at, dtype=np.float64), values


def smoothed(at: Numbers, values: Numbers) -> tuple[Numbers, Numbers]:
    """The mean of the finite values around each point, weighted by a triangle; a gap stays a gap."""
    window = np.bartlett(max(5, len(values) // 25) | 1)
    numbers = np.isfinite(values)
    sums, counts = (
        np.convolve(part, window, mode="same") for part in (np.where(numbers, values, 0.0), numbers.astype(np.float64))
    )
    return at, np.where(numbers, sums / np.maximum(counts, 1e-12), math.nan)


def binned(at: Numbers, values: Numbers) -> tuple[Numbers, Numbers]:
    """At most 2000 points: the mean of the finite values of each stretch."""
    if len(at) <= POINTS:
        return at, values
    starts = np.linspace(0, len(at), POINTS, endpoint=False).astype(int)
    numbers = np.isfinite(values)
    counts = np.add.reduceat(numbers.astype(np.float64), starts)
    sums = np.add.reduceat(np.where(numbers, values, 0.0), starts)
    return at[starts], np.where(counts > 0, sums / np.maximum(counts, 1.0), math.nan)


def decimated(at: Numbers, values: Numbers) -> tuple[Numbers, Numbers]:
    """At most 2000 points: minimum and maximum of each stretch, in their order, so that every peak stays."""
    if len(at) <= POINTS:
        return at, values
    kept: list[int] = []
    for part in np.array_split(np.arange(len(at)), POINTS // 2):
        numbers = values[part]
        if np.isfinite(numbers).any():
            kept.extend(sorted({int(part[np.nanargmin(numbers)]), int(part[np.nanargmax(numbers)])}))
        else:
            kept.append(int(part[0]))
    return at[kept], values[kept]


def png(figure: Figure) -> bytes:
    """The figure as PNG."""
    figure.set_dpi(110)
    canvas = FigureCanvasAgg(figure)
    # Rendered once: `savefig` renders a figure with a layout engine twice, with the same pixels.
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    stream = BytesIO()
    Image.fromarray(pixels).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


def _is_beta(name: str) -> bool:
    parts = name.split("/")
    return name in ("kl_beta", "beta") or (len(parts) == 3 and parts[1] in ("kl", "kl_loss")) or "kl/" in name
