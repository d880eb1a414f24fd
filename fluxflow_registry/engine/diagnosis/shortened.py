"""A recipe cut to a few batches a step, with everything else in it: what a proof of resumption runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, evolve

from fluxflow_registry.contracts import Ending
from fluxflow_registry.plan.checked import (
    CheckedStep,
    CheckedUpdate,
    ConfiguredComponent,
    EvaluationPlan,
    LateStart,
    RecipePlan,
)
from fluxflow_registry.recipe.schema import OWN

#: Epochs of a step, windows of batches in each, and samples of an evaluation. A step is stopped within its second
#: epoch and killed within its third, so that what is asked after an epoch is asked before, between and after them.
EPOCHS, WINDOWS, SAMPLES = 3, 2, 8

#: Windows of batches from one checkpoint to the next: one of them lies within an epoch.
BETWEEN = 3

#: Hears what a transition said after an epoch, by the name that it has among the parts of its step, and its own self.
Heard = Callable[[str, Ending | None, Any], None]


def cut(checked: RecipePlan) -> RecipePlan:
    """The recipe with steps of 3 x 2 windows of batches, a checkpoint after every third window."""
    return evolve(checked, observers={}, steps=tuple(map(_cut_step, checked.steps)))


def listen(checked: CheckedStep, heard: Heard) -> None:
    """Hear what each transition of a step that is cut says whenever it is asked."""
    for name, part in checked.parts.items():
        if isinstance(part.instance, _Capped):
            part.instance.heard = lambda said, inner, name=name: heard(name, said, inner)


def _cut_step(checked: CheckedStep) -> CheckedStep:
    settings = checked.step.settings
    most = WINDOWS * settings.accumulate
    shorter = evolve(
        settings,
        epochs=EPOCHS,
        max_steps=min(most, settings.max_steps or most),
        checkpoint_every=BETWEEN * settings.accumulate,
        log_every=1,
    )
    return evolve(
        checked,
        step=evolve(checked.step, settings=shorter),
        updates={name: _cut_update(update, shorter.max_steps or most) for name, update in checked.updates.items()},
        until=_capped(checked.until, EPOCHS) if checked.until is not None else None,
        evaluations={name: _cut_evaluation(each) for name, each in checked.evaluations.items()},
    )


def _cut_update(checked: CheckedUpdate, epoch: int) -> CheckedUpdate:
    """What starts late starts with the second epoch, by a condition with the third; lazy losses come more often."""
    starts = {name: _cut_start(start, epoch) for name, start in checked.starts.items()}
    own = str(starts[OWN]) != ""
    losses = {n: _cut_lazy(loss, epoch) if own or str(starts[n]) else loss for n, loss in checked.losses.items()}
    return evolve(checked, starts=starts, losses=losses)


def _cut_start(start: LateStart, epoch: int) -> LateStart:
    condition = _capped(start.condition, EPOCHS - 1) if start.condition is not None else None
    return LateStart(min(start.batch, epoch), condition)


def _cut_lazy(loss: ConfiguredComponent, most: int) -> ConfiguredComponent:
    if loss.entry is None:
        return loss
    settings = evolve(loss.entry.settings, every=min(loss.entry.settings.every, most))
    return evolve(loss, entry=evolve(loss.entry, settings=settings))


def _cut_evaluation(checked: EvaluationPlan) -> EvaluationPlan:
    settings = checked.evaluation.settings
    shorter = evolve(settings, samples=min(SAMPLES, settings.samples), batch_size=min(SAMPLES, settings.batch_size))
    return evolve(checked, evaluation=evolve(checked.evaluation, settings=shorter))


@define(eq=False)
class _Capped:
    """A transition that is asked as ever, but that says yes after a few epochs at the latest."""

    inner: Any
    needs: tuple[str, ...]
    max_epochs: int
    heard: Callable[[Ending | None, Any], None] | None = None

    def __call__(self, epoch: int, **offered: Any) -> Ending | None:
        stated = {"epoch": epoch, **offered}
        ending: Ending | None = self.inner(**{name: stated[name] for name in self.needs})
        if self.heard is not None:
            self.heard(ending, self.inner)
        return (
            ending if ending is not None else (Ending("the proof is long enough") if epoch >= self.max_epochs else None)
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def _capped(until: ConfiguredComponent, epochs: int) -> ConfiguredComponent:
    signature = until.component.signature
    wider: Mapping[str, None] = dict.fromkeys((*signature.needs, "epoch"))
    component = evolve(until.component, signature=evolve(signature, needs=tuple(wider)))
    return evolve(until, component=component, instance=_Capped(until.instance, signature.needs, epochs))
