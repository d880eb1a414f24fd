"""Schedulers: how a learning rate changes over a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

from fluxflow_registry.contracts.kind import Kind
from fluxflow_registry.contracts.metric import Directed

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import LRScheduler


class Scheduler(Protocol):
    """A function, or a class with options whose instances are called."""

    def __call__(self, *args: Any, **kwargs: Any) -> LRScheduler:
        """Build the scheduler of `optimizer` for the `total` intervals of the step."""


class SchedulerExtras(Directed):
    """Optional members of a scheduler."""

    interval: Literal["batch", "epoch"] = "epoch"
    """What is an interval."""
    cyclic: bool = False
    """Whether the rate is meant to rise again after it has fallen; a check warns of any other that does."""
    metric: str | None = None
    """The metric that torch's ReduceLROnPlateau follows; null: the update's loss."""


SCHEDULER = Kind(
    "scheduler",
    "schedulers",
    "a torch LRScheduler",
    Scheduler,
    SchedulerExtras,
    parameters=("optimizer", "total"),
    key="scheduler",
)
