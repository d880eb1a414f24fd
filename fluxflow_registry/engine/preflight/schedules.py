"""Schedules before training: learning rates over the planned length of a step, and what is wrong with a curve."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from attrs import frozen
from torch import nn

from fluxflow_registry.contracts import SchedulerExtras
from fluxflow_registry.engine.graph.calls import build
from fluxflow_registry.engine.models.build import build_on_meta, trained_parameters
from fluxflow_registry.engine.training.building import count_as_stepped
from fluxflow_registry.engine.training.late_start import Extent, Starts, intervals
from fluxflow_registry.errors import FluxflowError, Problem, RecipeError, counted, one_line
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import RecipePlan, StepPlan
from fluxflow_registry.plan.updates import UpdatePlan

#: A rise by less than this share of the highest rate does no harm.
TOLERANCE = 0.01

#: Intervals that are simulated at most, in a few microseconds each; of a longer curve only its beginning is judged.
LONGEST = 1_000_000


def try_schedules(plan: RecipePlan) -> list[Problem]:
    """Schedules of rates and weights that do not do what they are for, of a plan whose numbers of batches are known.

    Raises RecipeError with those that would fail during training.
    """
    scheduled = {name for step in plan.steps for update in _scheduled(step) for name in update.trains}
    models = build_on_meta({name: plan.models[name] for name in plan.models if name in scheduled})
    found: list[Problem] = []
    for step in plan.steps:
        found += _endless_warm_ups(step)
        for update in _scheduled(step):
            try:
                found += _update_problems(step, update, models)
            except FluxflowError as error:
                found += error.problems
    failures = [problem for problem in found if problem.code == "component-failed"]
    if failures:
        raise RecipeError(failures)
    return found


def _scheduled(step: StepPlan) -> list[UpdatePlan]:
    return [update for update in step.updates.values() if update.scheduler is not None]


def _endless_warm_ups(step: StepPlan) -> Iterator[Problem]:
    """Losses whose weight is still rising when the step ends."""
    for update in step.updates.values():
        for label, since in Starts(update).since.items():
            warmup, left = update.losses[label].warmup, step.epochs * step.batches - since
            if warmup > left > 0:
                who = f"{update.title(label)} in step `{step.name}` never reaches its full weight"
                message = f"{who}: its `warmup` takes {counted(warmup, 'batch')}, but only {left:,} follow its start"
                hint = ("hint", "shorten the warm-up, or train longer")
                where = update.entry.losses[label].node.at("warmup")
                yield Problem(message, where, [hint], code="not-reached", subject=label)


@frozen
class Curve:
    """The learning rates of an update: for each parameter group those of the plan, and up to two that would follow."""

    groups: Sequence[Sequence[float]]
    planned: int
    #: Whether no setting of any parameter group changes within the plan.
    constant: bool
    #: Why the scheduler fails within the plan.
    error: Exception | None = None


def _update_problems(step: StepPlan, update: UpdatePlan, models: Mapping[str, nn.Module]) -> Iterator[Problem]:
    scheduler = update.scheduler
    assert scheduler is not None
    extras = SchedulerExtras.of(scheduler.instance)
    total = intervals(Extent(step.epochs, step.batches, step.accumulate), Starts(update), extras.interval)
    if total is None:  # it depends on what is measured
        return
    planned = min(total // _epochs_between(step, extras.metric), LONGEST)
    curve = simulate(update, scheduler, list(trained_parameters(models, update.trains).values()), total, planned)
    word = "epoch" if extras.interval == "epoch" else "batch" if step.accumulate == 1 else "optimizer step"
    length = counted(total, word)
    who = f"scheduler `{scheduler.name}` of update `{update.name}` in step `{step.name}`"

    def problem(message: str, hint: str, code: str) -> Problem:
        return Problem(message, scheduler.where, [("hint", hint)], code=code, subject=scheduler.label)

    if curve.error is not None:
        message = f"{who} fails after {counted(len(curve.groups[0]), word)} of {total:,}: {one_line(curve.error)}"
        yield problem(message, f"make the schedule as long as the step: {length}", "component-failed")
    elif curve.constant and total <= LONGEST:
        if total > 1 or word == "epoch":
            rate = " and ".join(f"{rate:g}" for rate in dict.fromkeys(rates[0] for rates in curve.groups))
            message = f"{who} has no effect: the learning rate is {rate} throughout its {length}"
            shorter = f"let it change within {length}, or remove it"
            yield problem(
                message, "set `interval: batch`, or train for more epochs" if total == 1 else shorter, "unused"
            )
    elif (rising := _endless_rise(curve)) and total <= LONGEST:
        message = f"{who} is still rising when the step ends: after {length} the learning rate is {rising:g}"
        yield problem(message, "shorten the warm-up, or train longer", "not-reached")
    elif not extras.cyclic and (rise := _second_rise(curve)):
        low, high, at = rise
        rates = f"its learning rate is {low:g}, and {high:g} after {counted(at, word)}"
        message = f"{who} rises again after it fell: {rates}"
        yield problem(message, f"make the schedule as long as the step: {length}", "rising-again")


def _epochs_between(step: StepPlan, metric: str | None) -> int:
    """How many epochs pass from one value to the next of a metric that a scheduler follows."""
    evaluation = step.evaluations.get((metric or "").partition("/")[0])
    return 1 if evaluation is None else evaluation.settings.every or step.epochs


def simulate(
    update: UpdatePlan, scheduler: ConfiguredComponent, parameters: Sequence[torch.Tensor], total: int, planned: int
) -> Curve:
    """What a scheduler does in `planned` intervals to an optimizer that never steps.

    It is built for `total` intervals. One that follows a metric receives a constant.
    """
    # Parameters of the right shapes, all elements of which are one in memory.
    stand_ins = [nn.Parameter(torch.zeros((), dtype=each.dtype).expand(each.shape)) for each in parameters]
    optimizer = build(update.optimizer, parameters=stand_ins)
    with warnings.catch_warnings(action="ignore"):
        built = build(scheduler, optimizer=optimizer, total=total)
        count_as_stepped(optimizer)
        arguments = (1.0,) if isinstance(built, torch.optim.lr_scheduler.ReduceLROnPlateau) else ()
        rates = [array("d") for _ in optimizer.param_groups]
        first, constant = _settings(optimizer), True
        for number in range(planned + 2):
            for group, rates_of_group in zip(optimizer.param_groups, rates, strict=True):
                rates_of_group.append(float(group["lr"]))
            if constant and number < planned:
                constant = _settings(optimizer) == first
            try:
                built.step(*arguments)
            except Exception as error:
                return Curve(rates, planned, constant, error if number < planned else None)
    return Curve(rates, planned, constant)


def _settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def _endless_rise(curve: Curve) -> float | None:
    """The last rate of a curve that only rises, and that is not constant after the plan: its rise was to end before."""
    for rates in curve.groups:
        planned = rates[: curve.planned + 1]
        rises = len(planned) > 1 and planned[-1] > planned[-2] and all(a <= b for a, b in pairwise(planned))
        if rises and len(rates) > len(planned) and rates[len(planned)] != planned[-1]:
            return planned[curve.planned - 1]
    return None


def _second_rise(curve: Curve) -> tuple[float, float, int] | None:
    """The lowest rate after a fall, the highest after it, and the number of intervals before that one."""
    for rates in curve.groups:
        harmless = TOLERANCE * max(rates)
        peak = low = rates[0]
        found = None
        for number, rate in enumerate(rates[: curve.planned]):
            if peak - low > harmless and rate - low > harmless and (found is None or rate > found[1]):
                found = (low, rate, number)
            elif found is None:
                if rate > peak:
                    peak = low = rate
                low = min(low, rate)
        if found:
            return found
    return None
