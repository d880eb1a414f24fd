"""The maximum mean discrepancy between all latents of a batch and the prior."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen, validators

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@frozen
class Mmd:
    """Squared maximum mean discrepancy of latents x and prior samples y: E k(x, x') + E k(y, y') - 2 E k(x, y).

    y ~ N(0, 1), k(a, b) = exp(-|a - b|^2 / (2 sigma^2)). latent: [B, C, h, w]; each position is a point in C
    dimensions. The estimate is unbiased: no point is paired with itself, so its mean is zero for equal distributions
    and one batch may be below zero (Gretton et al., "A kernel two-sample test", 2012, equation 3). Instead of the KL
    divergence, or beside it, it pulls all latents together towards the prior and leaves each posterior free (Zhao et
    al., "InfoVAE", 2019).
    """

    sigma: float = field(default=1.0, validator=[validators.ge(1e-3), validators.le(1e3)])
    """Width of the kernel; a width far below sqrt(2 C), the typical distance of two samples, has no gradient."""
    points: int = field(default=1024, validator=[validators.ge(2), validators.le(4096)])
    """Largest number of positions, sampled from a batch, and of prior samples; memory grows with its square."""

    def __call__(self, latent: Tensor, generator: torch.Generator) -> Tensor:
        """Return the estimate."""
        import torch
        from einops import rearrange

        x = rearrange(latent, "b c h w -> (b h w) c")
        if len(x) < 2:
            raise ValueError("loss `mmd` compares pairs of latent positions, but the batch has only one position")
        if len(x) > self.points:
            x = x[torch.randperm(len(x), generator=generator, device=x.device)[: self.points]]
        y = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return self._mean_of_pairs(x) + self._mean_of_pairs(y) - 2 * self._kernel(x, y).mean()

    def _mean_of_pairs(self, x: Tensor) -> Tensor:
        """The mean of k over all pairs of different points of x."""
        kernel = self._kernel(x, x)
        return (kernel.sum() - kernel.trace()) / (len(x) * (len(x) - 1))

    def _kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """K of every pair: [N, C] and [M, C] to [N, M]."""
        square = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * a @ b.T
        return (square.clamp(min=0) / (-2 * self.sigma**2)).exp()
