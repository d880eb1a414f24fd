"""Observer `graphs`: charts of everything that was logged, at the end of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

from fluxflow_registry import Position, hookimpl, one_line, write_file

if TYPE_CHECKING:
    from fluxflow_registry import RunView

    from .metrics_log import StepLog

#: All charts, in this order; a chart without logged metrics is left out.
CHARTS = ("training_losses", "kl_loss", "learning_rates", "batch_times", "training_overview")
SUMMARY = "training_summary.txt"


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
        from .metrics_log import read_run

        try:
            write_graphs(read_run(run.folder), run.folder / "graph")
        except OSError:  # the engine handles a full disk
            raise
        except Exception as error:  # training is complete: a chart must not make the run fail now
            message = f"the charts could not be written: {one_line(error)}"
            run.warn(position, f"{message}\n    once that is fixed, `fluxflow-graphs {run.folder}` writes them")


def write_graphs(logs: list[StepLog], folder: Path) -> list[Path]:
    """Write all charts and the summary, and remove charts that no longer apply; returns the files."""
    from .charts import charts, png
    from .summary import summary

    if not logs:
        return []
    written = []
    for name, figure in charts(logs):
        path = folder / f"{name}.png"
        write_file(path, png(figure))
        written.append(path)
    for name in CHARTS:
        if folder / f"{name}.png" not in written:
            (folder / f"{name}.png").unlink(missing_ok=True)
    write_file(folder / SUMMARY, summary(logs).encode())
    return [*written, folder / SUMMARY]
