"""What keeps datasets from being opened: each problem once, with the entries of the recipe that ask for it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from attrs import evolve

from fluxflow_registry.contracts import Source
from fluxflow_registry.engine.training.step import facts_of
from fluxflow_registry.errors import DataError, Location, Problem
from fluxflow_registry.plan.checked import ConfiguredComponent, RecipePlan
from fluxflow_registry.recipe.node import Node


def told_once(refused: Mapping[str, Sequence[Problem]], datasets: Mapping[str, ConfiguredComponent]) -> list[Problem]:
    """The problems of each dataset by its label; two that read the same files have most of them in common."""
    found: dict[tuple[Location | None, str], Problem] = {}
    askers: dict[tuple[Location | None, str], dict[str, None]] = {}
    for label, problems in refused.items():
        for problem in problems:
            same = problem.where, problem.message
            first = found.setdefault(same, problem)
            found[same] = evolve(first, notes=tuple(dict.fromkeys((*first.notes, *problem.notes))))
            place = mentioned(datasets[label], str(problem.where or ""))
            askers.setdefault(same, {}).setdefault(f"dataset `{label}` ({place})")
    return [
        evolve(problem, notes=(*problem.notes, ("asked by", "\n".join(askers[same]))))
        for same, problem in found.items()
    ]


def unfilled(checked: RecipePlan, sources: Mapping[str, Source]) -> list[Problem]:
    """What is wrong where a step's dataset does not fill a batch."""
    problems: dict[Problem, None] = {}
    for step in checked.steps:
        try:
            facts_of(step, sources[step.step.settings.dataset])
        except DataError as error:
            problems.update(dict.fromkeys(error.problems))
    return list(problems)


def mentioned(dataset: ConfiguredComponent, where: str) -> Location:
    """The place in the recipe of the option that names what stands at `where`, a file for one; else of the entry."""
    stated = _texts(dataset.entry.options) if dataset.entry else ()
    named: dict[tuple[int, bool], list[Location]] = {}
    for value, place in stated:
        path = os.path.expanduser(value).removeprefix("./")
        if path and _below(where, path):
            # The longest path is the nearest; of two, a word such as a split's is less likely a path than `./train`.
            named.setdefault((len(path), "/" in value), []).append(place)
    places = named[max(named)] if named else []
    return places[0] if len(places) == 1 else dataset.where


def _below(where: str, path: str) -> bool:
    """Whether a place is that of a path, or of something in it: a file of a folder, a line or a member of a file."""
    return where.startswith(path) and (path.endswith("/") or where[len(path) :][:1] in ("", "/", ":"))


def _texts(node: Node) -> Iterator[tuple[str, Location]]:
    """Every text below a node, with its place."""
    inner: Iterable[Node] = ()
    if isinstance(node.value, str):
        yield node.value, node.where
    elif isinstance(node.value, (dict, list)):
        inner = node.value.values() if isinstance(node.value, dict) else node.value
    for child in inner:
        yield from _texts(child)
