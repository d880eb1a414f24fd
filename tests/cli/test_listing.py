"""`--list-plugins` shows every plugin and every component, or those of one kind."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from fluxflow_registry.contracts import CONTEXT, KINDS
from fluxflow_registry.registry.registry import Registry

from ..synthetic import Site
from .conftest import Answer

Call = Callable[..., Answer]


def test_all_plugins_and_all_components_are_listed(call: Call, everything: Registry) -> None:
    listed = call("--list-plugins")

    assert listed.code == 0
    assert listed.err == ""
    assert listed.out.startswith("PLUGINS\n")
    for plugin in everything.plugins:
        assert f"  {plugin.name:<11}  fluxflow-registry {plugin.version}\n" in listed.out
    for kind, named in everything.components.items():
        assert f"\n{KINDS[kind].plural.upper()}\n" in listed.out
        for name, component in named.items():
            assert any(
                line.split(maxsplit=1) == [name, *([component.summary] if component.summary else [])]
                for line in listed.out.splitlines()
            )


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_one_kind_is_listed_in_full_in_the_singular_and_in_the_plural(
    call: Call, everything: Registry, kind: object
) -> None:
    from fluxflow_registry.contracts import Kind

    assert isinstance(kind, Kind)

    singular, plural = call("--list-plugins", kind.name), call("--list-plugins", kind.plural)

    assert singular == plural
    assert singular.code == 0
    assert singular.out.startswith(f"{kind.plural.upper()}\n")
    assert "PLUGINS" not in singular.out
    for name, component in everything.components[kind.name].items():
        assert f"  {name} " in singular.out
        if component.signature.needs:
            assert f"needs {', '.join(component.signature.needs)}\n" in singular.out


def test_values_are_listed_with_those_of_the_engine(call: Call) -> None:
    listed = call("--list-plugins", "value")

    assert "PROVIDED BY THE ENGINE" in listed.out
    for name, meaning in CONTEXT.items():
        assert f"  {name}" in listed.out
        assert meaning in listed.out


@pytest.mark.parametrize(("name", "nearest"), [("valeu", "value"), ("lossess", "loss"), ("Model", "model")])
def test_an_unknown_kind_is_reported_with_the_nearest(call: Call, name: str, nearest: str) -> None:
    answer = call("--list-plugins", name)

    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith(
        f"--list-plugins  `{name}` is not a kind of component\n    nearest    {nearest}\n    available  balancer,"
    )


def test_a_plugin_that_fails_is_a_row_with_its_error(call: Call, site: Site) -> None:
    site.distribution(
        "bad-distribution", {"bad": "bad_listed"}, version="2.5", bad_listed="raise ImportError('no \x1b[31m')"
    )

    listed = call("--list-plugins")
    data = json.loads(call("--list-plugins", "--json").out)

    error = "bad_listed.py:1  plugin `bad` cannot be imported: ImportError: no \\x1b[31m"
    assert f"  bad          bad-distribution 2.5\n      not loaded: {error}\n" in listed.out
    row = next(row for row in data["plugins"] if row["name"] == "bad")
    (problem,) = row.pop("problems")
    assert row == {"name": "bad", "distribution": "bad-distribution", "version": "2.5", "error": error}
    assert (problem["code"], problem["subject"]) == ("broken-plugin", "bad")


def test_a_plugin_with_a_contested_name_is_listed_as_partly_loaded(call: Call, site: Site) -> None:
    both = """
        from fluxflow_registry import hookimpl

        def one(image):
            pass

        def other(image):
            pass

        @hookimpl
        def fluxflow_register_losses(register):
            register("contested", one)
            register("{own}", other)
    """
    site.distribution("first", {"first": "listed_a"}, listed_a=both.format(own="own_a"))
    site.loss("second", "contested", plugin="listed_b")

    listed = call("--list-plugins")

    assert "partly loaded: loss `contested` is registered by first, first 1.0 (" in listed.out
    assert "not loaded: loss `contested` is registered by first, first 1.0 (" in listed.out
    assert "\n  own_a" in listed.out
    assert "\n  contested" not in listed.out


def test_the_listing_as_json_holds_every_component(call: Call, everything: Registry) -> None:
    data = json.loads(call("--list-plugins", "--json").out)
    losses = json.loads(call("--list-plugins", "losses", "--json").out)

    assert {(row["kind"], row["name"]) for row in data["components"]} == {
        (kind, name) for kind, named in everything.components.items() for name in named
    }
    assert {row["kind"] for row in losses["components"]} == {"loss"}
    assert {row["name"] for row in losses["plugins"]} == {plugin.name for plugin in everything.plugins}
