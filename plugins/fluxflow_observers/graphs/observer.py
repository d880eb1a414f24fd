"""Observer `graphs`: charts and a summary of everything that was logged, at the end of a run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

from fluxflow_registry import Position, counted, hookimpl, one_line, write_file

from ..formatting import duration
from .metrics import BATCH_SECONDS, Series, StepLog, kind_of, read_run

if TYPE_CHECKING:
    from fluxflow_registry import RunView

#: All charts, in this order; a chart without logged metrics is left out.
CHARTS = ("training_losses", "kl_loss", "learning_rates", "batch_times", "training_overview")
SUMMARY = "training_summary.txt"

#: Kinds of metrics with a row in the summary for each epoch.
BY_EPOCH = ("loss", "kl", "other")


@frozen(eq=False)
class Graphs:
    """Writes the charts `graph/*.png` and `graph/training_summary.txt` at the end of a run, from its JSON lines.

    `training_losses` (a panel for each update), `kl_loss` (with its weight, beta), `learning_rates`,
    `batch_times`, and `training_overview`, which has every logged metric. Steps are marked;
    dotted lines mark where a run resumed. `fluxflow-graphs RUN` does the same at any time.
    """

    default: ClassVar[bool] = True

    @hookimpl(tryfirst=True)
    def run_ended(self, run: RunView, position: Position) -> None:
        """Write all charts; matplotlib is imported only now. A failure is a warning."""
        try:
            write_graphs(read_run(run.folder), run.folder / "graph")
        except OSError:  # the engine handles a full disk
            raise
        except Exception as error:  # training is complete: a chart must not make the run fail now
            message = f"cannot write the charts: {one_line(error)}"
            run.warn(position, f"{message}\n    fix the cause, then run `fluxflow-graphs {run.folder}` to write them")


def write_graphs(logs: list[StepLog], folder: Path) -> list[Path]:
    """Write all charts and the summary, and remove charts that no longer apply; returns the files."""
    from .charts import charts, png

    if not logs:
        return []
    written = []
    for name, figure in charts(logs):
        path = folder / f"{name}.png"
        with warnings.catch_warnings():  # about names that leave little room: such a chart is still a chart
            warnings.simplefilter("ignore", UserWarning)
            write_file(path, png(figure), parents=False)
        written.append(path)
    for name in CHARTS:
        if folder / f"{name}.png" not in written:
            (folder / f"{name}.png").unlink(missing_ok=True)
    write_file(folder / SUMMARY, summary(logs).encode(), parents=False)
    return [*written, folder / SUMMARY]


def summary(logs: Sequence[StepLog]) -> str:
    """Every series of every step: first, last, min, max, mean; then min, mean and max of each epoch."""
    total = f"{counted(len(logs), 'step')}, {duration(sum(log.seconds for log in logs))} of logged training"
    steps = [line for log in logs for line in ("", *_step(log))]
    return "\n".join(["Training summary", "================", "", total, *steps]) + "\n"


def _step(log: StepLog) -> list[str]:
    head = f"{log.name}: batches {log.first:,.0f} to {log.last:,.0f}, {counted(log.epoch_count, 'epoch')}"
    head += f", {duration(log.seconds)}"
    lines = [head, "-" * len(head)]
    if log.resumed:
        lines.append(f"resumed after batch {', '.join(f'{at:,.0f}' for at in log.resumed)}")
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
        rows = [
            (name if number == 0 else "", str(epoch), *map(_value, values))
            for name, epochs in shown.items()
            for number, (epoch, values) in enumerate(sorted(epochs.items()))
        ]
        lines += ["", *_table(("by epoch", "epoch", "min", "mean", "max"), rows)]
    return lines


def _row(name: str, series: Series) -> tuple[str, ...]:
    found = series.finite()
    if not found:
        return (name, *("-" for _ in range(5)), f"{len(series.at):,}", f"{len(series.at):,}")
    values = (series.values[0], series.values[-1], min(found), max(found), math.fsum(found) / len(found))
    missing = len(series.values) - len(found)
    return (name, *map(_value, values), f"{len(series.at):,}", f"{missing:,}" if missing else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    aligned = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in (head, *rows)]
    return ["  ".join(cells).rstrip() for cells in aligned]


def _value(value: float) -> str:
    return f"{value:.5g}" if math.isfinite(value) else "nan"
