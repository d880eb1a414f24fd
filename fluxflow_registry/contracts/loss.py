"""Losses: what an update minimizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from attrs import field, frozen, validators

from fluxflow_registry.contracts.kind import Kind, Prepared, Renaming, Stateful

if TYPE_CHECKING:
    from torch import Tensor


class Loss(Protocol):
    """A function, or a class with options whose instances are called; its parameters name the values that it needs."""

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return a 0-d tensor."""


class LossExtras(Prepared, Stateful):
    """Optional members of a loss."""

    default_weight: ClassVar[float] = 1.0
    """The weight where a recipe sets none."""


@frozen
class LossSettings(Renaming):
    """The keys of a loss's entry that belong to the recipe, not to the loss."""

    weight: float | None = field(default=None, metadata={"member": "default_weight"})
    """Weight of the loss in the sum; null: the loss's own default weight, or 1."""
    warmup: int = field(default=0, validator=validators.ge(0))
    """The weight rises as (1 - cos(pi s / warmup)) / 2 over the first `warmup` batches s since the loss started."""
    start: int = field(default=0, validator=validators.ge(0))
    """Batches of the step before it counts, or a transition on whose condition it starts."""
    every: int = field(default=1, validator=validators.ge(1))
    """Computed on each n-th batch of the step only."""
    detach: list[str] = field(factory=list)
    """Values through which no gradient of this loss passes."""
    with_: dict[str, str] = field(factory=dict, metadata={"key": "with"})
    """For a parameter of the loss, the value that it receives instead."""


LOSS = Kind("loss", "losses", "a 0-d tensor to be minimized", Loss, LossExtras, LossSettings)
