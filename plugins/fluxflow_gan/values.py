"""What the discriminator is shown, and what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen, validators

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fluxflow_gan.contracts import TextEmbedding


@frozen
class InstanceNoise:
    """Standard deviation std * decay^s of the noise on what the discriminator sees, s the step's batches done: 0-d.

    Real and reconstructed images are blurred alike, so that the two overlap and the game stays smooth while
    it is young (Sonderby et al., "Amortised MAP inference for image super-resolution", 2017). Evaluations and
    pictures are computed with s = 0.
    """

    std: float = field(default=0.01, validator=validators.ge(0))
    """Standard deviation at the step's beginning; 0: none."""
    decay: float = field(default=0.9999, validator=[validators.ge(0), validators.le(1)])
    """Its factor from batch to batch."""

    def __call__(self, step_batch: int) -> Tensor:
        """Give the standard deviation for this batch, as a number on the host: nothing waits for the device."""
        import torch

        return torch.tensor(self.std * self.decay**step_batch)


def real_logits(image: Tensor, discriminator: nn.Module, instance_noise: Tensor, generator: torch.Generator) -> Tensor:
    """Logits of real images under instance noise, one for each patch: [B, 1, h, w]; positive says real."""
    logits: Tensor = discriminator(_noisy(image, instance_noise, generator))
    return logits


def fake_logits(
    reconstruction: Tensor, discriminator: nn.Module, instance_noise: Tensor, generator: torch.Generator
) -> Tensor:
    """Logits of reconstructed images under instance noise, one for each patch: [B, 1, h, w]; positive says real."""
    logits: Tensor = discriminator(_noisy(reconstruction, instance_noise, generator))
    return logits


def context_vector(text_embedding: TextEmbedding) -> Tensor:
    """Mean of a caption's tokens, padding left out: [B, D]; the context of a projection discriminator."""
    tokens, mask = text_embedding.tokens, text_embedding.mask[:, :, None]
    return (tokens * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def real_projected_logits(
    image: Tensor,
    discriminator: nn.Module,
    context_vector: Tensor,
    instance_noise: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """As `real_logits`, of a discriminator that is told the context (it has a `context_width`)."""
    logits: Tensor = discriminator(_noisy(image, instance_noise, generator), context_vector)
    return logits


def fake_projected_logits(
    reconstruction: Tensor,
    discriminator: nn.Module,
    context_vector: Tensor,
    instance_noise: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """As `fake_logits`, of a discriminator that is told the context (it has a `context_width`)."""
    logits: Tensor = discriminator(_noisy(reconstruction, instance_noise, generator), context_vector)
    return logits


def _noisy(image: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Image + std * eps, eps ~ N(0, 1)."""
    import torch

    return image + std * torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
