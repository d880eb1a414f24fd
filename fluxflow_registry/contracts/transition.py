"""Transitions: when a step ends, or something starts."""

from __future__ import annotations

from typing import Any, Protocol

from attrs import frozen

from fluxflow_registry.contracts.kind import Kind, Stateful
from fluxflow_registry.contracts.metric import Directed, Naming


@frozen
class Ending:
    """Why a step ends; `limit` marks an ending by a safety limit, which is worth a warning."""

    reason: str
    limit: bool = False


class Transition(Protocol):
    """A function, or a class with options whose instances are called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Ending | None:
        """Return an Ending to end the step after `epoch` of its `epochs`, given the `history` of each metric."""


class TransitionExtras(Naming, Directed, Stateful):
    """Optional members of a transition."""

    max_epochs: int | None = None
    """The most epochs that it lets a step run, in place of the step's own `epochs`."""


TRANSITION = Kind(
    "transition",
    "transitions",
    "an Ending, or None to continue",
    Transition,
    TransitionExtras,
    parameters=("epoch", "epochs", "history"),
    key="until",
)
