"""What the flow expects of values and models that other plugins provide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Posterior(Protocol):
    """A distribution over latents with a mean [B, C, h, w]."""

    @property
    def mean(self) -> Tensor:
        """The mean."""


class CompressorModule(Protocol):
    """A compressor that knows the size of its latents, and, in `latent_shift`, their mean if that is not 0."""

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
    """A network over latents that knows their channels and which sizes fit it."""

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""

    @property
    def patch(self) -> int:
        """What a side of the latent must be a multiple of; 1 where any size fits."""

    def __call__(self, noisy_latent: Tensor, time: Tensor, text_tokens: Tensor, text_mask: Tensor) -> Tensor:
        """Give the prediction."""


class TextEmbedding(Protocol):
    """Embedded texts: tokens [B, L, D] and mask [B, L]."""

    @property
    def tokens(self) -> Tensor:
        """The tokens."""

    @property
    def mask(self) -> Tensor:
        """True for a real token."""


class WalkedPath(Protocol):
    """The straight path that a sampler walks back: x_t = alpha(t) x_0 + sigma(t) noise, alpha + sigma = 1."""

    def alpha(self, t: Tensor) -> Tensor:
        """The share of x_0."""

    def sigma(self, t: Tensor) -> Tensor:
        """The share of the noise."""

    def times(self, steps: int, device: torch.device) -> Tensor:
        """`steps` + 1 times from 1 to 0, even in the time that the network was trained with."""
