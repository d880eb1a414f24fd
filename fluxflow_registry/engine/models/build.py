"""Models built from a recipe: the modules that the builders return, with the options of their entries."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fluxflow_registry.engine.graph.build import build
from fluxflow_registry.engine.graph.randomness import derive
from fluxflow_registry.engine.models.frozen import remember_frozen
from fluxflow_registry.engine.models.options import apply_options
from fluxflow_registry.errors import Problem, RecipeError
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import RecipePlan


def build_models(
    plan: RecipePlan,
    device: torch.device,
    weights: Mapping[str, Mapping[str, Tensor]] | None = None,
    compiled: bool = True,
) -> dict[str, nn.Module]:
    """New models, each from random numbers that depend on the seed and its own name alone.

    `weights` are those that will be loaded into them, if they are known.
    """
    models = {}
    for name, configured in plan.models.items():
        torch.manual_seed(derive(plan.recipe.seed, "model", name))
        model = build_model(configured, (weights or {}).get(name)).to(device)
        models[name] = apply_options(model, configured, compiled)
    return models


def build_model(configured: ConfiguredComponent, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The module that a builder returns; raises RecipeError where it is not an nn.Module."""
    model: object = build(configured, weights=weights)
    if not isinstance(model, nn.Module):
        message = f"the builder of model `{configured.label}` returned {type(model).__name__}, not an nn.Module"
        notes = (("defined in", configured.definition),)
        raise RecipeError(Problem(message, configured.where, notes, code="wrong-return", subject=configured.label))
    remember_frozen(model)
    return model


def reset_weights(models: Mapping[str, nn.Module], plan: RecipePlan, device: torch.device) -> None:
    """Give the models the weights back with which they were built."""
    for name, model in build_models(plan, device).items():
        models[name].load_state_dict(model.state_dict())


def build_on_meta(models: Mapping[str, ConfiguredComponent]) -> dict[str, nn.Module]:
    """The models with shapes and no numbers."""
    with torch.device("meta"):
        return {name: build_model(model) for name, model in models.items()}
