"""Steps form a graph by `after`: parents come first, and what can never begin is reported."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxflow_registry.errors import Choices, Place, Problem, RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.recipe.load import order
from fluxflow_registry.recipe.node import Node
from fluxflow_registry.recipe.schema import StepEntry, StepSettings

from ..recipes import line_of, steps

Prove = Callable[..., RecipePlan]


def graph(checked: RecipePlan) -> list[tuple[str | None, str]]:
    return [(step.parent, step.name) for step in checked.steps]


def problems(prove: Prove, text: str) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        prove(text)
    return list(caught.value.problems)


def test_steps_follow_each_other_in_the_order_of_the_file(prove: Prove) -> None:
    checked = prove(steps("a", "b", "c"))

    assert graph(checked) == [(None, "a"), ("a", "b"), ("b", "c")]
    assert [step.name for step in checked.leaves] == ["c"]


def test_siblings_start_from_one_parent(prove: Prove) -> None:
    checked = prove(steps("a", "b", "c", c="a"))

    assert graph(checked) == [(None, "a"), ("a", "b"), ("a", "c")]
    assert [step.name for step in checked.leaves] == ["b", "c"]


def test_a_step_after_null_starts_over(prove: Prove) -> None:
    checked = prove(steps("a", "b", b="null"))

    assert graph(checked) == [(None, "a"), (None, "b")]


def test_a_parent_may_come_after_its_child_in_the_file(prove: Prove) -> None:
    checked = prove(steps("late", "early", late="early", early="null"))

    assert graph(checked) == [(None, "early"), ("early", "late")]
    assert [step.index for step in checked.steps] == [0, 1]


def test_an_unknown_parent_is_reported_with_the_nearest_step(prove: Prove) -> None:
    text = steps("warmup", "gan", gan="warmpu")

    (problem,) = problems(prove, text)

    assert problem.message == "step `gan` starts after `warmpu`, but the recipe has no such step"
    assert str(problem.where).endswith(f"r.yaml:{line_of(text, 'warmpu')}:12")
    assert problem.choices == Choices("warmup", ("gan", "warmup"))


def test_a_step_behind_an_unknown_parent_is_reported_as_waiting_for_it(prove: Prove) -> None:
    text = steps("a", "b", "c", b="x")

    messages = [problem.message for problem in problems(prove, text)]

    assert messages == [
        "step `b` starts after `x`, but the recipe has no such step",
        "step `c` can never start: it waits for step `b`",
    ]


def test_a_cycle_is_reported_once(prove: Prove) -> None:
    text = steps("a", "b", "c", a="c")

    (problem,) = problems(prove, text)

    assert problem.message == "steps wait for each other: a -> c -> b -> a"
    assert str(problem.where).endswith(f"r.yaml:{line_of(text, 'after: c')}:12")


def test_a_step_after_itself_is_a_cycle(prove: Prove) -> None:
    (problem,) = problems(prove, steps("a", "b", b="b"))

    assert problem.message == "steps wait for each other: b -> b"


def test_a_step_behind_a_cycle_is_reported_as_waiting_for_it(prove: Prove) -> None:
    messages = [problem.message for problem in problems(prove, steps("a", "b", "c", a="b", b="a", c="b"))]

    assert messages == ["steps wait for each other: a -> b -> a", "step `c` can never start: it waits for step `b`"]


def step(name: str, parent: str | None) -> StepEntry:
    node = Node({}, name, {})
    return StepEntry(name, parent, StepSettings(dataset="d"), {}, None, {}, {}, node, Place(name))


NAMES = ["a", "b", "c", "d", "e"]


@given(st.permutations(NAMES), st.lists(st.sampled_from([None, *NAMES, "x"]), min_size=5, max_size=5))
def test_any_graph_is_ordered_parents_first_or_reported(names: list[str], parents: list[str | None]) -> None:
    graph = {name: step(name, parent) for name, parent in zip(names, parents, strict=True)}

    ordered, found = order(graph)

    for index, name in enumerate(ordered):
        parent = graph[name].parent
        assert parent is None or parent in ordered[:index]
    assert sorted(ordered) == sorted(NAMES) or found
    reported = " ".join(problem.message for problem in found)
    # Whatever can never begin is named in some problem: in a loop, behind one, or behind an unknown step.
    assert all(f"`{name}`" in reported or f" {name}" in reported for name in set(NAMES) - set(ordered))


@given(st.permutations(NAMES))
def test_the_order_of_the_file_is_kept_where_it_can_be(names: list[str]) -> None:
    graph = {name: step(name, previous) for previous, name in zip([None, *names], names, strict=False)}

    ordered, found = order(graph)

    assert (ordered, found) == (list(names), [])
