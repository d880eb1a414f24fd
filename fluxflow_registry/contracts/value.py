"""Values: what one training batch can produce, each computed from others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from attrs import field, frozen

from fluxflow_registry.contracts.kind import Extras, Kind, Renaming, Stateful

#: Names that the engine itself provides to every value, loss and metric.
CONTEXT: Mapping[str, str] = {
    "generator": "torch.Generator seeded from (run seed, step, position, name); None on the meta device",
    "step_batch": "int, batches that this step has done before this one",
    "sampler": "the recipe's sampler: sampler(velocity, noise, path) -> sample",
    "image_size": "(height, width) in pixels of the images to generate",
}


class Value(Protocol):
    """A function, or a class with options whose instances are called; its parameters name the values that it needs."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the value that it is registered as."""


@frozen
class ComputedValue:
    """A value that a step computes for its losses: its component, and the names that fill its parameters."""

    component: Any
    needs: Mapping[str, str]


class ValueExtras(Extras, Stateful):
    """Optional members of a value."""

    def notes(self, steps: Sequence[Mapping[str, ComputedValue]]) -> Sequence[str]:
        """Return what a user should know about its options, in sentences, where nothing is wrong with the recipe.

        `steps` are the values by name that each step computes, from the first step to the one in which it is used.
        """
        return ()


@frozen
class NeedSettings(Renaming):
    """The keys of a value's or a metric's entry that belong to the recipe."""

    with_: dict[str, str] = field(factory=dict, metadata={"key": "with"})
    """For a parameter of the component, the value that it receives instead."""


VALUE = Kind("value", "values", "the value of that name", Value, ValueExtras, NeedSettings, provided=CONTEXT)
