"""A checked recipe as a tree of (value, origin), in the form of a recipe file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fluxflow_registry.check.checker import CheckedStep, CheckedUpdate, ConfiguredComponent, RecipePlan
from fluxflow_registry.check.metric_names import withdrawn_losses
from fluxflow_registry.recipe import writer as resolved
from fluxflow_registry.recipe.schema import OWN, VERSION, UpdateEntry
from fluxflow_registry.recipe.writer import DEFAULT, settings_of


def resolve_recipe(checked: RecipePlan) -> dict[str, Any]:
    """Every value of the recipe with its origin; written out, it is a recipe that means the same."""
    recipe = checked.recipe
    top = {
        "recipe": (VERSION, str(recipe.node.at("recipe"))),
        "name": (recipe.name, _origin(recipe.node, "name")),
        "seed": (recipe.seed, _origin(recipe.node, "seed")),
    }
    present = {label: _component(c) for label, c in checked.observers.items()}
    away = {
        label: (False, str(recipe.node.at("observers", label))) for label, o in recipe.observers.items() if o is None
    }
    tree: dict[str, Any] = {
        **top,
        "models": _components(checked.models),
        "datasets": _components(checked.datasets),
        **({"sampler": _component(checked.sampler)} if checked.sampler else {}),
        **({"values": _components(checked.values)} if checked.values else {}),
        "observers": {**present, **away},
        "steps": {step.name: _step(step) for step in checked.steps},
    }
    return tree


def _origin(node: Any, key: str) -> str:
    return str(node.at(key)) if node.get(key) is not None else DEFAULT


def _component(configured: ConfiguredComponent) -> dict[str, Any]:
    return resolved.component_of(
        configured.entry, configured.component.name, configured.instance, "joins every run by default"
    )


def _components(configured: Mapping[str, ConfiguredComponent]) -> dict[str, Any]:
    return {label: _component(c) for label, c in configured.items()}


def _step(step: CheckedStep) -> dict[str, Any]:
    settings = settings_of(step.step.settings, step.step.node)
    settings["after"] = (step.parent, settings["after"][1] if step.step.node.get("after") else "file order")
    own = {name: step.providers[name] for name in step.step.values}
    tree: dict[str, Any] = {
        **settings,
        "updates": {name: _update(step, update) for name, update in step.updates.items()},
    }
    if step.until:
        tree["until"] = _component(step.until)
    if own:
        tree["values"] = _components(own)
    if step.evaluations:
        tree["evaluate"] = {
            name: {**settings_of(e.evaluation.settings, e.evaluation.node), "metrics": _components(e.metrics)}
            for name, e in step.evaluations.items()
        }
    return tree


def _update(step: CheckedStep, update: CheckedUpdate) -> dict[str, Any]:
    node = step.step.updates[update.name].node
    losses: dict[str, Any] = {}
    for label, loss in update.losses.items():
        stated = loss.entry.node.get("weight") if loss.entry else None
        weight = (update.weight(label), str(stated.where) if stated else DEFAULT)
        losses[label] = {**_component(loss), "weight": weight, **_start(update, label)}
    losses.update(_spared(step.step.updates[update.name], update.balancer))
    own = {**settings_of(step.step.updates[update.name].settings, node), **_start(update, OWN)}
    tree: dict[str, Any] = {**own, "losses": losses}
    for key, configured in (
        ("optimizer", update.optimizer),
        ("scheduler", update.scheduler),
        ("balancer", update.balancer),
    ):
        if configured is not None:
            tree[key] = _component(configured)
    return tree


def _spared(update: UpdateEntry, balancer: ConfiguredComponent | None) -> dict[str, Any]:
    """Losses that are taken away and that the balancer would spare: it still names them."""
    if balancer is None or not hasattr(balancer.instance, "spared"):
        return {}
    named = set(balancer.instance.spared())
    return {label: (False, str(where)) for label, where in withdrawn_losses(update).items() if label in named}


def _start(update: CheckedUpdate, label: str) -> dict[str, Any]:
    """The condition that stands in place of a number of batches."""
    condition = update.starts[label].condition
    return {"start": _component(condition)} if condition is not None else {}
