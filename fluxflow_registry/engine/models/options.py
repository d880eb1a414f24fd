"""The options of a model's entry that any model has: compile, channels_last, checkpointing."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from attrs import asdict
from torch import nn

from fluxflow_registry.contracts import Compile, ModelSettings
from fluxflow_registry.engine.models.checkpointing import blocks_of, checkpoint_blocks
from fluxflow_registry.errors import Choices, Location, Problem
from fluxflow_registry.plan.component import ConfiguredComponent


def apply_options(model: nn.Module, configured: ConfiguredComponent, compiled: bool = True) -> nn.Module:
    """Apply the options of its entry to a model, in place: names in its state dict do not change.

    `compiled=False` does not compile: a few calls are not worth it.
    """
    settings = _settings(configured)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if settings.checkpointing:
        checkpoint_blocks(model)
    options = _compiler(settings)
    if options is not None and compiled:
        model.compile(**asdict(options))
    return model


def useless_options(model: nn.Module, configured: ConfiguredComponent) -> Iterator[Problem]:
    """The problems of options that would change nothing in this model, or that torch does not have."""
    settings = _settings(configured)
    if settings.channels_last and not any(p.ndim == 4 for p in model.parameters()):
        yield _problem(configured, "channels_last", "it has no two-dimensional convolutions")
    if settings.checkpointing and not blocks_of(model):
        yield _problem(configured, "checkpointing", "it has no repeated blocks in a ModuleList or a Sequential")
    options = _compiler(settings)
    if options is not None:
        known = torch.compiler.list_backends(exclude_tags=())
        if options.backend not in known:
            yield Problem(
                f"unknown backend `{options.backend}` of torch.compile for model `{configured.label}`",
                _place(configured, "compile", "backend"),
                code="unknown-name",
                subject=options.backend,
                choices=Choices.of(options.backend, known),
            )


def _settings(configured: ConfiguredComponent) -> ModelSettings:
    settings = configured.entry.settings if configured.entry else None
    return settings if isinstance(settings, ModelSettings) else ModelSettings()


def _compiler(settings: ModelSettings) -> Compile | None:
    if isinstance(settings.compile, bool):
        return Compile() if settings.compile else None
    return settings.compile


def _problem(configured: ConfiguredComponent, key: str, why: str) -> Problem:
    message = f"`{key}` has no effect on model `{configured.label}`: {why}"
    notes = (("hint", f"remove `{key}`"), ("defined in", configured.definition))
    return Problem(message, _place(configured, key), notes, code="unused", subject=key)


def _place(configured: ConfiguredComponent, *keys: str) -> Location | None:
    return configured.entry.node.at(*keys) if configured.entry else None
