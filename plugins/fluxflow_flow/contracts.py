"""What the flow expects of values and models that other plugins provide."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Posterior(Protocol):
    """A distribution over latents with a mean [B, C, h, w]."""

    @property
    def mean(self) -> Tensor:
        """The mean."""


class CompressorModule(Protocol):
    """A compressor that knows the size of its latents."""

    @property
    def latent_rms(self) -> Tensor:
        """Root mean square of the latents, 0-d."""


class ExpanderModule(Protocol):
    """An expander that knows how much it enlarges."""

    @property
    def downscale(self) -> int:
        """Side of the image over side of the latent."""

    def __call__(self, latent: Tensor) -> Tensor:
        """Decode a latent."""


class FlowModule(Protocol):
    """A velocity field that knows the channels of its latents."""

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""

    @property
    def patch(self) -> int:
        """Side of the patch of the latent that is one token; 1 where there are none."""

    def __call__(self, noisy_latent: Tensor, time: Tensor, text_tokens: Tensor, text_mask: Tensor) -> Tensor:
        """Give the velocity."""


class TextEmbedding(Protocol):
    """Embedded texts: tokens [B, L, D] and mask [B, L]."""

    @property
    def tokens(self) -> Tensor:
        """The tokens."""

    @property
    def mask(self) -> Tensor:
        """True for a real token."""
