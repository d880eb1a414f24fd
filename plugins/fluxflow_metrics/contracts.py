"""What the measures expect of values that other plugins provide."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Posterior(Protocol):
    """A diagonal Gaussian over latents: mean and log-variance, each [B, C, h, w]."""

    @property
    def mean(self) -> Tensor:
        """The mean."""

    @property
    def logvar(self) -> Tensor:
        """The logarithm of the variance."""
