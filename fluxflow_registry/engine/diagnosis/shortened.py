"""A recipe shortened to a few batches a step, with everything else in it: what a proof of resumption runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, evolve

from fluxflow_registry.contracts import Ending
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import EvaluationPlan, RecipePlan, StepPlan
from fluxflow_registry.plan.updates import FROM_THE_BEGINNING, AtBatch, LossPlan, Start, UpdatePlan, WhenMet

#: Epochs of a step, windows of batches in each, and samples of an evaluation. A step is stopped within its second
#: epoch and killed within its third, so that transitions are called before, between and after them.
EPOCHS, WINDOWS, SAMPLES = 3, 2, 8

#: Windows of batches from one checkpoint to the next: one of them lies within an epoch.
BETWEEN = 3

#: Receives what a transition returned after an epoch: its name among the components of its step, that, and itself.
OnEnding = Callable[[str, Ending | None, Any], None]


def shortened(plan: RecipePlan) -> RecipePlan:
    """The recipe with steps of 3 x 2 windows of batches, a checkpoint after every third window."""
    return evolve(plan, observers={}, steps=tuple(map(_step, plan.steps)))


def listen(step: StepPlan, on_ending: OnEnding) -> None:
    """Have what each transition of a shortened step returns passed on."""
    for name, component in step.components.items():
        if isinstance(component.instance, _Limited):
            component.instance.on_ending = lambda ending, inner, name=name: on_ending(name, ending, inner)


def _step(step: StepPlan) -> StepPlan:
    settings = step.settings
    most = WINDOWS * settings.accumulate
    shorter = evolve(
        settings,
        epochs=EPOCHS,
        max_steps=min(most, settings.max_steps or most),
        checkpoint_every=BETWEEN * settings.accumulate,
        log_every=1,
    )
    return evolve(
        step,
        entry=evolve(step.entry, settings=shorter),
        updates={name: _update(update, shorter.max_steps or most) for name, update in step.updates.items()},
        until=_limited(step.until, EPOCHS) if step.until is not None else None,
        evaluations={name: _evaluation(each) for name, each in step.evaluations.items()},
    )


def _update(update: UpdatePlan, epoch: int) -> UpdatePlan:
    """What starts late starts with the second epoch, by a condition with the third; lazy losses come more often."""
    late = update.start != FROM_THE_BEGINNING
    losses = {label: _loss(loss, epoch, late) for label, loss in update.losses.items()}
    return evolve(update, start=_start(update.start, epoch), losses=losses)


def _loss(loss: LossPlan, epoch: int, late: bool) -> LossPlan:
    late = late or loss.start != FROM_THE_BEGINNING
    every = min(loss.every, epoch) if late else loss.every
    return evolve(loss, start=_start(loss.start, epoch), every=every)


def _start(start: Start, epoch: int) -> Start:
    if isinstance(start, AtBatch):
        return AtBatch(min(start.batch, epoch))
    return WhenMet(_limited(start.condition, EPOCHS - 1))


def _evaluation(plan: EvaluationPlan) -> EvaluationPlan:
    settings = plan.settings
    shorter = evolve(settings, samples=min(SAMPLES, settings.samples), batch_size=min(SAMPLES, settings.batch_size))
    return evolve(plan, entry=evolve(plan.entry, settings=shorter))


@define(eq=False)
class _Limited:
    """A transition that is called as ever, but that ends the step after a few epochs at the latest."""

    inner: Any
    needs: tuple[str, ...]
    max_epochs: int
    on_ending: Callable[[Ending | None, Any], None] | None = None

    def __call__(self, epoch: int, **others: Any) -> Ending | None:
        arguments = {"epoch": epoch, **others}
        ending: Ending | None = self.inner(**{name: arguments[name] for name in self.needs})
        if self.on_ending is not None:
            self.on_ending(ending, self.inner)
        if ending is None and epoch >= self.max_epochs:
            return Ending("the proof is long enough")
        return ending

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def _limited(transition: ConfiguredComponent, epochs: int) -> ConfiguredComponent:
    signature = transition.component.signature
    wider: Mapping[str, None] = dict.fromkeys((*signature.needs, "epoch"))
    component = evolve(transition.component, signature=evolve(signature, needs=tuple(wider)))
    return evolve(transition, component=component, instance=_Limited(transition.instance, signature.needs, epochs))
