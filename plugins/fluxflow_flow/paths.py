"""Paths between latents and noise: x_t = alpha(t) x_0 + sigma(t) noise, and what a network predicts on them.

t = 0 is data and t = 1 is noise. Training and sampling use one path, so that a time means the same in both.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from attrs import frozen
from torch import Tensor

#: What a network predicts: dx_t/dt, the noise, or alpha noise - sigma x_0.
Predicts = Literal["velocity", "epsilon", "v"]

#: The noise schedule of a discrete diffusion.
Schedule = Literal["linear", "scaled_linear", "cosine"]

#: Steps of a discrete diffusion (Ho et al., 2020).
STEPS = 1000


class Estimates(NamedTuple):
    """The coefficients in x_0 = a x_t + b prediction and noise = c x_t + d prediction."""

    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor


def broadcast(coefficient: Tensor, x: Tensor) -> Tensor:
    """A coefficient for each sample [B], or one for all [], as a factor of x [B, ...]."""
    return coefficient.reshape(-1, *[1] * (x.ndim - 1)) if coefficient.ndim else coefficient


def mix(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """The sum a x + b y, computed in the coefficients' precision and returned in that of x."""
    return (broadcast(a, x) * x + broadcast(b, y) * y).to(x.dtype)


# More than a dozen members: a path is a family of formulas, and each is a method of its own.
@frozen
class Path(ABC):
    """A path with its parametrization; times are [B] or 0-d in [0, 1], coefficients have the shape of times."""

    predicts: Predicts

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The coefficient of x_0."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """The coefficient of the noise."""

    @abstractmethod
    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The derivatives d alpha / dt and d sigma / dt."""

    @abstractmethod
    def on_grid(self, t: Tensor) -> Tensor:
        """Times in [0, 1], rounded to those at which the path is trained."""

    @property
    @abstractmethod
    def last_level(self) -> float:
        """The noise level at t = 1; see `level`."""

    @abstractmethod
    def time_of(self, level: Tensor) -> Tensor:
        """The time of a noise level: the inverse of `level`."""

    @abstractmethod
    def _velocity_estimates(self, t: Tensor) -> Estimates:
        """The estimates for a network that predicts dx_t/dt."""

    def log_snr(self, t: Tensor) -> Tensor:
        """The logarithm of the signal-to-noise ratio, log(alpha^2 / sigma^2)  (Kingma et al., 2021)."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def level(self, t: Tensor) -> Tensor:
        """The noise level sigma / (alpha + sigma), which rises with t from 0."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        return sigma / (alpha + sigma)

    def noisy(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t."""
        return mix(self.alpha(t), x_0, self.sigma(t), noise)

    def velocity(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """dx_t/dt = alpha'(t) x_0 + sigma'(t) noise."""
        alpha, sigma = self.slopes(t)
        return mix(alpha, x_0, sigma, noise)

    def target(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network's prediction should be."""
        if self.predicts == "velocity":
            return self.velocity(x_0, noise, t)
        if self.predicts == "epsilon":
            return noise
        return mix(self.alpha(t), noise, -self.sigma(t), x_0)

    def estimates(self, t: Tensor) -> Estimates:
        """The coefficients that estimate latent and noise from x_t and the prediction."""
        if self.predicts == "velocity":
            return self._velocity_estimates(t)
        alpha, sigma = self.alpha(t), self.sigma(t)
        if self.predicts == "epsilon":
            return Estimates(1 / alpha, -sigma / alpha, torch.zeros_like(t), torch.ones_like(t))
        square = alpha.square() + sigma.square()
        return Estimates(alpha / square, -sigma / square, sigma / square, alpha / square)

    def latent(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The estimate of x_0."""
        estimates = self.estimates(t)
        return mix(estimates.a, x, estimates.b, prediction)

    def noise(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The estimate of the noise."""
        estimates = self.estimates(t)
        return mix(estimates.c, x, estimates.d, prediction)

    def linear_velocity(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The estimate of noise - x_0: the velocity in the coordinates of `LinearPath`."""
        estimates = self.estimates(t)
        return mix(estimates.c - estimates.a, x, estimates.d - estimates.b, prediction)

    def min_snr_weight(self, t: Tensor, gamma: float) -> Tensor:
        """The weight of the squared error of the prediction under min-SNR-gamma (Hang et al., 2023).

        The error of x_0, which is b times the error of the prediction, has weight min(SNR, gamma): the weight is
        min(SNR, gamma) / SNR for epsilon, and min(SNR, gamma) / (SNR + 1) for v with alpha^2 + sigma^2 = 1.
        """
        ratio = (self.alpha(t) / self.sigma(t)).square()
        return ratio.clamp(max=gamma) * self.estimates(t).b.square()


@frozen
class RectifiedPath(Path):
    """alpha = 1 - t, sigma = t: linear interpolation (Liu et al., 2022; Lipman et al., 2023)."""

    @property
    def last_level(self) -> float:
        """1: at t = 1 there is only noise."""
        return 1.0

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """The time t."""
        return t

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """-1 and 1."""
        return -torch.ones_like(t), torch.ones_like(t)

    def on_grid(self, t: Tensor) -> Tensor:
        """The times themselves: the path is trained at all of them."""
        return t

    def time_of(self, level: Tensor) -> Tensor:
        """The level is the time."""
        return level

    def level(self, t: Tensor) -> Tensor:
        """The level is the time."""
        return t

    def noisy(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """(1 - t) x_0 + t noise."""
        return torch.lerp(x_0, noise, broadcast(t.to(x_0.dtype), x_0))

    def velocity(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The difference noise - x_0, at every time."""
        return noise - x_0

    def linear_velocity(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The estimate of noise - x_0; a predicted velocity is returned as it is, without rounding it again."""
        return prediction if self.predicts == "velocity" else super().linear_velocity(prediction, x, t)

    def _velocity_estimates(self, t: Tensor) -> Estimates:
        one = torch.ones_like(t)
        return Estimates(one, -t, one, 1 - t)


@frozen
class DdpmPath(Path):
    """The discrete diffusion of Ho et al. (2020): alpha^2 = prod (1 - beta_k), alpha^2 + sigma^2 = 1.

    Step k of 1 ... 1000 is at t = k / 1000, and t = 0 is the data. Between two steps log alpha is linear in t
    (Lu et al., "DPM-Solver", 2022), so that alpha and sigma are defined for every t and exact at the steps.
    alpha(1) depends on the schedule: 0.0064 (linear), 0.068 (scaled_linear), 5e-5 (cosine).
    """

    schedule: Schedule

    @property
    def last_level(self) -> float:
        """Less than 1, since alpha(1) is positive."""
        alpha = math.exp(_log_alphas(self.schedule)[-1])
        sigma = math.sqrt(1 - alpha**2)
        return sigma / (alpha + sigma)

    def alpha(self, t: Tensor) -> Tensor:
        """Alpha from its logarithm."""
        return self._log_alpha(t)[0].exp()

    def sigma(self, t: Tensor) -> Tensor:
        """Sigma = sqrt(1 - alpha^2)."""
        return _sigma(self._log_alpha(t)[0])

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """With g = d log alpha / dt: alpha g and -alpha^2 g / sigma, which is unbounded at t = 0."""
        log_alpha, g = self._log_alpha(t)
        alpha = log_alpha.exp()
        return alpha * g, -alpha.square() * g / _sigma(log_alpha)

    def on_grid(self, t: Tensor) -> Tensor:
        """The next step: k / 1000 with k at least 1."""
        return (t * STEPS).ceil().clamp(min=1) / STEPS

    def time_of(self, level: Tensor) -> Tensor:
        """From log alpha = -log(1 + (sigma / alpha)^2) / 2, interpolated between the steps."""
        target = (level / (1 - level)).square().log1p() / 2  # -log alpha
        table = -_table(self.schedule, level.device, level.dtype)
        after = torch.searchsorted(table, target.reshape(-1)).reshape(target.shape).clamp(1, STEPS)
        low, high = table.take(after - 1), table.take(after)  # indexing with `[]` would wait for the device
        return ((after - 1 + (target - low) / (high - low)) / STEPS).clamp(0, 1)

    def _log_alpha(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm of alpha, and its derivative."""
        table = _table(self.schedule, t.device, t.dtype)
        before = (t * STEPS).floor().clamp(0, STEPS - 1)
        low, high = table.take(before.long()), table.take(before.long() + 1)
        return torch.lerp(low, high, t * STEPS - before), (high - low) * STEPS

    def _velocity_estimates(self, t: Tensor) -> Estimates:
        """The solution of x_t and dx_t/dt for latent and noise; alpha' = alpha g and sigma' = -alpha^2 g / sigma."""
        log_alpha, g = self._log_alpha(t)
        alpha, sigma = log_alpha.exp(), _sigma(log_alpha)
        return Estimates(alpha, sigma.square() / (alpha * g), sigma, -sigma / g)


def _sigma(log_alpha: Tensor) -> Tensor:
    """sqrt(1 - alpha^2), at full precision even for alpha close to 1."""
    return (-torch.expm1(2 * log_alpha)).sqrt()


@lru_cache(maxsize=16)
def _table(schedule: Schedule, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The log alpha of steps 0 ... 1000, on a device."""
    return torch.tensor(_log_alphas(schedule), device=device, dtype=dtype)


@lru_cache(maxsize=3)
def _log_alphas(schedule: Schedule) -> tuple[float, ...]:
    """The log alpha of step 0 (the data) to step 1000."""
    logs, log_alpha = [0.0], 0.0
    for beta in betas(schedule):
        log_alpha += math.log1p(-beta) / 2
        logs.append(log_alpha)
    return tuple(logs)


def betas(schedule: Schedule) -> list[float]:
    """The variance that each of the 1000 steps adds.

    `linear`: from 1e-4 to 0.02 (Ho et al., 2020). `scaled_linear`: its square root is linear, from 0.00085 to
    0.012 (Rombach et al., 2022). `cosine`: from alpha^2 = cos^2((t + 0.008) / 1.008 * pi / 2), at most 0.999
    (Nichol and Dhariwal, 2021).
    """
    shares = [k / (STEPS - 1) for k in range(STEPS)]
    if schedule == "linear":
        return [1e-4 + share * (0.02 - 1e-4) for share in shares]
    if schedule == "scaled_linear":
        low, high = math.sqrt(0.00085), math.sqrt(0.012)
        return [(low + share * (high - low)) ** 2 for share in shares]
    squares = [math.cos((k / STEPS + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(STEPS + 1)]
    return [min(1 - after / before, 0.999) for before, after in pairwise(squares)]


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
        t = torch.linspace(1.0, 0.0, steps + 1, device=device)
        return self.path.level(t) / self.path.last_level

    def start(self, noise: Tensor) -> Tensor:
        """The y at u = 1, where x is the noise."""
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
