"""Observer `report`: the results of a run, as a table and as `results.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen

from fluxflow_registry import hookimpl, to_json, write_file

from .formatting import duration, metric_value
from .timing import FILE, StepClock

if TYPE_CHECKING:
    from rich.table import Table

    from fluxflow_registry import Position, RunView, StepView


@frozen(eq=False)
class Report:
    """Prints every evaluation of every step, and the time each step took; writes `results.json`.

    Steps that start from the same step are branches: an evaluation that several of them have by the same
    name is printed again, with a column for each branch.

    The time of a step lasts from its start to its end, with its evaluations and checkpoints, in all
    sessions of the run. It is written with each checkpoint, so that the time of batches that a crash loses
    is not counted. `finished` marks a complete run.
    """

    default: ClassVar[bool] = True

    _clock: StepClock = field(init=False, factory=StepClock, repr=False)

    @hookimpl
    def run_started(self, run: RunView, position: Position, resumed: bool) -> None:
        """Load the times of earlier sessions."""
        self._clock.resume(run, position, resumed)

    @hookimpl
    def step_started(self, step: StepView) -> None:
        """Start the step's clock."""
        self._clock.enter(step.name)

    # Before other observers write samples at a step's end, as the console does, which prints the same time.
    @hookimpl(tryfirst=True)
    def step_ended(self) -> None:
        """Stop the step's clock."""
        self._clock.enter(None)

    @hookimpl
    def checkpoint_saved(self, run: RunView) -> None:
        """Write the times as of the checkpoint."""
        self._clock.enter(self._clock.step)
        self._write(run, finished=False)

    @hookimpl
    def run_ended(self, run: RunView) -> None:
        """Print the table and write the file."""
        from .terminal import open_console

        self._clock.enter(None)
        self._write(run, finished=True)
        console = open_console()
        console.print(table(run, self._clock.seconds))
        for each in branches(run):
            console.print(each)

    def _write(self, run: RunView, finished: bool) -> None:
        content = {
            "run": run.name,
            "finished": finished,
            "seconds": sum(self._clock.seconds.values()),
            "steps": {
                step.name: {
                    "seconds": self._clock.seconds.get(step.name, 0.0),
                    "evaluations": {name: dict(m) for name, m in run.results.get(step.name, {}).items()},
                }
                for step in run.steps
            },
        }
        text = json.dumps(to_json(content), indent=2, allow_nan=False) + "\n"
        write_file(run.folder / FILE, text.encode())


def table(run: RunView, seconds: Mapping[str, float]) -> Table:
    """All results: a row for each metric, and the time of each step."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=f"Results of {run.name}", title_justify="left")
    for name in ("step", "time", "evaluation", "metric"):
        made.add_column(name)
    made.add_column("value", justify="right")
    for step in run.steps:
        head = [step.name, duration(seconds.get(step.name, 0.0))]
        rows = [
            (name, metric, metric_value(metric, value))
            for name, metrics in run.results.get(step.name, {}).items()
            for metric, value in metrics.items()
        ]
        shown = None
        for name, metric, value in rows or [("", "", "")]:
            made.add_row(*map(Text, (*head, "" if name == shown else name, metric, value)))
            head, shown = ["", ""], name
        made.add_section()
    made.add_row("total", duration(sum(seconds.values())))
    return made


def branches(run: RunView) -> Iterator[Table]:
    """For each step from which several others start: a table with a column for each of those."""
    from rich.table import Table
    from rich.text import Text

    for parent in dict.fromkeys(step.parent for step in run.steps):
        names = [step.name for step in run.steps if step.parent == parent]
        rows = compared([run.results.get(name, {}) for name in names])
        if len(names) < 2 or not rows:
            continue
        title = f"Branches from {parent}" if parent is not None else "Branches from new weights"
        made = Table("evaluation", "metric", title=title, title_justify="left")
        for name in names:
            made.add_column(Text(name), justify="right")
        shown = None
        for name, metric, values in rows:
            cells = ["" if value is None else metric_value(metric, value) for value in values]
            made.add_row(*map(Text, ("" if name == shown else name, metric, *cells)))
            shown = name
        yield made


def compared(results: Sequence[Mapping[str, Mapping[str, float]]]) -> list[tuple[str, str, list[float | None]]]:
    """The evaluations and metrics that at least two branches have, with the values of all branches."""
    keys = dict.fromkeys((name, metric) for result in results for name, metrics in result.items() for metric in metrics)
    rows = [(name, metric, [result.get(name, {}).get(metric) for result in results]) for name, metric in keys]
    return [row for row in rows if sum(value is not None for value in row[2]) > 1]
