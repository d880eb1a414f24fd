"""A planned recipe as a tree of (value, origin), in the form of a recipe file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fluxflow_registry.check.metric_names import removed_losses
from fluxflow_registry.contracts import BalancerExtras, ObserverExtras
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import RecipePlan, StepPlan
from fluxflow_registry.plan.updates import Start, UpdatePlan, WhenMet
from fluxflow_registry.recipe.node import Node
from fluxflow_registry.recipe.schema import VERSION
from fluxflow_registry.recipe.writer import DEFAULT, component_of, settings_of


def effective_recipe(plan: RecipePlan) -> dict[str, Any]:
    """Every value of the recipe with its origin; written out, it is a recipe that means the same."""
    recipe = plan.recipe
    removed = {
        label: (False, str(recipe.node.at("observers", label)))
        for label, entry in recipe.observers.items()
        if entry is None
    }
    return {
        "recipe": (VERSION, str(recipe.node.at("recipe"))),
        "name": (recipe.name, _origin(recipe.node, "name")),
        "seed": (recipe.seed, _origin(recipe.node, "seed")),
        "models": _components(plan.models),
        "datasets": _components(plan.datasets),
        **({"sampler": _component(plan.sampler)} if plan.sampler else {}),
        **({"values": _components(plan.values)} if plan.values else {}),
        "observers": {**_components(plan.observers), **removed},
        "steps": {**{step.name: _step(step) for step in plan.steps}, **_removed_steps(plan)},
    }


def _removed_steps(plan: RecipePlan) -> dict[str, Any]:
    """Steps that the recipe removes and in which an observer would draw: its options still name them."""
    steps = plan.recipe.node.under("steps")
    draws = (draw for each in plan.observers.values() for draw in ObserverExtras.of(each.instance).draws())
    named = dict.fromkeys(name for draw in draws for name in draw.steps)
    return {name: (False, str(steps[name].where)) for name in named if name in steps and steps[name].value is False}


def _origin(node: Node, key: str) -> str:
    return str(node.at(key)) if node.get(key) is not None else DEFAULT


def _component(configured: ConfiguredComponent) -> dict[str, Any]:
    return component_of(configured.entry, configured.name, configured.instance, "joins every run by default")


def _components(configured: Mapping[str, ConfiguredComponent]) -> dict[str, Any]:
    return {label: _component(each) for label, each in configured.items()}


def _step(step: StepPlan) -> dict[str, Any]:
    settings = settings_of(step.settings, step.entry.node)
    settings["after"] = (step.parent, settings["after"][1] if step.entry.node.get("after") else "file order")
    tree: dict[str, Any] = {**settings, "updates": {name: _update(update) for name, update in step.updates.items()}}
    if step.until:
        tree["until"] = _component(step.until)
    if step.entry.values:
        tree["values"] = _components({name: step.providers[name] for name in step.entry.values})
    if step.evaluations:
        tree["evaluate"] = {
            name: {**settings_of(each.settings, each.entry.node), "metrics": _components(each.metrics)}
            for name, each in step.evaluations.items()
        }
    return tree


def _update(update: UpdatePlan) -> dict[str, Any]:
    losses: dict[str, Any] = {}
    for label, loss in update.losses.items():
        origin = _origin(loss.component.entry.node, "weight") if loss.component.entry else DEFAULT
        losses[label] = {**_component(loss.component), "weight": (loss.weight, origin), **_start(loss.start)}
    losses.update(_spared(update))
    tree: dict[str, Any] = {
        **settings_of(update.entry.settings, update.entry.node),
        **_start(update.start),
        "losses": losses,
        "optimizer": _component(update.optimizer),
    }
    for key, configured in (("scheduler", update.scheduler), ("balancer", update.balancer)):
        if configured is not None:
            tree[key] = _component(configured)
    return tree


def _spared(update: UpdatePlan) -> dict[str, Any]:
    """Losses that the recipe removes and that the balancer would spare: its options still name them."""
    named = BalancerExtras.of(update.balancer.instance).spared() if update.balancer else ()
    return {label: (False, str(where)) for label, where in removed_losses(update.entry).items() if label in named}


def _start(start: Start) -> dict[str, Any]:
    """The condition of a start that is not a number of batches."""
    return {"start": _component(start.condition)} if isinstance(start, WhenMet) else {}
