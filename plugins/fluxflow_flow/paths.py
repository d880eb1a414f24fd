"""Paths between latents and noise: x_t = alpha(t) x_0 + sigma(t) noise, and what a network predicts on them.

t = 0 is data and t = 1 is noise. Training and sampling use one path, so that a time means the same in both.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from attrs import frozen
from torch import Tensor

#: What a network predicts: dx_t/dt; the noise; alpha noise - sigma x_0.
Predicts = Literal["velocity", "epsilon", "v"]

#: How the noise of a discrete diffusion grows from step to step.
Schedule = Literal["linear", "scaled_linear", "cosine"]

#: Steps of a discrete diffusion (Ho et al., 2020).
STEPS = 1000


class Estimates(NamedTuple):
    """The coefficients in x_0 = a x_t + b prediction and noise = c x_t + d prediction."""

    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor


def spread(coefficient: Tensor, x: Tensor) -> Tensor:
    """A coefficient for each sample [B], or one for all [], as a factor of x [B, ...]."""
    return coefficient.reshape(-1, *[1] * (x.ndim - 1)) if coefficient.ndim else coefficient


def mix(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """The sum a x + b y in the coefficients' precision, given in that of x."""
    return (spread(a, x) * x + spread(b, y) * y).to(x.dtype)


# More than a dozen members: a path is a family of formulas, and each is a method of its own.
@frozen
class Path(ABC):
    """A path with its parametrisation; times are [B] or 0-d in [0, 1], coefficients of their shape."""

    predicts: Predicts

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The share of x_0."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """The share of the noise."""

    @abstractmethod
    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The slopes d alpha / dt and d sigma / dt."""

    @abstractmethod
    def on_grid(self, t: Tensor) -> Tensor:
        """The times at which the path is trained, for times of [0, 1]."""

    @property
    @abstractmethod
    def last_level(self) -> float:
        """The noise's level at t = 1; see `level`."""

    @abstractmethod
    def time_of(self, level: Tensor) -> Tensor:
        """The time of a noise level: the inverse of `level`."""

    @abstractmethod
    def _velocity_estimates(self, t: Tensor) -> Estimates:
        """The estimates where the network predicts dx_t/dt."""

    def log_snr(self, t: Tensor) -> Tensor:
        """The logarithm of the signal-to-noise ratio, log(alpha^2 / sigma^2)  (Kingma et al., 2021)."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def level(self, t: Tensor) -> Tensor:
        """The noise's level sigma / (alpha + sigma), which rises with t from 0."""
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
        """How latent and noise follow from x_t and the prediction."""
        if self.predicts == "velocity":
            return self._velocity_estimates(t)
        alpha, sigma = self.alpha(t), self.sigma(t)
        if self.predicts == "epsilon":
            return Estimates(1 / alpha, -sigma / alpha, torch.zeros_like(t), torch.ones_like(t))
        square = alpha.square() + sigma.square()
        return Estimates(alpha / square, -sigma / square, sigma / square, alpha / square)

    def latent(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The estimate of x_0."""
        found = self.estimates(t)
        return mix(found.a, x, found.b, prediction)

    def noise(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The estimate of the noise."""
        found = self.estimates(t)
        return mix(found.c, x, found.d, prediction)

    def straight(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The estimate of noise - x_0: the velocity in the coordinates of `straight.StraightPath`."""
        found = self.estimates(t)
        return mix(found.c - found.a, x, found.d - found.b, prediction)

    def min_snr_weight(self, t: Tensor, gamma: float) -> Tensor:
        """The weight of the squared error of the prediction in min-SNR-gamma (Hang et al., 2023).

        min(SNR, gamma) weighs the error of x_0, which is b times the error of the prediction: for
        epsilon the weight is min(SNR, gamma) / SNR, for v with alpha^2 + sigma^2 = 1 it is
        min(SNR, gamma) / (SNR + 1).
        """
        ratio = (self.alpha(t) / self.sigma(t)).square()
        return ratio.clamp(max=gamma) * self.estimates(t).b.square()


@frozen
class RectifiedPath(Path):
    """alpha = 1 - t, sigma = t: straight lines (Liu et al., 2022; Lipman et al., 2023)."""

    @property
    def last_level(self) -> float:
        """At t = 1 there is noise alone."""
        return 1.0

    def alpha(self, t: Tensor) -> Tensor:
        """Alpha is 1 - t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """Sigma is t."""
        return t

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """-1 and 1."""
        return -torch.ones_like(t), torch.ones_like(t)

    def on_grid(self, t: Tensor) -> Tensor:
        """Every time is one."""
        return t

    def time_of(self, level: Tensor) -> Tensor:
        """The level is the time."""
        return level

    def level(self, t: Tensor) -> Tensor:
        """The level is the time."""
        return t

    def noisy(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """(1 - t) x_0 + t noise."""
        return torch.lerp(x_0, noise, spread(t.to(x_0.dtype), x_0))

    def velocity(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The difference noise - x_0, whatever the time."""
        return noise - x_0

    def straight(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """A velocity is that already; it is not rounded again."""
        return prediction if self.predicts == "velocity" else super().straight(prediction, x, t)

    def _velocity_estimates(self, t: Tensor) -> Estimates:
        one = torch.ones_like(t)
        return Estimates(one, -t, one, 1 - t)


@frozen
class DdpmPath(Path):
    """The discrete diffusion of Ho et al. (2020): alpha^2 = prod (1 - beta_k), alpha^2 + sigma^2 = 1.

    Step k of 1 ... 1000 stands at t = k / 1000, and t = 0 is the data. Between two steps log alpha is linear in t
    (Lu et al., "DPM-Solver", 2022), so that alpha and sigma are there for every t and exact at the steps.
    alpha(1) is what the schedule leaves: 0.0064 (linear), 0.068 (scaled_linear), 5e-5 (cosine).
    """

    schedule: Schedule

    @property
    def last_level(self) -> float:
        """Below 1, since alpha(1) is above 0."""
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
        """With g = d log alpha / dt: alpha g and -alpha^2 g / sigma, which has no bound at t = 0."""
        log_alpha, g = self._log_alpha(t)
        alpha = log_alpha.exp()
        return alpha * g, -alpha.square() * g / _sigma(log_alpha)

    def on_grid(self, t: Tensor) -> Tensor:
        """The next step: k / 1000 with k at least 1."""
        return (t * STEPS).ceil().clamp(min=1) / STEPS

    def time_of(self, level: Tensor) -> Tensor:
        """From log alpha = -log(1 + (sigma / alpha)^2) / 2, by interpolation between the steps."""
        fallen = (level / (1 - level)).square().log1p() / 2
        table = -_table(self.schedule, level.device, level.dtype)
        after = torch.searchsorted(table, fallen.reshape(-1)).reshape(fallen.shape).clamp(1, STEPS)
        low, high = table.take(after - 1), table.take(after)  # `[]` would wait for the device
        return ((after - 1 + (fallen - low) / (high - low)) / STEPS).clamp(0, 1)

    def _log_alpha(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm of alpha, and its slope."""
        table = _table(self.schedule, t.device, t.dtype)
        before = (t * STEPS).floor().clamp(0, STEPS - 1)
        low, high = table.take(before.long()), table.take(before.long() + 1)
        return torch.lerp(low, high, t * STEPS - before), (high - low) * STEPS

    def _velocity_estimates(self, t: Tensor) -> Estimates:
        """Solved from x_t and dx_t/dt with alpha' = alpha g and sigma' = -alpha^2 g / sigma."""
        log_alpha, g = self._log_alpha(t)
        alpha, sigma = log_alpha.exp(), _sigma(log_alpha)
        return Estimates(alpha, sigma.square() / (alpha * g), sigma, -sigma / g)


def _sigma(log_alpha: Tensor) -> Tensor:
    """sqrt(1 - alpha^2), to full precision where alpha is almost 1."""
    return (-torch.expm1(2 * log_alpha)).sqrt()


@lru_cache(maxsize=16)
def _table(schedule: Schedule, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Log alpha of step 0 ... 1000, on a device."""
    return torch.tensor(_log_alphas(schedule), device=device, dtype=dtype)


@lru_cache(maxsize=3)
def _log_alphas(schedule: Schedule) -> tuple[float, ...]:
    """Log alpha of step 0 (the data) to step 1000."""
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
