"""Text: captions to embeddings, and the dropout of captions for classifier-free guidance."""

from __future__ import annotations

from fluxflow_registry import Model, Register, Value, hookimpl

from . import models, values


@hookimpl
def fluxflow_register_models(register: Register[Model]) -> None:
    """Register the text encoder."""
    register("text_transformer", models.TextTransformerBuilder)


@hookimpl
def fluxflow_register_values(register: Register[Value]) -> None:
    """Register captions after dropout, and their embedding."""
    register("prompt", values.Prompt)
    register("text_embedding", values.text_embedding)
