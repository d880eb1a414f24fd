"""The optimizer and the scheduler of an update: built, what their builders return verified, and stepped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from fluxflow_registry.engine.graph.calls import PASSED_THROUGH, build
from fluxflow_registry.errors import Problem, TrainingError, counted, listed, one_line
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.registry.signature import VARIADIC, raised_at

#: What the engine uses of an optimizer, beside its state dict.
_OPTIMIZER = ("param_groups", "state", "step", "zero_grad")


def build_optimizer(configured: ConfiguredComponent, parameters: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    """The optimizer of these parameters; raises TrainingError for one that leaves some of them out."""
    optimizer: Any = build(configured, parameters=list(parameters.values()))
    if not all(hasattr(optimizer, name) for name in _OPTIMIZER):
        raise _wrong(configured, f"returned {type(optimizer).__name__}, not a torch Optimizer")
    arguments = signature(optimizer.step).parameters.values()
    needed = [each.name for each in arguments if each.default is each.empty and each.kind not in VARIADIC]
    if needed:
        raise _wrong(configured, f"needs `{needed[0]}` at every `step`, but the engine calls `step()`")
    if any("lr" not in group for group in optimizer.param_groups):
        raise _wrong(configured, "has a group of parameters without a learning rate `lr`")
    names = {id(parameter): name for name, parameter in parameters.items()}
    moved = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    missing = [name for key, name in names.items() if key not in set(moved)]
    if missing:
        share = f"{len(missing)} of the {counted(len(names), 'parameter')} that it received"
        raise _wrong(configured, f"leaves out {share}, so they would never be trained: {listed(missing, 3)}")
    if strangers := sum(key not in names for key in moved):
        raise _wrong(configured, f"moves {counted(strangers, 'parameter')} that it did not receive")
    found: torch.optim.Optimizer = optimizer
    return found


def build_scheduler(configured: ConfiguredComponent, optimizer: torch.optim.Optimizer, total: int) -> Any:
    """The scheduler of an optimizer; raises TrainingError for one that is not a scheduler, or another's."""
    scheduler: Any = build(configured, optimizer=optimizer, total=total)
    if not callable(getattr(scheduler, "step", None)):
        raise _wrong(configured, f"returned {type(scheduler).__name__}, not a torch LRScheduler")
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise _wrong(configured, "returned a scheduler of another optimizer, not of the one that it received")
    return scheduler


def count_as_stepped(optimizer: torch.optim.Optimizer) -> None:
    """Let schedulers take this optimizer for one that has stepped: they warn of one that never has."""
    optimizer._opt_called = True  # type: ignore[attr-defined]  # torch has no public name for it


@contextmanager
def stepping(configured: ConfiguredComponent) -> Iterator[None]:
    """Report a failure of `step` with the component and its location."""
    try:
        yield
    except PASSED_THROUGH:
        raise
    except Exception as error:
        message = f"`step` of {configured.component.kind} `{configured.name}` failed: {one_line(error)}"
        notes = (("defined in", configured.definition), *raised_at(error))
        problem = Problem(message, configured.where, notes, code="component-failed", subject=configured.name)
        raise TrainingError(problem) from error


def _wrong(configured: ConfiguredComponent, what: str) -> TrainingError:
    message = f"{configured.component.kind} `{configured.name}` {what}"
    notes = (("defined in", configured.definition),)
    return TrainingError(Problem(message, configured.where, notes, code="wrong-return", subject=configured.name))
