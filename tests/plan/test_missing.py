"""A problem of a name that cannot be resolved carries the name and the kind of problem: nobody reads its words."""

from __future__ import annotations

import pytest

from fluxflow_registry.plan.values import Request, World, resolve_values

from .made_up import made_up

NOTHING: frozenset[str] = frozenset()


def world(unset: frozenset[str] = NOTHING) -> World:
    return World(NOTHING, NOTHING, NOTHING, {}, unset=unset)


@pytest.mark.parametrize(
    ("name", "models", "unset", "code"),
    [
        ("critic", ["critic"], [], "missing-model"),
        ("sampler", [], [], "missing-value"),
        ("image_size", [], [], "missing-value"),
        ("critic", [], ["critic"], "missing-options"),
        ("critic", [], [], "unknown-value"),
    ],
    ids=["a model", "no sampler", "no image size", "options that must be set", "nothing provides it"],
)
def test_a_problem_carries_the_name_that_is_missing(name: str, models: list[str], unset: list[str], code: str) -> None:
    request = Request.by("loss `distance`", made_up("distance", [name], models))

    (problem,) = resolve_values(world(frozenset(unset)), [request])[1]

    assert (problem.code, problem.subject) == (code, name)
    assert problem.message.startswith("loss `distance` requests ")
    assert f"`{name}`" in problem.message


def test_a_name_with_two_providers_is_a_duplicate_and_not_missing() -> None:
    twice = World(frozenset({"critic"}), frozenset({"critic"}), NOTHING, {})

    (problem,) = resolve_values(twice, [Request.by("loss `distance`", made_up("distance", ["critic"]))])[1]

    assert (problem.code, problem.subject) == ("duplicate-name", "critic")
