"""Observers: what is notified of the events of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from attrs import frozen

from fluxflow_registry.contracts.kind import Kind
from fluxflow_registry.contracts.lifecycle import Lifecycle
from fluxflow_registry.contracts.metric import Naming


class Observer(Protocol):
    """A class with options whose instances have hooks of `Lifecycle`."""


@frozen
class Draw:
    """Values that an observer will request of a run, so that a recipe is checked for them.

    They are computed from batches of `dataset`, or, without one, from the named `fields` alone; in the named
    `steps`, or in all.

    What is `optional` is computed where the recipe has the models for it and left out elsewhere: the observer
    finds out by `RunView.upstream`. A value that nothing provides is left out too.
    """

    values: tuple[str, ...]
    dataset: str | None = None
    fields: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


class ObserverExtras(Naming):
    """Optional members of an observer."""

    default: ClassVar[bool] = False
    """Whether it joins every run whose recipe does not remove it."""
    required: bool = False
    """Whether an exception in it ends the run; otherwise it is reported once, and the observer gets no more events."""

    def draws(self) -> Sequence[Draw]:
        """Return the values that it will request of a run."""
        return ()


OBSERVER = Kind("observer", "observers", "nothing", Observer, ObserverExtras, events=Lifecycle)
