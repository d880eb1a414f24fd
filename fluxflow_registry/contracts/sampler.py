"""Samplers: how a velocity field is integrated from noise to a sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from fluxflow_registry.contracts.kind import Extras, Kind

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: A velocity field dx/dt = velocity(x, t), t a 0-d tensor in [0, 1].
VelocityField = Callable[["Tensor", "Tensor"], "Tensor"]


class NoisePath(Protocol):
    """What a sampler may know of the path that it follows back: x_t = alpha(t) x_0 + sigma(t) noise.

    Both are linear in t, with alpha(0) = 1 and sigma(0) = 0, so that the field is smooth up to t = 0 and
    x_0 = x_t - t dx/dt. alpha(1) need not be 0: then x_1 still contains some of x_0.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """The share of x_0."""

    def sigma(self, t: Tensor) -> Tensor:
        """The share of the noise."""

    def times(self, steps: int, device: torch.device) -> Tensor:
        """`steps` + 1 times from 1 to 0, evenly spaced in the time that the network was trained with."""


class Sampler(Protocol):
    """A function, or a class with options whose instances are called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Integrate `velocity`, a VelocityField, along `path`, a NoisePath, from `noise` at t = 1 to a sample."""


class SamplerExtras(Extras):
    """Optional members of a sampler."""

    steps: int | None = None
    """Evaluations of the velocity field; where it is an option, `fluxflow-generate --steps` sets it."""


SAMPLER = Kind(
    "sampler",
    "samplers",
    "a sample at t = 0",
    Sampler,
    SamplerExtras,
    parameters=("velocity", "noise", "path"),
    key="sampler",
)
