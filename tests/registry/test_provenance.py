"""Every component knows the plugin, the distribution and the line that it comes from."""

from __future__ import annotations

import ast
import inspect
from importlib.metadata import version
from pathlib import Path

import pytest

from fluxflow_registry.contracts import KINDS
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Component, Registry

ROOT = Path(__file__).parents[2]
COMPONENTS = [component for named in load().components.values() for component in named.values()]


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: f"{component.kind}:{component.name}")
def test_a_component_is_found_at_the_line_that_it_names(component: Component, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    file, line = str(component.where).rsplit(":", 1)
    path = ROOT / file
    name = inspect.unwrap(component.factory).__name__

    (node,) = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name
    ]

    first = node.decorator_list[0].lineno if node.decorator_list else node.lineno
    assert int(line) in (first, node.lineno)


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: f"{component.kind}:{component.name}")
def test_a_component_knows_its_distribution_and_says_what_it_is(component: Component) -> None:
    assert component.plugin.distribution == "fluxflow-registry"
    assert component.plugin.version == version("fluxflow-registry")
    assert component.plugin.error is None
    assert component.summary.strip()


def test_all_kinds_but_none_else_are_there(everything: Registry) -> None:
    assert set(everything.components) == set(KINDS)
    assert all(everything.components.values())


def test_no_first_party_plugin_fails(everything: Registry) -> None:
    assert [plugin for plugin in everything.plugins if plugin.error] == []
