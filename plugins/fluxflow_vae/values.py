"""Values between an image and its reconstruction."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from .networks import Posterior


def posterior(image: Tensor, compressor: nn.Module) -> Posterior:
    """Gaussian q(z|x) of the image: `mean` and `logvar`, each [B, C, h, w]."""
    encoded: Posterior = compressor(image)
    return encoded


@frozen
class Latent:
    """Latent z = mean + exp(logvar / 2) eps, eps ~ N(0, 1), at the autoencoder's own scale: [B, C, h, w]."""

    sample: bool = True
    """Whether to sample; otherwise z is the mean."""

    def __call__(self, posterior: Posterior, generator: torch.Generator) -> Tensor:
        """Sample the posterior (the reparametrization of Kingma and Welling, 2014)."""
        import torch

        mean, logvar = posterior
        if not self.sample:
            return mean
        eps = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean + (0.5 * logvar).exp() * eps


def context(latent: Tensor) -> Tensor:
    """Spatial context that the expander's SPADE blocks read, the latent itself: [B, K, h, w], K its channels.

    As in Zheng et al., "MoVQ: modulating quantized vectors", 2022: the latent that is decoded also modulates the
    normalized features at each position.
    """
    return latent


@frozen
class Reconstruction:
    """Image decoded from the latent: [B, 3, H, W], about [-1, 1].

    With `latent: {sample: true}` it is decoded from a sample of the posterior; `reconstruction_mean` is not.
    """

    spade: bool | None = None
    """Whether SPADE blocks of the expander are on, in training and later; null: as they were last trained."""

    def __call__(self, latent: Tensor, expander: nn.Module) -> Tensor:
        """Decode the latent."""
        image: Tensor = expander(latent) if self.spade is None else _decode(latent, expander, self.spade)
        return image


def reconstruction_mean(posterior: Posterior, expander: nn.Module) -> Tensor:
    """Image decoded from the posterior's mean, without sampling: [B, 3, H, W], about [-1, 1]."""
    image: Tensor = expander(posterior.mean)
    return image


def reconstruction_without_context(latent: Tensor, expander: nn.Module) -> Tensor:
    """Image decoded from the latent with SPADE blocks off, that is, without `context`: [B, 3, H, W].

    The difference from `reconstruction` is the contribution of the context. Without SPADE blocks both are the same.
    """
    return _decode(latent, expander, False)


def prior_sample(latent: Tensor, expander: nn.Module, generator: torch.Generator) -> Tensor:
    """Image decoded from z ~ N(0, 1) of the latent's shape: [B, 3, H, W], about [-1, 1].

    What the autoencoder alone can generate: the closer the aggregate posterior is to the prior, the more it looks
    like an image.
    """
    import torch

    z = torch.randn(latent.shape, generator=generator, device=latent.device, dtype=latent.dtype)
    image: Tensor = expander(z)
    return image


def conditioned_reconstruction(latent: Tensor, context_vector: Tensor, expander: nn.Module) -> Tensor:
    """Image decoded from the latent, with FiLM by a vector [B, D]: [B, 3, H, W], about [-1, 1].

    The expander needs `film_width: D` (Perez et al., "FiLM", 2018). `with: {context_vector: ...}` selects another
    vector, such as a pooled text embedding.
    """
    image: Tensor = expander(latent, vector=context_vector)
    return image


def _decode(latent: Tensor, expander: nn.Module, spade: bool) -> Tensor:
    """Decode with SPADE blocks on or off; an expander that does not take `spade` can only be switched off."""
    switches = "spade" in signature(expander.forward).parameters
    if spade and not switches:
        raise ValueError(f"the expander, a {type(expander).__name__}, has no SPADE blocks to switch on")
    image: Tensor = expander(latent, spade=spade) if switches else expander(latent)
    return image
