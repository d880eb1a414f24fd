"""The scale of latents: what a path sees of what the autoencoder makes, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from fluxflow_flow.contracts import CompressorModule


def clean(mean: Tensor, compressor: CompressorModule) -> Tensor:
    """The posterior's mean as x_0: (mean - latent_shift) / latent_rms.

    A compressor without `latent_shift` has latents about zero.
    """
    shift = getattr(compressor, "latent_shift", None)
    return (mean if shift is None else mean - shift) / compressor.latent_rms


def decodable(x_0: Tensor, compressor: CompressorModule) -> Tensor:
    """x_0 as the expander takes it, the inverse of `clean`: x_0 latent_rms + latent_shift."""
    shift = getattr(compressor, "latent_shift", None)
    scaled = x_0 * compressor.latent_rms
    return scaled if shift is None else scaled + shift
