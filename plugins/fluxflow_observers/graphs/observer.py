"""Observer `graphs`: charts of all that was logged, at the end of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

from fluxflow_registry import Position, hookimpl
from fluxflow_registry.errors import one_line

from ..files import write_whole

if TYPE_CHECKING:
    from fluxflow_registry.lifecycle import RunView

    from .metrics_log import StepLog

#: Everything that is drawn, in this order; a chart of what was never logged is left out.
CHARTS = ("training_losses", "kl_loss", "learning_rates", "batch_times", "training_overview")
SUMMARY = "training_summary.txt"


@frozen(eq=False)
class Graphs:
    """Draws `graph/*.png` and writes `graph/training_summary.txt` at the end of a run, from its JSON lines.

    `training_losses` (a panel for each update), `kl_loss` (with its weight, beta), `learning_rates`,
    `batch_times`, and `training_overview`, which has every figure that was logged. Steps are marked;
    dotted lines are where a run was gone on with. `fluxflow-graphs RUN` does the same at any time.
    """

    default: ClassVar[bool] = True

    @hookimpl(tryfirst=True)
    def run_ended(self, run: RunView, position: Position) -> None:
        """Draw all charts; matplotlib is imported here alone. One that cannot be drawn is a warning."""
        from .metrics_log import read_run

        try:
            write_graphs(read_run(run.folder), run.folder / "graph")
        except OSError:  # the engine's own affair
            raise
        except Exception as error:  # all is trained: a chart is no reason for the run to fail now
            told = f"the charts could not be drawn: {one_line(error)}"
            run.warn(position, f"{told}\n    fluxflow-graphs {run.folder} draws them once that is mended")


def write_graphs(logs: list[StepLog], folder: Path) -> list[Path]:
    """Write all charts and the summary; gives the files. A chart of an earlier time is not left behind."""
    from .charts import charts, png
    from .summary import summary

    if not logs:
        return []
    written = []
    for name, figure in charts(logs):
        path = folder / f"{name}.png"
        write_whole(path, png(figure))
        written.append(path)
    for name in CHARTS:
        if folder / f"{name}.png" not in written:
            (folder / f"{name}.png").unlink(missing_ok=True)
    write_whole(folder / SUMMARY, summary(logs).encode())
    return [*written, folder / SUMMARY]
