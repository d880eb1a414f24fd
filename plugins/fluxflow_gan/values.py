"""What the discriminator says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def real_logits(image: Tensor, discriminator: nn.Module) -> Tensor:
    """Logits of real images, one for each patch: [B, 1, h, w]; positive says real."""
    logits: Tensor = discriminator(image)
    return logits


def fake_logits(reconstruction: Tensor, discriminator: nn.Module) -> Tensor:
    """Logits of reconstructed images, one for each patch: [B, 1, h, w]; positive says real."""
    logits: Tensor = discriminator(reconstruction)
    return logits
