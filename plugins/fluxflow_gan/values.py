"""The inputs of the discriminator and its logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from attrs import field, frozen, validators

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class TextEmbedding(Protocol):
    """Captions as vectors: tokens [B, L, D] and mask [B, L], False for padding."""

    @property
    def tokens(self) -> Tensor:
        """The tokens."""

    @property
    def mask(self) -> Tensor:
        """True for a token, False for padding."""


@frozen
class InstanceNoise:
    """Standard deviation std * decay^s of the noise on the discriminator's images after s batches of the step: 0-d.

    Real and reconstructed images get the same noise, so that their distributions overlap and the losses stay smooth
    early in training (Sonderby et al., "Amortised MAP inference for image super-resolution", 2017). Evaluations and
    samples are computed with s = 0.
    """

    std: float = field(default=0.01, validator=validators.ge(0))
    """Standard deviation at the start of the step; 0: no noise."""
    decay: float = field(default=0.9999, validator=[validators.ge(0), validators.le(1)])
    """Factor of the standard deviation from batch to batch."""

    def __call__(self, step_batch: int) -> Tensor:
        """Return the standard deviation for this batch, on the host, so that nothing waits for the device."""
        import torch

        return torch.tensor(self.std * self.decay**step_batch)


def real_logits(image: Tensor, discriminator: nn.Module, instance_noise: Tensor, generator: torch.Generator) -> Tensor:
    """Logits of real images under instance noise, one for each patch: [B, 1, h, w]; positive for real."""
    logits: Tensor = discriminator(_noisy(image, instance_noise, generator))
    return logits


def fake_logits(
    reconstruction: Tensor, discriminator: nn.Module, instance_noise: Tensor, generator: torch.Generator
) -> Tensor:
    """Logits of reconstructed images under instance noise, one for each patch: [B, 1, h, w]; positive for real."""
    logits: Tensor = discriminator(_noisy(reconstruction, instance_noise, generator))
    return logits


def context_vector(text_embedding: TextEmbedding) -> Tensor:
    """Mean of a caption's tokens without padding: [B, D]; the context of a projection discriminator."""
    tokens, mask = text_embedding.tokens, text_embedding.mask[:, :, None]
    return (tokens * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def latent_vector(latent: Tensor) -> Tensor:
    """Mean of a latent over its positions: [B, C, h, w] to [B, C]; a context that needs no captions.

    A projection discriminator takes it as `with: {context_vector: latent_vector}`.
    """
    return latent.mean(dim=(2, 3))


def real_projected_logits(
    image: Tensor, discriminator: nn.Module, context_vector: Tensor, instance_noise: Tensor, generator: torch.Generator
) -> Tensor:
    """As `real_logits`, of a discriminator that takes a context (it has a `context_width`)."""
    logits: Tensor = discriminator(_noisy(image, instance_noise, generator), context_vector)
    return logits


def fake_projected_logits(
    reconstruction: Tensor,
    discriminator: nn.Module,
    context_vector: Tensor,
    instance_noise: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """As `fake_logits`, of a discriminator that takes a context (it has a `context_width`)."""
    logits: Tensor = discriminator(_noisy(reconstruction, instance_noise, generator), context_vector)
    return logits


def _noisy(image: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Image + std * eps, eps ~ N(0, 1)."""
    import torch

    return image + std * torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
