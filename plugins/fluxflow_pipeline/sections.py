"""The sections of a FluxFlow file: settings out of a mapping, and every key that is none of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from attrs import evolve

from fluxflow_registry.errors import Location, Problem
from fluxflow_registry.recipe.convert import read_fields, unknown_keys
from fluxflow_registry.recipe.node import Node, describe
from fluxflow_registry.registry.signature import fields_of, key_of

from .config import Section
from .options import FORMER, MOOT, DataKeys, ModelKeys, OutputKeys, StepKeys

T = TypeVar("T")

#: The sections at the top of a file.
SECTIONS: Mapping[str, type] = {"model": ModelKeys, "data": DataKeys, "training": StepKeys, "output": OutputKeys}


def keys_of(cls: type) -> list[str]:
    """The keys that a section may have."""
    return [key_of(attribute) for attribute in fields_of(cls)]


#: The keys of a step, but for its name; and those of a pipeline.
STEP = [*keys_of(StepKeys), "transition_on", "optimization"]
PIPELINE = ["defaults", "steps", "datasets", "default_dataset", "mode"]

#: Where a key stands that is unknown elsewhere.
_HOMES = {**{name: keys_of(cls) for name, cls in SECTIONS.items()}, "training.pipeline": PIPELINE}
_HOMES["training"] = [*STEP, "pipeline"]


class Reader:
    """Reads mappings into settings, and collects problems and notes."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.notes: list[Problem] = []

    def problem(self, message: str, where: Location | str, notes: tuple[tuple[str, str], ...] = ()) -> None:
        """Something that is wrong."""
        self.problems.append(Problem(message, where, notes))

    def note(self, message: str, where: Location | str) -> None:
        """Something that the user should know."""
        self.notes.append(Problem(message, where))

    def mapping(self, parent: Node, key: str, what: str) -> Node:
        """The mapping under a key; nothing there is an empty one."""
        node = parent.get(key)
        if node is None or node.value is None:
            return Node({}, parent.where, {})
        if not isinstance(node.value, dict):
            self.problem(f"{what} is a mapping, not {describe(node.value)}", node.where)
            return Node({}, node.where, {})
        return node

    def section(self, cls: type[T], node: Node, name: str, also: Iterable[str] = (), what: str = "") -> Section[T]:
        """A section's settings; where one is wrong its default stands in, so that reading can go on."""
        what = what or f"`{name}`"
        meant = self.keys(node, [*keys_of(cls), *also], what, name)
        return self.settings(cls, node, what, meant)

    def settings(self, cls: type[T], node: Node, what: str, misspelt: Iterable[str] = ()) -> Section[T]:
        """The settings that the mapping states rightly, the defaults for the rest; unknown keys are left alone."""
        arguments, problems = read_fields(cls, _without_nothing(cls, node), what, set(misspelt))
        self.problems.extend(problems)
        return Section(cls(**arguments), node)

    def keys(self, node: Node, known: Iterable[str], what: str, name: str) -> set[str]:
        """Tell unknown keys, keys of earlier versions and keys that are not needed; gives what was probably meant."""
        moot = MOOT.get(name, {})
        for key in node.value:
            if key in moot and node.value[key].value is not None:
                self.note(f"`{key}` is not needed: {moot[key]}", node.keys[key])
        former = [key for key in node.value if key in FORMER and key not in known]
        for key in former:
            self.problem(f"`{key}` is a spelling of an earlier version", node.keys[key], (("now", FORMER[key]),))
        known = [*known, *moot]
        problems, meant = unknown_keys(node.without(former), known, what)
        for problem in problems:
            key = problem.message.split("`")[1]
            homes = [f"`{home}`" for home, keys in _HOMES.items() if home != name and key in keys]
            notes = (*problem.notes, ("belongs to", " or ".join(homes))) if homes else problem.notes
            self.problems.append(evolve(problem, notes=notes))
        return meant | {FORMER[key].partition(":")[0] for key in former}


def label(text: str) -> str:
    """A text as a name in a recipe: letters, digits and _."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")[:64]


def _without_nothing(cls: type, node: Node) -> Node:
    """The mapping without keys that say nothing (`webdataset_token: null`), which stand for their defaults."""
    known = keys_of(cls)
    return node.only(key for key, child in node.value.items() if key in known and child.value is not None)
