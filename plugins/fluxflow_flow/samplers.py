"""Samplers: solvers of dx/dt = v(x, t) from noise at t = 1 to a sample at t = 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen, validators

from fluxflow_registry import NoisePath, VelocityField

if TYPE_CHECKING:
    from torch import Tensor

#: Largest |log(alpha / sigma)| of a step: beyond it x is noise, or latent, to within 0.001.
LARGEST_LOG_RATIO = 7.0


def times(steps: int, like: Tensor) -> Tensor:
    """Times from 1 to 0, evenly spaced: [steps + 1]."""
    import torch

    return torch.linspace(1.0, 0.0, steps + 1, device=like.device)


@frozen
class Euler:
    """Euler's method: x <- x + (t' - t) v(x, t), x and v [B, C, h, w]; order 1, one evaluation per step."""

    order: ClassVar[int] = 1

    steps: int = field(default=16, validator=validators.ge(1))
    """Number of steps from noise to data."""

    def __call__(self, velocity: VelocityField, noise: Tensor) -> Tensor:
        """Integrate from noise to a sample."""
        x, t = noise, times(self.steps, noise)
        for i in range(self.steps):
            x = x + (t[i + 1] - t[i]) * velocity(x, t[i])
        return x


@frozen
class Heun:
    """Heun's method (the explicit trapezoidal rule): the mean slope of both ends of Euler's step.

    x and v: [B, C, h, w]. Order 2, two evaluations per step; not Heun's third-order method.
    """

    order: ClassVar[int] = 2

    steps: int = field(default=8, validator=validators.ge(1))
    """Number of steps from noise to data."""

    def __call__(self, velocity: VelocityField, noise: Tensor) -> Tensor:
        """Integrate from noise to a sample."""
        x, t = noise, times(self.steps, noise)
        for i in range(self.steps):
            h = t[i + 1] - t[i]
            slope = velocity(x, t[i])
            x = x + h * (slope + velocity(x + h * slope, t[i + 1])) / 2
        return x


@frozen
class Ddim:
    """Deterministic DDIM (eta = 0): x_t' = alpha(t') x_0 + sigma(t') noise, both estimated at t (Song et al., 2021).

    Order 1, one evaluation per step. The steps are evenly spaced in the path's own time and start at its last one
    ("trailing": Lin et al., 2024). On a rectified path this is Euler's method.
    """

    order: ClassVar[int] = 1

    steps: int = field(default=25, validator=validators.ge(1))
    """Number of steps from noise to data."""

    def __call__(self, velocity: VelocityField, noise: Tensor, path: NoisePath) -> Tensor:
        """Integrate from noise to a sample."""
        x, t = noise, path.times(self.steps, noise.device)
        alpha, sigma = path.alpha(t), path.sigma(t)
        for i in range(self.steps):
            x_0 = x - t[i] * velocity(x, t[i])
            eps = (x - alpha[i] * x_0) / sigma[i]
            x = alpha[i + 1] * x_0 + sigma[i + 1] * eps
        return x


@frozen
class DpmPp2m:
    """DPM-Solver++(2M): the estimate of x_0, extrapolated over the log-SNR from two steps (Lu et al., 2022).

    With l = log(alpha / sigma), h = l' - l and h_0 the h before it: D = x_0 + h / (2 h_0) (x_0 - x_0 before) and
    x' = sigma'/sigma x + alpha' (1 - exp(-h)) D. One evaluation per step; order 2 in steps of l (`spacing: log_snr`).
    The first and the last step are of order 1, since l is infinite at t = 1 and t = 0.
    """

    order: ClassVar[int] = 2

    steps: int = field(default=12, validator=validators.ge(1))
    """Number of steps from noise to data."""
    spacing: Literal["noise", "time", "log_snr"] = "noise"
    """What the steps are evenly spaced in: the noise level, the path's own time, or the log-SNR."""

    def __call__(self, velocity: VelocityField, noise: Tensor, path: NoisePath) -> Tensor:
        """Integrate from noise to a sample."""
        x, t = noise, self._times(noise, path)
        alpha, sigma = path.alpha(t), path.sigma(t)
        h = (alpha.log() - sigma.log()).diff()
        previous = None
        for i in range(self.steps):
            x_0 = x - t[i] * velocity(x, t[i])
            extrapolated = x_0
            if previous is not None and i + 1 < self.steps:
                extrapolated = x_0 + h[i] / (2 * h[i - 1]) * (x_0 - previous)
            ratio = sigma[i + 1] / sigma[i]
            # alpha' (1 - exp(-h)), without the infinities at both ends.
            x = ratio * x + (alpha[i + 1] - alpha[i] * ratio) * extrapolated
            previous = x_0
        return x

    def _times(self, noise: Tensor, path: NoisePath) -> Tensor:
        """Times from 1 to 0 at the chosen spacing: [steps + 1]."""
        import torch

        if self.spacing == "time":
            return path.times(self.steps, noise.device)
        even = times(self.steps, noise)
        if self.spacing == "noise":
            return even
        first = (path.alpha(even[0]).log() - path.sigma(even[0]).log()).clamp(min=-LARGEST_LOG_RATIO)
        log_ratio = LARGEST_LOG_RATIO - (LARGEST_LOG_RATIO - first) * even[1:-1]
        # sigma is linear in t, and alpha + sigma is 1.
        return torch.cat([even[:1], torch.sigmoid(-log_ratio) / path.sigma(even[0]), even[-1:]])
