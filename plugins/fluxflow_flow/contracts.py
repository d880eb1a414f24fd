"""What the flow expects of values and models that other plugins provide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Posterior(Protocol):
    """A distribution over latents with a mean [B, C, h, w]."""

    @property
    def mean(self) -> Tensor:
        """The mean."""


class CompressorModule(Protocol):
    """A compressor with the scale of its latents; see also `latent_shift`."""

    latent_rms: Tensor
    """Root mean square of the latents, 0-d."""


def latent_shift(compressor: CompressorModule) -> Tensor | float:
    """The mean of the latents, 0-d: 0 for a compressor that has no `latent_shift`."""
    shift: Tensor | float = getattr(compressor, "latent_shift", 0.0)
    return shift


class ExpanderModule(Protocol):
    """An expander with its factor between the sides of latent and image."""

    downscale: int
    """Side of the image over side of the latent."""

    def __call__(self, latent: Tensor) -> Tensor:
        """Decode a latent."""


class FlowModule(Protocol):
    """A network over latents, with their number of channels and the sizes that fit it."""

    latent_channels: int
    """Channels of the latent."""
    patch: int
    """Number of which each side of the latent must be a multiple; 1 if any size fits."""

    def __call__(self, noisy_latent: Tensor, time: Tensor, text_tokens: Tensor, text_mask: Tensor) -> Tensor:
        """Return the prediction."""


class TextEmbedding(Protocol):
    """Embedded captions: tokens [B, L, D] and mask [B, L], in which each caption, also the empty one, has a token."""

    @property
    def tokens(self) -> Tensor:
        """The tokens."""

    @property
    def mask(self) -> Tensor:
        """True for a token, False for padding."""
