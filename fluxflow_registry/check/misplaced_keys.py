"""Unknown keys of a recipe that are valid at another depth of it: the full path at which each belongs."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import get_args

import attrs

from fluxflow_registry.contracts import KINDS, NoSettings
from fluxflow_registry.errors import Location, Problem, listed
from fluxflow_registry.recipe.load import EVALUATION_KEYS, STEP_KEYS, TOP, UPDATE_KEYS
from fluxflow_registry.recipe.node import Node
from fluxflow_registry.recipe.schema import ComponentEntry, RecipeEntry, StepSettings
from fluxflow_registry.registry.registry import Registry
from fluxflow_registry.registry.signature import fields_of, is_configurable, key_of, keys_of

#: The keys that lead to a mapping of the recipe.
Path = tuple[str, ...]

#: Mappings whose keys are names that the recipe chooses: an option of one entry does not belong to another.
_NAMED = {"models", "datasets", "values", "observers", "steps", "updates", "losses", "evaluate", "metrics"}

#: Paths that are shown at most.
_SHOWN = 3


def with_full_paths(problems: Iterable[Problem], recipe: RecipeEntry, registry: Registry) -> Iterator[Problem]:
    """The problems; an unknown key that belongs elsewhere in the recipe has the path there instead of other keys."""
    mappings = dict(_mappings(recipe, registry))
    for problem in problems:
        key, where = problem.subject, problem.where
        if problem.code == "unknown-key" and problem.nearest is None and key is not None and where is not None:
            places = [".".join((*path, key)) for path in _places(key, _path_of(recipe.node, key, where), mappings)]
            if places:
                note = ("instead", listed([f"`{place}`" for place in places], _SHOWN))
                notes = (note, *problem.notes)
                problem = Problem(problem.message, where, notes, code=problem.code, subject=key)
        yield problem


def _path_of(node: Node, key: str, where: Location) -> Path | None:
    """The path of the mapping that has a key at a location."""
    if isinstance(node.value, dict):
        if node.keys.get(key) == where:
            return ()
        for name, child in node.value.items():
            inner = _path_of(child, key, where)
            if inner is not None:
                return (name, *inner)
    return None


def _places(key: str, wrong: Path | None, mappings: Mapping[Path, Collection[str]]) -> list[Path]:
    """The mappings in which a key is valid and that are nearest to the one that has it, the outermost first."""
    if wrong is None:
        return []
    found: dict[Path, int] = {}
    # A key of a component is meant as an option, whatever components have that name.
    option = wrong not in ((), ("defaults",)) and wrong[-2:-1] not in (("steps",), ("updates",), ("evaluate",))
    for path in mappings:
        shared = next((n for n, (a, b) in enumerate(zip(path, wrong, strict=False)) if a != b), None)
        beside = shared is not None and shared > 0 and path[shared - 1] in _NAMED
        name = bool(path) and path[-1] in _NAMED
        if key in mappings[path] and path != wrong and not beside and not (option and name):
            found[path] = min(len(path), len(wrong)) if shared is None else shared
    nearest = [path for path in found if found[path] == max(found.values())]
    around = [path for path in nearest if wrong[: len(path)] == path]
    return sorted(around or nearest, key=len)


def _mappings(recipe: RecipeEntry, registry: Registry) -> Iterator[tuple[Path, Collection[str]]]:
    """Each mapping of the recipe that has keys of the language, options, or names of components; with all of these."""

    def entry(path: Path, kind: str, present: ComponentEntry | None) -> Iterator[tuple[Path, Collection[str]]]:
        if present is not None:
            component = registry.get(kind, present.type)
            configurable = component is not None and is_configurable(component.factory)
            options = component.factory if component and configurable else NoSettings
            yield path, [*KINDS[kind].keys, *keys_of(options)]
            yield from (*_nested(path, KINDS[kind].settings), *_nested(path, options))

    def entries(
        path: Path, kind: str, present: Mapping[str, ComponentEntry | None]
    ) -> Iterator[tuple[Path, Collection[str]]]:
        yield path, list(registry.components[kind])
        for label, each in present.items():
            yield from entry((*path, label), kind, each)

    yield (), TOP
    if recipe.node.get("defaults") is not None:
        yield ("defaults",), STEP_KEYS
    yield from entries(("models",), "model", recipe.models)
    yield from entries(("datasets",), "dataset", recipe.datasets)
    yield from entries(("values",), "value", recipe.values)
    yield from entries(("observers",), "observer", recipe.observers)
    yield from entry(("sampler",), "sampler", recipe.sampler)
    for name, step in recipe.steps.items():
        at: Path = ("steps", name)
        yield at, STEP_KEYS
        yield from _nested(at, StepSettings)
        yield from entries((*at, "values"), "value", step.values)
        yield from entry((*at, "until"), "transition", step.until)
        for label, update in step.updates.items():
            inner = (*at, "updates", label)
            yield inner, UPDATE_KEYS
            yield from entries((*inner, "losses"), "loss", update.losses)
            yield from entry((*inner, "optimizer"), "optimizer", update.optimizer)
            yield from entry((*inner, "scheduler"), "scheduler", update.scheduler)
            yield from entry((*inner, "balancer"), "balancer", update.balancer)
        for label, evaluation in step.evaluate.items():
            inner = (*at, "evaluate", label)
            yield inner, EVALUATION_KEYS
            yield from entries((*inner, "metrics"), "metric", evaluation.metrics)
        # A step that has none may have been meant to.
        yield from [((*at, "updates", "NAME"), UPDATE_KEYS)] if not step.updates else ()
        yield from [((*at, "evaluate", "NAME"), EVALUATION_KEYS)] if not step.evaluate else ()


def _nested(path: Path, cls: type) -> Iterator[tuple[Path, Collection[str]]]:
    """The mappings that are options themselves, such as `ema` of a step."""
    for attribute in fields_of(cls):
        for kind in (attribute.type, *get_args(attribute.type)):
            if inspect.isclass(kind) and attrs.has(kind):
                yield (*path, key_of(attribute)), keys_of(kind)
