"""Balancers: how the weights of an update's losses adapt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from fluxflow_registry.contracts.kind import Extras, Kind, Product, Stateful

if TYPE_CHECKING:
    from torch import Tensor


class Gradients(Protocol):
    """The gradients of an update's losses at one of its parameters: what a balancer may request as `gradients`.

    To be called while the balancer's weigher is called; each call costs one backward pass per loss.
    """

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each loss of this batch, its warm-up included, before any factor of the balancer."""

    def check(self, layer: str, losses: Sequence[str] = ()) -> None:
        """Require that the update trains a parameter of this name, and that these losses reach it.

        To be called when the weigher is built, so that a mistake is reported before training. A parameter is named
        by its model and its name in that, such as `expander.out.weight`. Raises FluxflowError.
        """

    def __call__(self, layer: str) -> Mapping[str, Tensor]:
        """The gradient of each loss of this batch at that parameter, without weight and without history.

        `detach` applies. A loss that does not reach the parameter, or that this batch leaves out, is not among them.
        """


class Weigher(Protocol):
    """What a balancer builds for one update."""

    def __call__(self, losses: Mapping[str, Tensor], /) -> Mapping[str, float | Tensor]:
        """Return the factor of each loss of a batch; 1 for a loss that is left out."""


class WeigherExtras(Extras, Stateful):
    """Optional members of a weigher."""


class Balancer(Protocol):
    """A function, or a class with options whose instances are called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Weigher:
        """Build the weigher of an update from the labels of its `losses` and from its `gradients`."""


class BalancerExtras(Extras):
    """Optional members of a balancer."""

    def losses(self) -> Sequence[str]:
        """Return the labels of losses that its options name: the update must have them."""
        return ()

    def spared(self) -> Sequence[str]:
        """Return the labels of losses that it leaves alone; losses that `false` removes may be among them."""
        return ()


BALANCER = Kind(
    "balancer",
    "balancers",
    "a weigher: weigher(losses) -> factor of each loss",
    Balancer,
    BalancerExtras,
    parameters=("losses", "gradients"),
    product=Product("weigher", Weigher, WeigherExtras),
    key="balancer",
)
