"""Image autoencoders that others have trained: the two halves of diffusers' AutoencoderKL."""

from __future__ import annotations

from fluxflow_pretrained import models
from fluxflow_registry import Model, Register, hookimpl


@hookimpl
def fluxflow_register_models(register: Register[Model]) -> None:
    """Register the two halves of an autoencoder."""
    register("pretrained_compressor", models.PretrainedCompressorBuilder)
    register("pretrained_expander", models.PretrainedExpanderBuilder)
