"""The scale of latents: from the autoencoder's own to unit variance, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from .contracts import CompressorModule


def to_unit_scale(mean: Tensor, compressor: CompressorModule) -> Tensor:
    """The posterior's mean as x_0: (mean - latent_shift) / latent_rms.

    A compressor without `latent_shift` has latents of mean zero.
    """
    shift = getattr(compressor, "latent_shift", None)
    return (mean if shift is None else mean - shift) / compressor.latent_rms


def to_own_scale(x_0: Tensor, compressor: CompressorModule) -> Tensor:
    """x_0 as the expander decodes it, the inverse of `to_unit_scale`: x_0 latent_rms + latent_shift."""
    shift = getattr(compressor, "latent_shift", None)
    scaled = x_0 * compressor.latent_rms
    return scaled if shift is None else scaled + shift
