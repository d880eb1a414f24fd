"""What resolving says of a name that is not there does not have to be read out of its words."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from fluxflow_registry.errors import Place
from fluxflow_registry.plan.values import Ask, Missing, Provider, World, resolve
from fluxflow_registry.registry.signature import Signature


def world(absent: Mapping[str, str], unset: frozenset[str]) -> World:
    nothing: frozenset[str] = frozenset()
    return World(nothing, nothing, nothing, {}, absent=absent, unset=unset)


@pytest.mark.parametrize(
    ("models", "absent", "unset", "model"),
    [
        (["critic"], {}, [], True),
        ([], {"critic": "`--critic`"}, [], False),
        ([], {}, ["critic"], False),
        ([], {}, [], 0),
    ],
    ids=["a model", "stated nowhere", "options to be stated", "nothing provides it"],
)
def test_a_problem_carries_the_name_that_is_missing(
    models: list[str], absent: Mapping[str, str], unset: list[str], model: bool
) -> None:
    signature = Signature(("critic",), frozenset(models), Place("here.py", 1), "f(critic)")

    (problem,) = resolve(
        world(absent, frozenset(unset)), [Ask("a loss", Provider("loss", signature), Place("r.yaml", 1, 1))]
    )[1]

    assert isinstance(problem, Missing)
    assert (problem.name, problem.model) == ("critic", model)
    assert "`critic`" in problem.message


def test_what_is_there_twice_is_not_missing() -> None:
    signature = Signature(("critic",), frozenset(), Place("here.py", 1), "f(critic)")
    twice = World(frozenset({"critic"}), frozenset({"critic"}), frozenset(), {})

    (problem,) = resolve(twice, [Ask("a loss", Provider("loss", signature), Place("r.yaml", 1, 1))])[1]

    assert not isinstance(problem, Missing)
