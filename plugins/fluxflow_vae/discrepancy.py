"""The distance between the latents as a whole and the prior."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen, validators

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@frozen
class Mmd:
    """Squared maximum mean discrepancy of latents x and draws y ~ N(0, 1): E k(x, x') + E k(y, y') - 2 E k(x, y).

    k(a, b) = exp(-|a - b|^2 / (2 sigma^2)). latent: [B, C, h, w]; each place is a point of C dimensions. Unbiased:
    no point is paired with itself, so the mean is zero where the distributions are equal and one batch may fall
    below it (Gretton et al., "A kernel two-sample test", 2012, equation 3). In place of the KL divergence, or
    beside it, it presses all latents together towards the prior and leaves each posterior free (Zhao et al.,
    "InfoVAE", 2019).
    """

    sigma: float = field(default=1.0, validator=[validators.ge(1e-3), validators.le(1e3)])
    """Width of the kernel; far below the typical distance sqrt(2 C) of two draws it sees nothing."""
    points: int = field(default=1024, validator=[validators.ge(2), validators.le(4096)])
    """At most this many places of a batch, drawn at random, and as many draws: memory goes with its square."""

    def __call__(self, latent: Tensor, generator: torch.Generator) -> Tensor:
        """Give the estimate."""
        import torch

        x = latent.movedim(1, -1).reshape(-1, latent.shape[1])
        if len(x) < 2:
            raise ValueError("mmd compares pairs: a batch of one latent with one place has none")
        if len(x) > self.points:
            x = x[torch.randperm(len(x), generator=generator, device=x.device)[: self.points]]
        y = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return self._among(x) + self._among(y) - 2 * self._kernel(x, y).mean()

    def _among(self, x: Tensor) -> Tensor:
        """The mean of k over all pairs of different points of x."""
        kernel = self._kernel(x, x)
        return (kernel.sum() - kernel.trace()) / (len(x) * (len(x) - 1))

    def _kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """K of every pair: [N, C] and [M, C] to [N, M]."""
        square = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * a @ b.T
        return (square.clamp(min=0) / (-2 * self.sigma**2)).exp()
