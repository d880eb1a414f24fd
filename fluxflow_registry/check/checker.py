"""A recipe against a registry: the plan of the whole recipe, or every problem of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import evolve

from fluxflow_registry.check.configure import Components, Configurator
from fluxflow_registry.check.held_out_data import overlapping
from fluxflow_registry.check.metric_names import unlogged
from fluxflow_registry.check.misplaced_keys import with_full_paths
from fluxflow_registry.check.steps import StepPlanner
from fluxflow_registry.contracts import CONTEXT, Draw, ObserverExtras
from fluxflow_registry.errors import Problem, RecipeError, unique
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.plan.values import Request, World, resolve_values
from fluxflow_registry.recipe.load import load, order
from fluxflow_registry.recipe.node import Node
from fluxflow_registry.recipe.overrides import Setting
from fluxflow_registry.recipe.schema import RecipeEntry
from fluxflow_registry.registry.registry import Registry


def check(
    path: str | Path, registry: Registry, settings: Sequence[str | Setting] = (), root: Node | None = None
) -> RecipePlan:
    """Read and plan a recipe, or the tree `root`; raises RecipeError with every problem of it, in its order."""
    recipe, problems = load(path, settings, root)
    configurator = Configurator(registry, recipe, problems)
    plan = _plan(configurator)
    if configurator.problems:
        raise RecipeError([*with_full_paths(unique(configurator.problems), recipe, registry)])
    return plan


def _plan(configurator: Configurator) -> RecipePlan:
    """The plan of a recipe; incomplete where the configurator collects problems."""
    recipe = configurator.recipe
    models = configurator.configure_all("model", recipe.models)
    datasets = configurator.configure_all("dataset", recipe.datasets)
    sampler = configurator.configure("sampler", recipe.sampler) if recipe.sampler else None
    configurator.problems.extend(_reserved_models(recipe))
    observers = configurator.observers()
    shared = configurator.values(recipe.values, {}, "")
    names, problems = order(recipe.steps)
    configurator.problems.extend(problems)
    planner = StepPlanner(configurator, datasets, shared)
    every = [*names, *(name for name in recipe.steps if name not in names)]
    steps = [planner.plan(recipe.steps[name], index) for index, name in enumerate(every)]
    if not planner.blind:
        _check_draws(planner, observers)
    configurator.problems.extend(unlogged(recipe, observers.values(), configurator.watched))
    configurator.problems.extend(overlapping(recipe.steps, datasets, configurator.attempt))
    values = {label: shared[label] for label in recipe.values if label in shared}
    present = tuple(step for step in steps if step is not None)
    return RecipePlan(recipe, models, datasets, sampler, values, observers, present)


def _reserved_models(recipe: RecipeEntry) -> Iterable[Problem]:
    for label in recipe.models:
        if label in CONTEXT:
            where = recipe.node.value["models"].keys[label]
            message = f"model `{label}`: the engine itself provides this name; rename the model"
            yield Problem(message, where, (("cause", CONTEXT[label]),), code="duplicate-name", subject=label)


def _check_draws(planner: StepPlanner, observers: Components) -> None:
    """Resolve what observers will draw now, not at the end of a long run."""
    configurator = planner.configurator
    for label, observer in observers.items():
        draws = ObserverExtras.of(observer.instance).draws
        for draw in configurator.attempt(f"`draws` of observer `{label}`", observer.where, draws) or ():
            configurator.problems.extend(_draw_problems(planner, observer, draw))


def _draw_problems(planner: StepPlanner, observer: ConfiguredComponent, draw: Draw) -> Iterable[Problem]:
    recipe, who = planner.recipe, f"observer `{observer.label}`"
    removed = {name for name, entry in recipe.node.under("steps").items() if entry.value is False}
    for step in draw.steps:
        if step not in {*recipe.steps, *removed} and "steps" not in recipe.unread:
            message = f"{who} draws in step `{step}`, but the recipe has no such step"
            yield Problem(message, observer.place_of(step), code="unknown-name", subject=step, choices=recipe.steps)
    fields: Iterable[str] | None = draw.fields
    if draw.dataset is not None:
        fields = planner.fields(draw.dataset, observer.place_of(draw.dataset))
    if fields is not None:
        sampler = recipe.sampler is not None
        world = World.of(fields, recipe.models, planner.shared, sampler=sampler, image_size=True)
        world = evolve(world, contested=planner.configurator.registry.claims("value"))
        for name in draw.values:
            yield from resolve_values(world, [Request.of(who, [name], observer.place_of(name), observer)])[1]
