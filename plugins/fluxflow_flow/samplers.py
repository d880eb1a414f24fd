"""Solvers of dx/dt = v(x, t) from noise at t = 1 to a sample at t = 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from torch import Tensor


def times(steps: int, like: Tensor) -> Tensor:
    """Times from 1 to 0 in `steps` equal steps: [steps + 1]."""
    import torch

    return torch.linspace(1.0, 0.0, steps + 1, device=like.device)


@frozen
class Euler:
    """Euler's method: x <- x + (t' - t) v(x, t); order 1, one evaluation a step."""

    steps: int = field(default=16, validator=validators.ge(1))
    """Steps from noise to data."""

    def __call__(self, velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor) -> Tensor:
        """Integrate from noise to a sample."""
        x, t = noise, times(self.steps, noise)
        for i in range(self.steps):
            x = x + (t[i + 1] - t[i]) * velocity(x, t[i])
        return x


@frozen
class Heun:
    """Heun's method (the explicit trapezoid): the mean slope of both ends of Euler's step.

    Order 2, two evaluations a step; not Heun's third-order method.
    """

    steps: int = field(default=8, validator=validators.ge(1))
    """Steps from noise to data."""

    def __call__(self, velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor) -> Tensor:
        """Integrate from noise to a sample."""
        x, t = noise, times(self.steps, noise)
        for i in range(self.steps):
            h = t[i + 1] - t[i]
            slope = velocity(x, t[i])
            x = x + h * (slope + velocity(x + h * slope, t[i + 1])) / 2
        return x
