"""Text: captions to embeddings, and the dropout that makes guidance possible."""

from __future__ import annotations

from fluxflow_registry import Model, Register, Value, hookimpl
from fluxflow_text import models, values


@hookimpl
def fluxflow_register_models(register: Register[Model]) -> None:
    """Register the text encoders."""
    register("text_transformer", models.TextTransformerBuilder)
    register("pretrained_text_encoder", models.PretrainedTextEncoderBuilder)


@hookimpl
def fluxflow_register_values(register: Register[Value]) -> None:
    """Register captions after dropout, and their embedding."""
    register("prompt", values.Prompt)
    register("text_embedding", values.text_embedding)
