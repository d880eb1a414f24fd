"""Optimizers and schedulers before training: each takes one step, with small parameters in place of the real ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

import torch
from attrs import evolve
from torch import Tensor, nn

from fluxflow_registry.contracts import SchedulerExtras
from fluxflow_registry.engine.models.build import frozen_parameters
from fluxflow_registry.engine.training.late_start import Extent, Starts
from fluxflow_registry.engine.training.update import OptimizerStep
from fluxflow_registry.errors import FluxflowError, Problem, RecipeError, unique
from fluxflow_registry.plan.steps import RecipePlan, StepPlan
from fluxflow_registry.plan.updates import UpdatePlan
from fluxflow_registry.state.store import pack

#: The most that a dimension of a parameter has here: optimizers tell matrices from vectors, not large from small.
LARGEST = 2


def try_updates(plan: RecipePlan, models: Mapping[str, nn.Module], device: torch.device) -> None:
    """Take one step of every update of a plan whose batches are known; raises RecipeError with what fails."""
    problems: list[Problem] = []
    for step in plan.steps:
        for update in step.updates.values():
            problems += [
                evolve(problem, message=f"in step `{step.name}`, {problem.message}")
                for problem in _problems(step, update, models, device)
            ]
    if problems:
        raise RecipeError(unique(problems))


def _problems(
    step: StepPlan, update: UpdatePlan, models: Mapping[str, nn.Module], device: torch.device
) -> Iterator[Problem]:
    """What fails in a step of the optimizer and its scheduler."""
    parameters = {
        f"{name}.{key}": _small(parameter, device)
        for name in update.trains
        for key, parameter in models[name].named_parameters()
        if key not in frozen_parameters(models[name])
    }
    try:
        with warnings.catch_warnings(action="ignore"):  # training shows them
            _step(step, update, parameters)
    except FluxflowError as error:
        for problem in error.problems:
            yield evolve(problem, where=problem.where or update.optimizer.where)


def _small(parameter: Tensor, device: torch.device) -> nn.Parameter:
    """A parameter of the same number of dimensions and type, with a gradient."""
    shape = [min(size, LARGEST) for size in parameter.shape]
    small = nn.Parameter(torch.full(shape, 0.5, dtype=parameter.dtype, device=device))
    small.grad = torch.full_like(small, 0.25)
    return small


def _step(step: StepPlan, update: UpdatePlan, parameters: Mapping[str, Tensor]) -> None:
    """One step as training takes it, from the start of the update; its state is one that a checkpoint can have."""
    starts = Starts(update)
    for name in starts.conditions:
        starts.meet(name, 0)
    extent = Extent(step.epochs, step.batches, step.accumulate)
    optimizer = OptimizerStep(update, parameters, None, extent, starts)
    optimizer.close("stepped", optimizer.gradient_norm())
    watched = SchedulerExtras.of(update.scheduler.instance if update.scheduler else None).metric
    optimizer.schedule.end_epoch({watched or f"{update.name}_loss": 1.0})
    for kind, state in optimizer.state().items():
        pack(state, f"the {kind} of update `{update.name}`")
    optimizer.load(optimizer.state())
