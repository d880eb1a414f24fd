"""Observer `console`: where the run stands, on standard error."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar

from attrs import Factory, define, field, frozen, validators

from fluxflow_registry import Ending, Position, Summary, hookimpl

from .. import formatting as words
from ..metric_names import NAME
from ..step_clock import Clock
from ..terminal import open_console
from .display import Screen, screen_for
from .progress import Tracker, clock

if TYPE_CHECKING:
    from fluxflow_registry.lifecycle import RunView, StepView


@define
class _Watch:
    """What changes while a run is shown."""

    screen: Screen | None = None
    tracker: Tracker | None = None
    began: float = 0.0
    resumed: bool = False
    #: Since when this session is in the step, and whether another has begun it.
    entered: float = 0.0
    begun: bool = False
    clock: Clock = Factory(Clock)
    #: When the progress is shown next; until then a batch costs one look at the clock.
    due: float = 0.0
    #: The last figures of each evaluation, which are told once.
    measured: dict[str, object] = Factory(dict)


@frozen(eq=False)
class Console:
    """Live bars with the time that is left on a terminal, plain lines everywhere else.

    Lines have the form `[HH:MM:SS] Step vae_gan (2/4) | Epoch 5/20 | Batch 127/500 | VAE: 0.0234 |
    KL: 12.45 | G: 0.156 | D: 0.089 | LPIPS: 0.0812 | 3.2s/batch`. Figures are means of the last 20
    logged values; in the line that ends an epoch, means of the epoch. `VAE`, `D` and `Flow` are
    `vae_loss`, `discriminator_loss` and `flow_loss`; `KL`, `LPIPS` and `G` the losses `kl`, `lpips` and
    `*_generator` of any update. Every other metric has its own name, and so have two that would share
    one. What a later step takes is guessed from the present one's pace, hence `~`. The time of a step
    that is over is that of all sessions, evaluations included, as in the table of `report`; without a
    report nothing is known of earlier sessions, and it is the time since the run went on. All goes to
    standard error; NO_COLOR and FORCE_COLOR are honoured.
    """

    default: ClassVar[bool] = True

    every_seconds: float = field(default=10.0, validator=validators.gt(0.0))
    """Seconds between two lines, where there is no terminal."""
    names: dict[str, str] = field(factory=dict, validator=validators.deep_mapping(NAME, NAME))
    """Names by which metrics are shown, such as `{vae/l1: L1}`; they add to the short names or change them."""

    _watch: _Watch = field(init=False, factory=_Watch, repr=False)

    @hookimpl
    def run_started(self, run: RunView, position: Position, resumed: bool) -> None:
        """Say which run this is, and where it goes on."""
        watch = self._watch
        watch.tracker, watch.began, watch.resumed = Tracker(run, self.names), perf_counter(), resumed
        watch.clock.resume(run.folder, resumed)
        steps = len(run.steps)
        self._say(f"Run {run.name}: {words.count(steps, 'step')}, in {run.folder}")
        if resumed and position.step < steps:
            self._say(f"Resumed: goes on with {words.whereabouts(run.steps[position.step], steps, position)}", "yellow")
        elif resumed:
            self._say("Resumed: all steps are done; what is missing is written", "yellow")

    @hookimpl
    def step_started(self, run: RunView, step: StepView, position: Position) -> None:
        """Say what the step is, and put up its progress."""
        size = f"{words.count(step.epochs, 'epoch')} of {words.count(step.batches, 'batch')}"
        trains = ", ".join(sorted(step.trains)) or "nothing"
        self._say(f"STEP {step.index + 1}/{len(run.steps)}: {step.name}, {size}, trains {trains}", "bold")
        tracker, screen = self._tracker(run), self._screen()
        tracker.enter(step, position)
        self._watch.clock.enter(step.name)
        self._watch.entered, self._watch.begun = perf_counter(), position.step_batch > 0
        self._watch.measured.clear()
        screen.begin(tracker)
        self._put_off()

    @hookimpl
    def epoch_started(self, run: RunView, position: Position) -> None:
        """Start the clock of the batches."""
        tracker = self._tracker(run)
        tracker.position = position
        tracker.pace.start(position.run_batch, perf_counter())

    @hookimpl
    def batch_ended(self, run: RunView, position: Position) -> None:
        """Show the progress when it is time to."""
        if perf_counter() >= self._watch.due:
            self._show(run, position)
            self._put_off()

    @hookimpl
    def metrics_logged(self, run: RunView, step: StepView, position: Position, metrics: Mapping[str, float]) -> None:
        """Keep the figures for the next time that they are shown."""
        tracker = self._tracker(run)
        tracker.log(metrics)
        tracker.pace.measure(position.run_batch, perf_counter())
        if position.batch == step.batches:  # what follows may take long
            self._show(run, position)

    @hookimpl
    def evaluated(
        self, run: RunView, step: StepView, position: Position, name: str, metrics: Mapping[str, float]
    ) -> None:
        """Say what was measured, unless the same was said after the last epoch."""
        if self._watch.measured.get(name) == metrics:
            return
        self._watch.measured[name] = dict(metrics)
        epoch, _ = words.placed(step, position)
        head = f"{clock()} {words.heading(step, len(run.steps))} | Epoch {epoch}/{words.planned(step, epoch)}"
        shown = " | ".join(f"{metric}: {words.figure(metric, value)}" for metric, value in metrics.items())
        self._say(f"{head} | Evaluation {name} | {shown}", "green")

    @hookimpl
    def epoch_ended(self, run: RunView, step: StepView, position: Position, summaries: Mapping[str, Summary]) -> None:
        """Say how the epoch went."""
        tracker = self._tracker(run)
        tracker.position = position
        self._say(tracker.line(step, position, {name: summary.mean for name, summary in summaries.items()}))
        self._put_off()

    # Before others draw what they draw at a step's end: the time is that of the report's table.
    @hookimpl(tryfirst=True)
    def step_ended(self, run: RunView, step: StepView, position: Position, ending: Ending) -> None:
        """Take the progress down and say why the step is over, and what it took in all sessions."""
        self._screen().close()
        took = self._took(step.name)
        batches = words.count(position.step_batch, "batch")
        self._say(f"{words.heading(step, len(run.steps))} is over: {ending.reason} | {batches} | {took}")

    @hookimpl
    def warned(self, message: str) -> None:
        """Say it."""
        self._say(f"warning: {message}", "yellow")

    @hookimpl
    def run_interrupted(self, run: RunView, position: Position, reason: str) -> None:
        """Say where the run stands and how it goes on."""
        self._screen().close()
        by = f"stopped by {reason}" if reason else "stopped"
        steps = len(run.steps)
        at = f" in {words.whereabouts(run.steps[position.step], steps, position)}" if position.step < steps else ""
        self._say(f"{by}{at}; checkpoint saved; run the same command to go on", "yellow")

    # Last, so that what other observers report at the end comes before the folder's name.
    @hookimpl(trylast=True)
    def run_ended(self, run: RunView) -> None:
        """Say where everything is, and how long it took."""
        self._screen().close()
        since = " since the run went on" if self._watch.resumed else ""
        self._say(f"Done in {words.duration(perf_counter() - self._watch.began)}{since}: {run.folder}", "bold green")

    def _took(self, step: str) -> str:
        """The time of a step, and how much of it is this session's, where others have had a part in it."""
        clock, here = self._watch.clock, perf_counter() - self._watch.entered
        earlier = clock.seconds.get(step, 0.0)
        clock.enter(None)
        took = words.duration(clock.seconds.get(step, 0.0))
        if earlier:
            return f"{took}, {words.duration(here)} of it since the run went on"
        # Earlier sessions wrote their times down only where they had a report.
        return f"{took} since the run went on" if self._watch.begun else took

    def _say(self, text: str, style: str = "") -> None:
        self._screen().say(text, style)

    def _show(self, run: RunView, position: Position) -> None:
        tracker = self._tracker(run)
        tracker.position = position
        tracker.pace.measure(position.run_batch, perf_counter())
        self._screen().show(tracker)

    def _put_off(self) -> None:
        self._watch.due = perf_counter() + self._screen().interval

    def _tracker(self, run: RunView) -> Tracker:
        if self._watch.tracker is None:
            self._watch.tracker = Tracker(run, self.names)
        return self._watch.tracker

    def _screen(self) -> Screen:
        """The screen; opened by the first message, which may be a warning before the run starts."""
        if self._watch.screen is None:
            self._watch.screen = screen_for(open_console(), self.every_seconds)
            # A run that dies of an error calls no hook; the terminal is given back all the same.
            weakref.finalize(self, self._watch.screen.close)
        return self._watch.screen
