"""Compiled models before training: whether a value calls their forward, and none differentiates it a second time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from fluxflow_registry.engine.models.build import compiler_of, useless
from fluxflow_registry.engine.models.compiling import guard_calls
from fluxflow_registry.errors import Problem
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import RecipePlan


def guard_as_compiled(models: Mapping[str, nn.Module], configured: Mapping[str, ConfiguredComponent]) -> set[str]:
    """Guard the calls of models that training compiles as it does; returns the names of those called from then on."""
    called: set[str] = set()
    for name, model in models.items():
        if compiler_of(configured[name]) is not None:
            guard_calls(model, name, _recorded(model, name, called))
    return called


def _recorded(model: nn.Module, name: str, called: set[str]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        called.add(name)
        return model._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]

    return call


def never_called(plan: RecipePlan, called: set[str]) -> Iterator[Problem]:
    """The problems of models whose compiled forward nothing in training calls."""
    measured = {name for step in plan.steps for each in step.evaluations.values() for name in each.values}
    for name, configured in plan.models.items():
        if compiler_of(configured) is not None and name not in called | measured:
            why = "no value of a step calls its `forward` (losses that call a model themselves call it uncompiled)"
            yield useless(configured, "compile", why)
