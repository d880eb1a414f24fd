"""Builders of pretrained models; torch, diffusers and transformers are imported only when one is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import asdict, field, frozen, validators

if TYPE_CHECKING:
    from torch import Tensor, nn


@frozen
class _HalfBuilder:
    trained_elsewhere: ClassVar[bool] = True

    name: str = field(validator=validators.min_len(1))
    """Name on the hub (`stabilityai/sd-vae-ft-mse`), or a folder; the same for both halves."""
    subfolder: str | None = None
    """Folder of the autoencoder within it: `vae` in whole text-to-image models."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["fp32", "bf16", "fp16"] = field(default="fp32", kw_only=True)
    """Number format of the weights in memory; use fp32 for a model that is trained."""
    frozen: list[str] = field(factory=list, kw_only=True)
    """Parts that stay frozen even if an update trains the model, such as `encoder.conv_in` or `decoder.mid_block`."""


@frozen
class PretrainedCompressorBuilder(_HalfBuilder):
    """Encoder of diffusers' AutoencoderKL with its published weights: image to a Gaussian posterior.

    [B, 3, H, W] in [-1, 1] to mean and logvar, each [B, C, h, w]. Its `latent_rms` is 1 / scaling factor and its
    `latent_shift` the shift, so that a flow sees (mean - shift) * scaling factor. The weights stay as published unless
    an update trains the model. They are read from a folder or from the hub's cache (HF_HOME), as safetensors;
    nothing is ever downloaded. Checkpoints contain the architecture too: sampling needs neither the hub nor the
    folder. Needs the extra `diffusers`.
    """

    scaling_factor: float | None = field(default=None, validator=validators.optional(validators.gt(0)))
    """Factor of the latents (0.18215 for SD 1, 0.13025 for SDXL); null: that of the published config."""
    shift: float | None = None
    """What is subtracted from latents before that; null: the shift of the published config, or 0."""

    def __call__(self, weights: Mapping[str, Tensor] | None) -> nn.Module:
        """Build the model; raises PretrainedError if the library or the files are missing."""
        from .autoencoder import PretrainedCompressor, read_autoencoder

        config, state = read_autoencoder(self.name, self.subfolder, self.revision, weights)
        model = PretrainedCompressor(config, self.scaling_factor, self.shift)
        return model.fill(state, self.dtype, self.frozen, self.name)


@frozen
class PretrainedExpanderBuilder(_HalfBuilder):
    """Decoder of diffusers' AutoencoderKL with its published weights: latent to image.

    [B, C, h, w] at the autoencoder's own scale to [B, 3, H, W], about [-1, 1]. Its files are those of
    `pretrained_compressor`.
    """

    def __call__(self, weights: Mapping[str, Tensor] | None) -> nn.Module:
        """Build the model; raises PretrainedError if the library or the files are missing."""
        from .autoencoder import PretrainedExpander, read_autoencoder

        config, state = read_autoencoder(self.name, self.subfolder, self.revision, weights)
        return PretrainedExpander(config).fill(state, self.dtype, self.frozen, self.name)


@frozen
class PretrainedTextEncoderBuilder:
    """Text encoder of Hugging Face transformers with its published weights: CLIP, T5, BERT and others.

    Hidden states [B, L, D] of one layer, with padding masked. The weights stay as published unless an update
    trains the model. They are read from a folder or from the hub's cache (HF_HOME), as safetensors; nothing is
    ever downloaded. Checkpoints contain the architecture and the tokenizer too: sampling needs neither the hub nor
    the folder. Needs the extra `text`.
    """

    trained_elsewhere: ClassVar[bool] = True

    name: str = field(validator=validators.min_len(1))
    """Name on the hub (`openai/clip-vit-large-patch14`), or a folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    max_tokens: int = field(default=77, validator=validators.ge(1))
    """Largest number of tokens of a caption, special tokens included; longer captions are truncated."""
    layer: int = field(default=-1, validator=validators.le(-1))
    """Layer whose hidden states are used, counted from the end: -1 the last with its final norm, -2 the one before."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the weights in memory; use fp32 for a model that is trained."""
    frozen: list[str] = field(factory=list)
    """Parts that stay frozen even if an update trains the model, such as `embeddings`."""
    head: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    """Width of a trained linear layer with layer norm after the network, which is then frozen; null: none."""

    def __call__(self, weights: Mapping[str, Tensor] | None) -> nn.Module:
        """Build the model; raises PretrainedError if the library or the files are missing."""
        from .text_encoder import load_text_encoder

        return load_text_encoder(**asdict(self), weights=weights)
