"""The figures of a run as text: `training_summary.txt`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..formatting import count, duration
from .metrics_log import Series, StepLog
from .panels import kind_of

#: Kinds of which each epoch has a row.
BY_EPOCH = ("loss", "kl", "other")


def summary(logs: Sequence[StepLog]) -> str:
    """Every series of every step: first, last, min, max, mean; then min, mean and max of each epoch."""
    parts = ["Training summary", "================", ""]
    total = sum(log.seconds for log in logs)
    parts.append(f"{count(len(logs), 'step')}, {duration(total)} of logged training")
    for log in logs:
        parts += ["", *_step(log)]
    return "\n".join(parts) + "\n"


def _step(log: StepLog) -> list[str]:
    head = f"{log.name}: batches {log.first:,.0f} to {log.last:,.0f}, {count(log.last_epoch, 'epoch')}"
    head += f", {duration(log.seconds)}"
    lines = [head, "-" * len(head)]
    if log.resumed:
        places = ", ".join(f"{at:,.0f}" for at in log.resumed)
        lines.append(f"gone on with after batch {places}")
    if log.torn:
        lines.append(f"{count(log.torn, 'line')} could not be read")
    figures = {**log.metrics, **log.evaluations}
    if log.pace.at:
        figures["seconds_per_batch"] = log.pace
    lines += _table(
        ("figure", "first", "last", "min", "max", "mean", "points", "no number"),
        [_row(name, series) for name, series in figures.items()],
    )
    shown = {name: epochs for name, epochs in log.epochs.items() if kind_of(name) in BY_EPOCH}
    if shown:
        lines += ["", *_epochs(shown)]
    return lines


def _row(name: str, series: Series) -> tuple[str, ...]:
    found = series.finite()
    if not found:
        return (name, *("-" for _ in range(5)), f"{len(series.at):,}", f"{len(series.at):,}")
    figures = (series.values[0], series.values[-1], min(found), max(found), math.fsum(found) / len(found))
    missing = len(series.values) - len(found)
    return (name, *map(_figure, figures), f"{len(series.at):,}", f"{missing:,}" if missing else "")


def _epochs(epochs: Mapping[str, Mapping[int, tuple[float, float, float]]]) -> list[str]:
    rows = [
        (name if number == 0 else "", str(epoch), *map(_figure, figures))
        for name, found in epochs.items()
        for number, (epoch, figures) in enumerate(sorted(found.items()))
    ]
    return _table(("by epoch", "epoch", "min", "mean", "max"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]


def _figure(value: float) -> str:
    return f"{value:.5g}" if math.isfinite(value) else "nan"
