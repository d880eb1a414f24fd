"""The settings of a model's entry: compiled, channels last, with activation checkpointing."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from attrs import asdict
from torch import nn

from fluxflow_registry.contracts import Compile, ModelSettings
from fluxflow_registry.engine.models.checkpointing import blocks_of, checkpoint_blocks
from fluxflow_registry.errors import Location, Problem, choices
from fluxflow_registry.plan.component import ConfiguredComponent


def apply_options(model: nn.Module, configured: ConfiguredComponent, compiled: bool = True) -> nn.Module:
    """Give a model the settings of its entry, in place: names in its state dict stay as they are.

    `compiled=False` leaves the compiler out, for a few calls that would not pay for it.
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
    """Settings that would change nothing in this model, or that cannot be had."""
    settings = _settings(configured)
    if settings.channels_last and not any(p.ndim == 4 for p in model.parameters()):
        yield _problem(configured, "channels_last", "has no weights of two-dimensional convolutions")
    if settings.checkpointing and not blocks_of(model):
        yield _problem(configured, "checkpointing", "has no repeated blocks: children of a ModuleList or a Sequential")
    options = _compiler(settings)
    if options is not None:
        known = torch.compiler.list_backends(exclude_tags=())
        if options.backend not in known:
            message = f"model `{configured.label}`: `{options.backend}` is no backend of torch.compile"
            place = _place(configured, "compile", "backend")
            yield Problem(message, place, choices(options.backend, known, "backends"))


def _settings(configured: ConfiguredComponent) -> ModelSettings:
    found = configured.entry.settings if configured.entry else None
    return found if isinstance(found, ModelSettings) else ModelSettings()


def _compiler(settings: ModelSettings) -> Compile | None:
    if isinstance(settings.compile, bool):
        return Compile() if settings.compile else None
    return settings.compile


def _problem(configured: ConfiguredComponent, key: str, why: str) -> Problem:
    message = f"`{key}` changes nothing in model `{configured.label}`, which {why}"
    return Problem(message, _place(configured, key), (("defined in", str(configured.component.signature.where)),))


def _place(configured: ConfiguredComponent, *keys: str) -> Location | None:
    return configured.entry.node.at(*keys) if configured.entry else None
