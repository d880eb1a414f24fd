"""Opening the datasets of a recipe: every problem once, with the entries of the recipe that requested it."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence

from attrs import evolve

from fluxflow_registry.contracts import Source
from fluxflow_registry.engine.data.declared import source_wrong
from fluxflow_registry.engine.data.order import batches_of
from fluxflow_registry.engine.graph.calls import build
from fluxflow_registry.engine.memory import size_problem
from fluxflow_registry.errors import DataError, FluxflowError, Location, Problem, condensed
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.recipe.node import Node


def open_sources(plan: RecipePlan, fill_batches: bool = True) -> dict[str, Source]:
    """Open every dataset of the recipe, before anything is written; raises DataError with every problem.

    `fill_batches`: whether each must fill a batch of the steps that train on it.
    """
    sources: dict[str, Source] = {}
    failed: dict[str, Sequence[Problem]] = {}
    for name, dataset in plan.datasets.items():
        try:
            sources[name] = build(dataset)
        except FluxflowError as error:
            failed[name] = error.problems
        else:
            if (wrong := source_wrong(sources[name])) is not None:
                message, notes = f"the source of dataset `{name}` {wrong}", (("defined in", dataset.definition),)
                failed[name] = [Problem(message, dataset.where, notes, code="wrong-return", subject=name)]
    if failed:
        raise DataError(merge_problems(failed, plan.datasets))
    trained = {step.settings.dataset for step in plan.steps}
    wheres = {name: dataset.where for name, dataset in plan.datasets.items()}
    oversized = (size_problem(name, source, wheres[name], name in trained) for name, source in sources.items())
    if problems := [problem for problem in oversized if problem is not None]:
        raise DataError(problems)
    if fill_batches and (problems := unfilled(plan, sources)):
        raise DataError(problems)
    return sources


def merge_problems(
    failed: Mapping[str, Sequence[Problem]], datasets: Mapping[str, ConfiguredComponent]
) -> list[Problem]:
    """The problems of the datasets by label, each once: two that read the same files have most of them in common."""
    merged: dict[Hashable, Problem] = {}
    requests: dict[Hashable, dict[str, None]] = {}
    for label, problems in failed.items():
        for problem in condensed(problems):
            same = evolve(problem, notes=()).identity
            first = merged.setdefault(same, problem)
            merged[same] = evolve(first, notes=tuple(dict.fromkeys((*first.notes, *problem.notes))))
            place = option_of(datasets[label], str(problem.where or ""))
            requests.setdefault(same, {}).setdefault(f"dataset `{label}` ({place})")
    return [
        evolve(problem, notes=(*problem.notes, ("requested by", "\n".join(requests[same]))))
        for same, problem in merged.items()
    ]


def unfilled(plan: RecipePlan, sources: Mapping[str, Source]) -> list[Problem]:
    """The problem of each step whose dataset does not fill a batch."""
    problems: dict[Problem, None] = {}
    for step in plan.steps:
        try:
            batches_of(step, sources[step.settings.dataset])
        except DataError as error:
            problems.update(dict.fromkeys(error.problems))
    return list(problems)


def option_of(dataset: ConfiguredComponent, path: str) -> Location:
    """The place in the recipe of the option that names a file or folder, or the entry's own place if none does."""
    options = _strings(dataset.entry.options) if dataset.entry else ()
    places: dict[tuple[int, bool], list[Location]] = {}
    for value, place in options:
        option = os.path.expanduser(value).removeprefix("./")
        if option and _is_below(path, option):
            # The longest option is the nearest; of two, a word such as `train` is less likely a path than `./train`.
            places.setdefault((len(option), "/" in value), []).append(place)
    nearest = places[max(places)] if places else []
    return nearest[0] if len(nearest) == 1 else dataset.where


def _is_below(path: str, option: str) -> bool:
    """Whether a path is the option's, or that of something in it: a file in a folder, a line or a member of a file."""
    return path.startswith(option) and (option.endswith("/") or path[len(option) :][:1] in ("", "/", ":"))


def _strings(node: Node) -> Iterator[tuple[str, Location]]:
    """Every string below a node, with its place."""
    if isinstance(node.value, str):
        yield node.value, node.where
    elif isinstance(node.value, (dict, list)):
        for child in node.value.values() if isinstance(node.value, dict) else node.value:
            yield from _strings(child)
