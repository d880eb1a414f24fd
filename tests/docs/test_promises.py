"""`docs/promises.md` names only what exists, and every component."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fluxflow_registry.cli.describe import options
from fluxflow_registry.cli.schema import recipe_schema
from fluxflow_registry.contracts import KINDS
from fluxflow_registry.registry.registry import Registry

from .story import REPOSITORY

PAGE = REPOSITORY / "docs" / "promises.md"

#: Kinds whose components are all on the page; of the many values, only those that provide a feature are.
WHOLE = sorted(set(KINDS) - {"value"})

COMPONENT = re.compile(rf"`({'|'.join(KINDS)}):(\w+)(?:\.(\w+))?`")
TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


def rows() -> Iterator[tuple[int, str, str, str]]:
    """Yield the rows of all tables: line, feature, what provides it, and the tests."""
    for number, line in enumerate(PAGE.read_text().splitlines(), 1):
        if line.startswith("| ") and not line.startswith(("| feature |", "| ---")):
            feature, provider, tests = (cell.strip() for cell in line.strip("|").split(" | "))
            yield number, feature, provider, tests


@cache
def names_in(path: Path) -> set[str]:
    """Return the names of the tests in a file, without running it."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def keys_in(schema: Any) -> Iterator[str]:
    """Yield every key of the objects of a JSON schema, at any depth."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for part in schema.values():
            yield from keys_in(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from keys_in(part)


def test_every_row_has_a_feature_a_provider_and_a_test() -> None:
    found = list(rows())

    assert len(found) > 100
    for number, feature, provider, tests in found:
        assert feature, number
        assert provider, number
        assert TEST.sub("", tests).strip(", ") == "", f"line {number} names something that is not a test: {tests}"
        assert TEST.search(tests), number


def test_every_test_on_the_page_exists() -> None:
    named = set(TEST.findall(PAGE.read_text()))

    missing = [
        f"{file}::{name}"
        for file, name in sorted(named)
        if not (REPOSITORY / "tests" / file).exists() or name not in names_in(REPOSITORY / "tests" / file)
    ]
    assert missing == []
    assert PAGE.read_text().count(".py::") == len(TEST.findall(PAGE.read_text())), "a test is named in another form"


def test_every_component_and_option_on_the_page_exists(everything: Registry) -> None:
    named = set(COMPONENT.findall(PAGE.read_text()))

    unknown = []
    for kind, name, option in sorted(named):
        component = everything.get(kind, name)
        known = {each["name"] for each in options(component)} if component else set()
        if component is None or (option and option not in known):
            unknown.append(f"{kind}:{name}{'.' if option else ''}{option}")
    assert unknown == []


def test_every_key_on_the_page_belongs_to_the_language(everything: Registry) -> None:
    known = set(keys_in(recipe_schema(everything)))

    words = {(number, word) for number, _, provider, _ in rows() for word in re.findall(r"`(\w+)`", provider)}

    assert [(number, word) for number, word in sorted(words) if word not in known] == []


@pytest.mark.parametrize("kind", WHOLE)
def test_every_component_is_on_the_page(everything: Registry, kind: str) -> None:
    named = {name for found, name, _ in COMPONENT.findall(PAGE.read_text()) if found == kind}

    assert named == set(everything.names(kind))
