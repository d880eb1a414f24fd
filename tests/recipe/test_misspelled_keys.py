"""Every key of the default recipe, misspelled one at a time: an error at its location with the nearest key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from attrs import frozen
from ruamel.yaml import YAML

from fluxflow_registry.check.checker import check
from fluxflow_registry.errors import Problem, RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.registry import Registry

from ..recipes import DEFAULT

TEXT = DEFAULT.read_text()


@frozen
class Key:
    """A key of the recipe and where it stands, from 1."""

    path: tuple[str, ...]
    line: int
    column: int

    @property
    def name(self) -> str:
        return self.path[-1]

    @property
    def place(self) -> str:
        return f":{self.line}:{self.column}"

    def misspelled(self, name: str) -> str:
        """The recipe with another name for this key, on lines and columns that are otherwise the same."""
        lines = TEXT.split("\n")
        line, start = lines[self.line - 1], self.column - 1
        assert line[start:].startswith(self.name)
        lines[self.line - 1] = line[:start] + name + line[start + len(self.name) :]
        return "\n".join(lines)


def keys(tree: Any, path: tuple[str, ...] = ()) -> Iterator[Key]:
    for key, child in tree.items():
        line, column = tree.lc.key(key)
        yield Key((*path, key), line + 1, column + 1)
        if isinstance(child, dict):
            yield from keys(child, (*path, key))


def slips(name: str) -> list[str]:
    """The name with a letter doubled, and with two swapped; tests/test_errors.py tries more."""
    middle = len(name) // 2
    doubled = name[:middle] + name[middle] + name[middle:]
    swapped = name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :]
    return [slip for slip in (doubled, swapped) if slip != name]


KEYS = list(keys(YAML().load(TEXT)))

#: Keys that are the recipe's own names and that nothing else in it refers to: another name is as good.
FREE = (
    ("steps", "*"),
    ("steps", "*", "updates", "*"),
    ("steps", "*", "evaluate", "*"),
    ("observers", "*"),  # all of them say their `type`
)
#: Names that the recipe refers to: what refers to one no longer finds it.
REFERRED = (("models", "*"), ("datasets", "*"))


def is_one_of(key: Key, patterns: tuple[tuple[str, ...], ...]) -> bool:
    return any(
        len(pattern) == len(key.path) and all(p in ("*", part) for p, part in zip(pattern, key.path, strict=True))
        for pattern in patterns
    )


def references(name: str, before: str) -> set[str]:
    """The places at which a name stands behind `trains: [` or the like, found by eye."""
    found = set()
    for number, line in enumerate(TEXT.split("\n"), start=1):
        for match in re.finditer(rf"(?:{before})([\w, ]*)", line):
            inside = re.finditer(rf"\b{name}\b", match[1])
            found |= {f":{number}:{match.start(1) + word.start() + 1}" for word in inside}
    return found


def report(prove: Callable[..., RecipePlan], text: str) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        prove(text)
    return list(caught.value.problems)


def identify(key: Key) -> str:
    return f"{key.line}:{key.column} {'.'.join(key.path)}"


SETTINGS = [key for key in KEYS if not is_one_of(key, (*FREE, *REFERRED, ("recipe",)))]


@pytest.mark.parametrize("key", SETTINGS, ids=identify)
def test_a_misspelled_key_is_reported_at_its_location_with_the_nearest_key(
    key: Key, prove: Callable[..., RecipePlan]
) -> None:
    for slip in slips(key.name):
        (problem,) = report(prove, key.misspelled(slip))

        assert str(problem.where).endswith(key.place)
        assert re.search(rf"unknown (key|loss|metric|value) `{slip}`", problem.message)
        assert (problem.nearest or "").split()[0] == key.name


@pytest.mark.parametrize("key", [key for key in KEYS if is_one_of(key, REFERRED)], ids=identify)
def test_a_misspelled_name_of_the_recipe_is_reported_where_it_is_used_with_the_nearest_name(
    key: Key, prove: Callable[..., RecipePlan]
) -> None:
    for slip in slips(key.name):
        found = report(prove, key.misspelled(slip))

        places = {re.sub(r".*(:\d+:\d+)", r"\1", str(problem.where)) for problem in found}
        assert places >= references(key.name, r"trains: \[|dataset: ")
        for problem in found:
            assert f"`{key.name}`" in problem.message
            assert problem.nearest == slip


@pytest.mark.parametrize("key", [key for key in KEYS if is_one_of(key, FREE)], ids=identify)
def test_a_name_that_nothing_refers_to_may_be_any_other(
    key: Key, prove: Callable[..., RecipePlan], everything: Registry
) -> None:
    observers = check(DEFAULT, everything).observers.values()
    drawn = {step for o in observers if hasattr(o.instance, "draws") for d in o.instance.draws() for step in d.steps}

    for slip in slips(key.name):
        if key.path[0] == "steps" and len(key.path) == 2 and key.name in drawn:
            found = report(prove, key.misspelled(slip))
            assert {re.sub(r".*(:\d+:\d+)", r"\1", str(p.where)) for p in found} == references(key.name, r"steps: \[")
            assert all(problem.nearest == slip for problem in found)
        else:
            assert slip in str(prove(key.misspelled(slip)).recipe.node.plain())


def test_a_misspelled_version_is_reported_before_anything_else(prove: Callable[..., RecipePlan]) -> None:
    (key,) = [key for key in KEYS if key.path == ("recipe",)]

    for slip in slips("recipe"):
        (problem,) = report(prove, key.misspelled(slip))

        assert problem.code == "unknown-key"
        assert str(problem.where).endswith(key.place)
        assert (problem.subject, problem.nearest) == (slip, "recipe")


def test_every_kind_of_key_has_cases() -> None:
    assert len(KEYS) > 150
    for pattern in (*FREE, *REFERRED):
        assert any(is_one_of(key, (pattern,)) for key in KEYS)


@pytest.mark.parametrize("key", SETTINGS[::50], ids=identify)
def test_the_command_reports_a_misspelled_key_and_exits_with_2(
    command: Callable[..., CompletedProcess[str]], tmp_path: Path, key: Key
) -> None:
    (slip, *_) = slips(key.name)
    (tmp_path / "r.yaml").write_text(key.misspelled(slip))

    done = command("--validate", "r.yaml")

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"r.yaml{key.place}  unknown ")
    assert re.search(rf"`{slip}`.*\n    nearest +{key.name}\b", done.stderr)
