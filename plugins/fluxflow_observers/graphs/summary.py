"""The metrics of a run as text: `training_summary.txt`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fluxflow_registry import counted

from ..formatting import duration
from .metrics_log import BATCH_SECONDS, Series, StepLog
from .panels import kind_of

#: Kinds with a row for each epoch.
BY_EPOCH = ("loss", "kl", "other")


def summary(logs: Sequence[StepLog]) -> str:
    """Every series of every step: first, last, min, max, mean; then min, mean and max of each epoch."""
    parts = ["Training summary", "================", ""]
    total = sum(log.seconds for log in logs)
    parts.append(f"{counted(len(logs), 'step')}, {duration(total)} of logged training")
    for log in logs:
        parts += ["", *_step(log)]
    return "\n".join(parts) + "\n"


def _step(log: StepLog) -> list[str]:
    head = f"{log.name}: batches {log.first:,.0f} to {log.last:,.0f}, {counted(log.last_epoch, 'epoch')}"
    head += f", {duration(log.seconds)}"
    lines = [head, "-" * len(head)]
    if log.resumed:
        places = ", ".join(f"{at:,.0f}" for at in log.resumed)
        lines.append(f"resumed after batch {places}")
    if log.unreadable:
        lines.append(f"{counted(log.unreadable, 'line')} could not be read")
    metrics = {**log.metrics, **log.evaluations}
    if log.batch_times.at:
        metrics[BATCH_SECONDS] = log.batch_times
    lines += _table(
        ("metric", "first", "last", "min", "max", "mean", "points", "not finite"),
        [_row(name, series) for name, series in metrics.items()],
    )
    shown = {name: epochs for name, epochs in log.epochs.items() if kind_of(name) in BY_EPOCH}
    if shown:
        lines += ["", *_epochs(shown)]
    return lines


def _row(name: str, series: Series) -> tuple[str, ...]:
    found = series.finite()
    if not found:
        return (name, *("-" for _ in range(5)), f"{len(series.at):,}", f"{len(series.at):,}")
    values = (series.values[0], series.values[-1], min(found), max(found), math.fsum(found) / len(found))
    missing = len(series.values) - len(found)
    return (name, *map(_value, values), f"{len(series.at):,}", f"{missing:,}" if missing else "")


def _epochs(epochs: Mapping[str, Mapping[int, tuple[float, float, float]]]) -> list[str]:
    rows = [
        (name if number == 0 else "", str(epoch), *map(_value, values))
        for name, found in epochs.items()
        for number, (epoch, values) in enumerate(sorted(found.items()))
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


def _value(value: float) -> str:
    return f"{value:.5g}" if math.isfinite(value) else "nan"
