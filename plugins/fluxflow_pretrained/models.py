"""Options of the halves of a pretrained autoencoder; torch and diffusers are imported only when one is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from torch import Tensor, nn


@frozen
class PretrainedCompressorBuilder:
    """Encoder of diffusers' AutoencoderKL with its published weights: image to a Gaussian posterior.

    [B, 3, H, W] in [-1, 1] to mean and logvar, each [B, C, h, w]. Its `latent_rms` is 1 / scaling factor and its
    `latent_shift` the shift, so that a flow sees (mean - shift) * scaling factor. The weights stay as they are
    published unless an update trains the model. They are read from a folder or from the hub's cache (HF_HOME), as
    safetensors; nothing is ever downloaded. Checkpoints hold the architecture too: drawing needs neither the hub
    nor the folder. Needs the extra `diffusers`.
    """

    name: str = field(validator=validators.min_len(1))
    """Name on the hub (`stabilityai/sd-vae-ft-mse`), or a folder."""
    subfolder: str | None = None
    """Folder of the autoencoder within it: `vae` in whole text-to-image models."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    scaling_factor: float | None = field(default=None, validator=validators.optional(validators.gt(0)))
    """What latents are multiplied by (0.18215 of SD 1, 0.13025 of SDXL); null: what its own config says."""
    shift: float | None = None
    """What is taken from latents before that; null: what its own config says, or 0."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the weights in memory; a model that is trained is kept in fp32."""
    frozen: list[str] = field(factory=list)
    """Parts that stay as they are even where an update trains the model, such as `encoder.conv_in`."""

    def __call__(self, weights: Mapping[str, Tensor] | None) -> nn.Module:
        """Build the model; raises PretrainedError where the library or the files are missing."""
        from fluxflow_pretrained.loading import found
        from fluxflow_pretrained.networks import PretrainedCompressor

        config, state = found(self.name, self.subfolder, self.revision, "pretrained_compressor", weights)
        model = PretrainedCompressor(config, self.scaling_factor, self.shift)
        return model.filled(state, self.dtype, self.frozen, self.name)


@frozen
class PretrainedExpanderBuilder:
    """Decoder of diffusers' AutoencoderKL with its published weights: latent to image.

    [B, C, h, w] at the autoencoder's own scale to [B, 3, H, W], about [-1, 1]. Files as of `pretrained_compressor`.
    """

    name: str = field(validator=validators.min_len(1))
    """Name on the hub (`stabilityai/sd-vae-ft-mse`), or a folder: the compressor's."""
    subfolder: str | None = None
    """Folder of the autoencoder within it: `vae` in whole text-to-image models."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the weights in memory; a model that is trained is kept in fp32."""
    frozen: list[str] = field(factory=list)
    """Parts that stay as they are even where an update trains the model, such as `decoder.mid_block`."""

    def __call__(self, weights: Mapping[str, Tensor] | None) -> nn.Module:
        """Build the model; raises PretrainedError where the library or the files are missing."""
        from fluxflow_pretrained.loading import found
        from fluxflow_pretrained.networks import PretrainedExpander

        config, state = found(self.name, self.subfolder, self.revision, "pretrained_expander", weights)
        return PretrainedExpander(config).filled(state, self.dtype, self.frozen, self.name)
