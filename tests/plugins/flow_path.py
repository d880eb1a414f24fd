"""Every path, and a distribution whose flow is known exactly."""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from fluxflow_flow.paths import Path
from fluxflow_flow.values import PathBuilder

#: The options of every path with every kind of prediction that it allows.
OPTIONS: list[dict[str, Any]] = [
    {"kind": "rectified", "predicts": "velocity"},
    {"kind": "rectified", "predicts": "v"},
    *(
        {"kind": "ddpm", "schedule": schedule, "predicts": predicts}
        for schedule in ("linear", "scaled_linear", "cosine")
        for predicts in ("velocity", "epsilon", "v")
    ),
]

PATHS = [PathBuilder(**options)() for options in OPTIONS]

NAMES = ["-".join(options.values()) for options in OPTIONS]


@frozen
class Gaussian:
    """Latents N(mean, std^2), for which the exact solution is known at every time of every path."""

    mean: float = 0.7
    std: float = 0.4

    def latent(self, path: Path, x: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t]."""
        alpha, sigma = path.alpha(t), path.sigma(t)
        variance = (alpha * self.std) ** 2 + sigma**2
        return self.mean + alpha * self.std**2 / variance * (x - alpha * self.mean)

    def noise(self, path: Path, x: Tensor, t: Tensor) -> Tensor:
        """E[noise | x_t]."""
        alpha, sigma = path.alpha(t), path.sigma(t)
        variance = (alpha * self.std) ** 2 + sigma**2
        return sigma / variance * (x - alpha * self.mean)

    def prediction(self, path: Path, x: Tensor, t: Tensor) -> Tensor:
        """The prediction of a perfect network."""
        return path.target(self.latent(path, x, t), self.noise(path, x, t), t)

    def sample(self, path: Path, x_1: Tensor) -> Tensor:
        """The sample to which the flow leads from x_1: the same quantile of the data."""
        last = torch.ones((), dtype=x_1.dtype)
        alpha, sigma = path.alpha(last), path.sigma(last)
        return self.mean + self.std * (x_1 - alpha * self.mean) / ((alpha * self.std) ** 2 + sigma**2).sqrt()
