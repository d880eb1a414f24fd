"""Observer `console`: the progress of the run, on standard error."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar

from attrs import Factory, define, field, frozen, validators

from fluxflow_registry import Ending, Position, Summary, counted, hookimpl

from ..formatting import NAME, duration, epoch_and_batch, epochs_of, heading, metric_value, whereabouts
from ..terminal import open_console
from ..timing import StepClock
from .progress import PlainLines, Progress, open_display, time_of_day

if TYPE_CHECKING:
    from fluxflow_registry import RunView, StepView


@define
class _ConsoleState:
    """What changes during a run."""

    display: PlainLines | None = None
    progress: Progress | None = None
    started_at: float = 0.0
    resumed: bool = False
    #: When this session entered the step, and whether an earlier one had started it.
    entered_at: float = 0.0
    started_before: bool = False
    clock: StepClock = Factory(StepClock)
    #: When the progress is shown next; until then a batch costs one look at the clock.
    due: float = 0.0
    #: The latest metrics of each evaluation, which are printed once.
    evaluations: dict[str, object] = Factory(dict)


# More than a dozen members: one method for each event of a run.
@frozen(eq=False)
class Console:
    """Shows progress bars with the remaining time on a terminal, and plain lines everywhere else.

    Lines have the form `[HH:MM:SS] Step vae_gan (2/4) | Epoch 5/20 | Batch 127/500 | VAE: 0.0234 |
    KL: 12.45 | G: 0.156 | D: 0.089 | LPIPS: 0.0812 | 3.2s/batch`. Metrics are means of their last 20
    logged values; the line that ends an epoch has `Epoch means` instead. `VAE`, `D` and `Flow` are
    `vae_loss`, `discriminator_loss` and `flow_loss`; `KL`, `LPIPS` and `G` are the losses `kl`, `lpips` and
    `*_generator` of any update. Every other metric keeps its own name, and so do two that would share
    one. The time that later steps take is estimated from the current one, hence `~`. The time of a
    finished step is that of all sessions, evaluations included, as in the table of `report`; without a
    report earlier sessions are unknown, and it is the time since the run resumed. All output goes to
    standard error; NO_COLOR and FORCE_COLOR are honored.
    """

    default: ClassVar[bool] = True

    every_seconds: float = field(default=10.0, validator=validators.gt(0.0))
    """Seconds between two lines, without a terminal."""
    names: dict[str, str] = field(factory=dict, validator=validators.deep_mapping(NAME, NAME))
    """Names by which metrics are shown, such as `{vae/l1: L1}`; they extend or replace the short names."""

    _state: _ConsoleState = field(init=False, factory=_ConsoleState, repr=False)

    @hookimpl
    def run_started(self, run: RunView, position: Position, resumed: bool) -> None:
        """Print which run this is, and where it resumes."""
        state, steps = self._state, len(run.steps)
        state.progress, state.started_at, state.resumed = Progress(run, self.names), perf_counter(), resumed
        state.clock.resume(run, position, resumed)
        self._print(f"Run {run.name}: {counted(steps, 'step')}, in {run.folder}")
        if resumed and position.step < steps:
            self._print(f"Resuming at {whereabouts(run.steps[position.step], steps, position)}", "yellow")
        elif resumed:
            self._print("Resuming: all steps are done; writing what is missing", "yellow")

    @hookimpl
    def step_started(self, run: RunView, step: StepView, position: Position) -> None:
        """Print what the step is, and show its progress."""
        size = f"{counted(step.epochs, 'epoch')} of {counted(step.batches, 'batch')}"
        trains = ", ".join(sorted(step.trains)) or "nothing"
        self._print(f"STEP {step.index + 1}/{len(run.steps)}: {step.name}, {size}, trains {trains}", "bold")
        state, progress = self._state, self._progress(run)
        progress.enter(step, position)
        state.clock.enter(step.name)
        state.entered_at, state.started_before = perf_counter(), position.step_batch > 0
        state.evaluations.clear()
        self._display().begin(progress)
        self._postpone()

    @hookimpl
    def epoch_started(self, run: RunView, position: Position) -> None:
        """Start the timer of the batches."""
        progress = self._progress(run)
        progress.position = position
        progress.timer.start(position.run_batch, perf_counter())

    @hookimpl
    def batch_ended(self, run: RunView, position: Position) -> None:
        """Show the progress if it is due."""
        if perf_counter() >= self._state.due:
            self._update(run, position)
            self._postpone()

    @hookimpl
    def metrics_logged(self, run: RunView, step: StepView, position: Position, metrics: Mapping[str, float]) -> None:
        """Record the metrics for the next time that they are shown."""
        progress = self._progress(run)
        progress.log(metrics)
        progress.timer.measure(position.run_batch, perf_counter())
        if position.batch == step.batches:  # what follows may take long
            self._update(run, position)

    @hookimpl
    def evaluated(
        self, run: RunView, step: StepView, position: Position, name: str, metrics: Mapping[str, float]
    ) -> None:
        """Print the metrics of an evaluation, unless the last epoch printed the same."""
        if self._state.evaluations.get(name) == metrics:
            return
        self._state.evaluations[name] = dict(metrics)
        epoch, _ = epoch_and_batch(step, position)
        head = f"{time_of_day()} {heading(step, len(run.steps))} | Epoch {epoch}/{epochs_of(step, epoch)}"
        values = " | ".join(f"{metric}: {metric_value(metric, value)}" for metric, value in metrics.items())
        self._print(f"{head} | Evaluation {name} | {values}", "green")

    @hookimpl
    def epoch_ended(self, run: RunView, step: StepView, position: Position, summaries: Mapping[str, Summary]) -> None:
        """Print the means of the epoch."""
        progress = self._progress(run)
        progress.position = position
        means = {name: summary.mean for name, summary in summaries.items()}
        self._print(progress.line(step, position, means, "Epoch means"))
        self._postpone()

    # Before other observers write samples at a step's end: the time is that of the report's table.
    @hookimpl(tryfirst=True)
    def step_ended(self, run: RunView, step: StepView, position: Position, ending: Ending) -> None:
        """Remove the progress and print why the step ended, and how long it took in all sessions."""
        self._display().close()
        took, batches = self._time_of(step.name), counted(position.step_batch, "batch")
        self._print(f"{heading(step, len(run.steps))} finished: {ending.reason} | {batches} | {took}")

    @hookimpl
    def warned(self, message: str) -> None:
        """Print the warning."""
        self._print(f"warning: {message}", "yellow")

    @hookimpl
    def run_interrupted(self, run: RunView, position: Position, reason: str) -> None:
        """Print where the run stopped and how to resume it."""
        self._display().close()
        by, steps = f"stopped by {reason}" if reason else "stopped", len(run.steps)
        at = f" in {whereabouts(run.steps[position.step], steps, position)}" if position.step < steps else ""
        self._print(f"{by}{at}; checkpoint saved; rerun the same command to resume", "yellow")

    @hookimpl
    def run_failed(self) -> None:
        """Restore the terminal, before the command prints the error."""
        self._display().close()

    # Last, so that what other observers report at the end comes before the folder's name.
    @hookimpl(trylast=True)
    def run_ended(self, run: RunView) -> None:
        """Print where the results are, and how long the run took."""
        self._display().close()
        since = " since the run resumed" if self._state.resumed else ""
        self._print(f"Done in {duration(perf_counter() - self._state.started_at)}{since}: {run.folder}", "bold green")

    def _time_of(self, step: str) -> str:
        """The time of a step, and this session's part of it if earlier ones contributed."""
        clock, here = self._state.clock, perf_counter() - self._state.entered_at
        earlier = clock.seconds.get(step, 0.0)
        clock.enter(None)
        took = duration(clock.seconds.get(step, 0.0))
        if earlier:
            return f"{took}, {duration(here)} of it since the run resumed"
        # Without a report, earlier sessions recorded no times.
        return f"{took} since the run resumed" if self._state.started_before else took

    def _print(self, text: str, style: str = "") -> None:
        self._display().message(text, style)

    def _update(self, run: RunView, position: Position) -> None:
        progress = self._progress(run)
        progress.position = position
        progress.timer.measure(position.run_batch, perf_counter())
        self._display().update(progress)

    def _postpone(self) -> None:
        self._state.due = perf_counter() + self._display().interval

    def _progress(self, run: RunView) -> Progress:
        if self._state.progress is None:
            self._state.progress = Progress(run, self.names)
        return self._state.progress

    def _display(self) -> PlainLines:
        """The display; the first message opens it, which may be a warning before the run starts."""
        if self._state.display is None:
            self._state.display = open_display(open_console(), self.every_seconds)
            # A run that fails before it starts calls no hook; the terminal is restored all the same.
            weakref.finalize(self, self._state.display.close)
        return self._state.display
