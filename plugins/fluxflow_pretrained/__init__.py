"""Models that others have trained: diffusers' AutoencoderKL in two halves, and text encoders of transformers."""

from __future__ import annotations

from fluxflow_registry import Model, Register, hookimpl

from . import models


@hookimpl
def fluxflow_register_models(register: Register[Model]) -> None:
    """Register the halves of an autoencoder, and text encoders."""
    register("pretrained_compressor", models.PretrainedCompressorBuilder)
    register("pretrained_expander", models.PretrainedExpanderBuilder)
    register("pretrained_text_encoder", models.PretrainedTextEncoderBuilder)
