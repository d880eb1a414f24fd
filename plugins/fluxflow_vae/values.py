"""Values between an image and its reconstruction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fluxflow_vae.networks import Posterior


def posterior(image: Tensor, compressor: nn.Module) -> Posterior:
    """Gaussian q(z|x) of the image: `mean` and `logvar`, each [B, C, h, w]."""
    found: Posterior = compressor(image)
    return found


@frozen
class Latent:
    """Latent z = mean + exp(logvar / 2) eps, eps ~ N(0, 1), at the autoencoder's own scale: [B, C, h, w]."""

    sample: bool = True
    """Whether to sample; otherwise z is the mean."""

    def __call__(self, posterior: Posterior, generator: torch.Generator) -> Tensor:
        """Draw from the posterior (the reparametrisation of Kingma and Welling, 2014)."""
        import torch

        mean, logvar = posterior
        if not self.sample:
            return mean
        eps = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean + (0.5 * logvar).exp() * eps


def reconstruction(latent: Tensor, expander: nn.Module) -> Tensor:
    """Image decoded from the latent: [B, 3, H, W], about [-1, 1]."""
    image: Tensor = expander(latent)
    return image
