"""Every path as a linear one: the coordinates in which samplers integrate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .paths import Path


@frozen
class LinearPath:
    """A path in the coordinates y = x / (alpha + sigma), whose time u is the noise level over the last level L.

    There y_u = (1 - L u) x_0 + L u noise and dy/du = L (noise - x_0): linear interpolation, whatever the path. All
    Gaussian paths are one path up to scale and time (Karras et al., 2022; Kingma and Gao, 2023), and in these
    coordinates the velocity field is smooth up to u = 0. L = sigma(1) / (alpha(1) + sigma(1)) is 1 if the path ends in
    pure noise. A rectified path is its own linear path.
    """

    path: Path

    def alpha(self, u: Tensor) -> Tensor:
        """1 - L u."""
        return 1 - self.path.last_level * u

    def sigma(self, u: Tensor) -> Tensor:
        """L u."""
        return self.path.last_level * u

    def times(self, steps: int, device: torch.device) -> Tensor:
        """Values of u from 1 to 0, evenly spaced in the path's own time: [steps + 1]."""
        import torch

        t = torch.linspace(1.0, 0.0, steps + 1, device=device)
        return self.path.level(t) / self.path.last_level

    def start(self, noise: Tensor) -> Tensor:
        """The y at u = 1, where x is the noise."""
        import torch

        last = torch.ones((), device=noise.device)
        return noise / (self.path.alpha(last) + self.path.sigma(last)).to(noise.dtype)

    def velocity_field(self, predict: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        """dy/du as a function of y and u, from the network's prediction as a function of x and t."""
        path, last = self.path, self.path.last_level

        def velocity(y: Tensor, u: Tensor) -> Tensor:
            t = path.time_of(u * last)
            x = y * (path.alpha(t) + path.sigma(t)).to(y.dtype)
            return path.linear_velocity(predict(x, t), x, t) * last

        return velocity
