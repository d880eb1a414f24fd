"""Averages before training: each model that a step averages is copied and averaged once, from shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from fluxflow_registry.engine.models.build import Average
from fluxflow_registry.errors import Problem, one_line
from fluxflow_registry.plan.steps import RecipePlan


def uncopied(plan: RecipePlan, models: Mapping[str, nn.Module]) -> Iterator[Problem]:
    """The problems of models on the meta device that cannot be averaged."""
    for step in plan.steps:
        ema = step.settings.ema
        for index, name in enumerate(ema.models if ema else ()):
            try:
                Average(models[name], 0.5, False).update(0)
            except Exception as error:
                message = f"step `{step.name}` averages model `{name}`, which cannot be copied: {one_line(error)}"
                hint = "let its modules keep only what `copy.deepcopy` can copy, or remove it from `ema.models`"
                notes = (("hint", hint), ("defined in", plan.models[name].definition))
                where = step.entry.node.at("ema", "models", index)
                yield Problem(message, where, notes, code="component-failed", subject=name)
