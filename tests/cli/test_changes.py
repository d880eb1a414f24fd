"""A resumed run reports what has changed since it began."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fluxflow_registry.cli.plugins_of_run import changes, check_again
from fluxflow_registry.engine.run.folder import ENVIRONMENT
from fluxflow_registry.errors import RecipeError
from fluxflow_registry.registry.registry import Registry

from ..recipes import TINY

FACTS: dict[str, Any] = {
    "torch": "2.15.0",
    "device": "cpu",
    "threads": 2,
    "plugins": [{"name": "mine", "source": "aa"}, {"name": "ours", "source": "bb"}],
}


@pytest.mark.parametrize(
    ("before", "reported"),
    [
        ({}, []),
        ({"torch": "2.14.1"}, ["torch has changed from 2.14.1 to 2.15.0, so results may differ in their last bits"]),
        ({"threads": 1}, ["threads has changed from 1 to 2, so results may differ in their last bits"]),
        ({"plugins": [{"name": "mine", "source": "cc"}]}, ["plugin `mine` has changed"]),
        (
            {"device": "cuda\x1b[1m"},
            ["device has changed from cuda\\x1b[1m to cpu, so results may differ in their last bits"],
        ),
    ],
)
def test_what_has_changed_is_named(tmp_path: Path, before: dict[str, Any], reported: list[str]) -> None:
    (tmp_path / ENVIRONMENT).write_text(json.dumps({**FACTS, **before}))

    assert changes(tmp_path, FACTS) == reported


@pytest.mark.parametrize("content", ["", "[]", "3", "{", '{"plugins": 3}', '{"torch": "2.15.0"}'])
def test_an_environment_that_cannot_be_read_tells_of_no_change(tmp_path: Path, content: str) -> None:
    (tmp_path / ENVIRONMENT).write_text(content)

    assert changes(tmp_path, FACTS) == []
    assert changes(tmp_path / "nowhere", FACTS) == []


@pytest.mark.parametrize(
    ("before", "after", "code", "suggested"),
    [
        ("l1: {}", "unwritten: {}", "unknown-component", True),
        ("l1: {}", "l1: {with: {reconstruction: unwritten}}", "unknown-value", True),
        ("dataset: shapes", "dataset: unwritten", "unknown-name", False),
    ],
)
def test_a_plugin_file_is_suggested_only_for_what_plugins_provide(
    everything: Registry, tmp_path: Path, before: str, after: str, code: str, suggested: bool
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(TINY.replace(before, after))

    with pytest.raises(RecipeError) as caught:
        check_again(recipe, everything, "fluxflow-generate run")

    (problem,) = [each for each in caught.value.problems if each.subject == "unwritten"]
    hint = ("hint", "if a plugin file provides it, load it with --plugin FILE")
    assert problem.code == code
    assert (hint in problem.notes) == suggested
