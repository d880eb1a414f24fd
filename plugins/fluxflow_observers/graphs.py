"""Observer `graphs`: charts of all that was logged, at the end of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

from fluxflow_registry import hookimpl

from .files import write_whole

if TYPE_CHECKING:
    from fluxflow_registry.lifecycle import RunView

    from .series import StepLog

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
    def run_ended(self, run: RunView) -> None:
        """Draw all charts; matplotlib is imported here alone."""
        from .series import read_run

        write_graphs(read_run(run.folder), run.folder / "graph")


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
