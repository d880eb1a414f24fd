"""Models that a step uses although no step has trained them: rejected where their weights are random numbers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fluxflow_registry.contracts import ModelExtras
from fluxflow_registry.engine.models.build import build_model, frozen_parameters, settings_of
from fluxflow_registry.errors import Problem
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import RecipePlan, StepPlan


def untrained(plan: RecipePlan) -> Iterator[Problem]:
    """One problem for each model whose random weights a step trains on, or measures, at the first such step."""
    for name, step in _uses(plan).items():
        configured = plan.models[name]
        if not _allowed(configured) and _is_random(configured):
            message = f"step `{step.name}` uses model `{name}`, whose weights are random: no step before it trains it"
            notes = (
                ("hint", f"train `{name}` in an earlier step, or use a model with trained weights"),
                ("instead", f"to use random weights on purpose: `models.{name}.untrained: true`"),
                ("see also", f"model {name}: {configured.where}"),
            )
            yield Problem(message, step.entry.where, notes, code="untrained", subject=name)


def _uses(plan: RecipePlan) -> dict[str, StepPlan]:
    """The models that are used before they are trained, each with the first step that does so."""
    trained: dict[str | None, frozenset[str]] = {None: frozenset()}
    found: dict[str, StepPlan] = {}
    for step in plan.steps:
        trained[step.name] = trained[step.parent] | step.trains
        measured = {name for each in step.evaluations.values() for name in each.values}
        for name in plan.models:
            if name in {*step.values, *measured} - trained[step.name]:
                found.setdefault(name, step)
    return found


def _allowed(configured: ConfiguredComponent) -> bool:
    return bool(settings_of(configured).untrained or ModelExtras.of(configured.instance).trained_elsewhere)


def _is_random(configured: ConfiguredComponent) -> bool:
    """Whether weights depend on the seed, in a model that its builder has not frozen: then nothing has trained them."""
    first = _weights(configured, 0)
    return bool(first) and any(not torch.equal(one, first[key]) for key, one in _weights(configured, 1).items())


def _weights(configured: ConfiguredComponent, seed: int) -> dict[str, Tensor]:
    """The parameters as they are built from this seed, but for those that the builder freezes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(configured)
    frozen = frozen_parameters(model)
    return {name: parameter.detach() for name, parameter in model.named_parameters() if name not in frozen}
