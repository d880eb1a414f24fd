"""Values become what their types say, strictly: nothing is coerced, and every problem has its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from attrs import field, frozen, validators
from hypothesis import given
from hypothesis import strategies as st

from fluxflow_registry.errors import Place
from fluxflow_registry.recipe.convert import describe_type, structure
from fluxflow_registry.recipe.node import Node, describe
from fluxflow_registry.recipe.reader import parse
from fluxflow_registry.registry.signature import fields_of


class Colour(Enum):
    """A type that cattrs knows by itself."""

    RED = "red"
    BLUE = "blue"


@frozen
class Inner:
    """Options in options."""

    size: int = field(validator=validators.gt(0))
    name: str = "inner"


@frozen
class Everything:
    """An option of each type that a component may have."""

    whole: int = 0
    number: float = 0.0
    switch: bool = False
    text: str = ""
    choice: Literal["a", "b", 3] = "a"
    perhaps: int | None = None
    either: int | str = 0
    wholes: list[int] = field(factory=list)
    pair: tuple[float, float] = (0.0, 0.0)
    texts: tuple[str, ...] = ()
    several: Sequence[float] = ()
    names: set[str] = field(factory=set)
    table: dict[str, float] = field(factory=dict)
    view: Mapping[Literal["low", "high"], int] = field(factory=dict)
    inner: Inner | None = None
    inners: list[Inner] = field(factory=list)
    anything: Any = None
    path: Path = Path()
    colour: Colour = Colour.RED


#: For each option: values that it takes, and values that it refuses with what is said of them.
CASES: dict[str, tuple[list[Any], list[tuple[Any, str]]]] = {
    "whole": (
        [0, -3, 2**63],
        [
            (3.7, "expected a whole number, not the number `3.7`"),
            (3.0, "expected a whole number, not the number `3.0`"),
            (True, "expected a whole number, not `true`"),
            ("3", "expected a whole number, not the text `3`"),
            (None, "expected a whole number, not nothing"),
            ([3], "expected a whole number, not a list"),
            ({"a": 3}, "expected a whole number, not a mapping"),
        ],
    ),
    "number": (
        [0, 1.5, -2],
        [
            (True, "expected a number, not `true`"),
            ("1.5", "expected a number, not the text `1.5`"),
            (None, "expected a number, not nothing"),
            (float("nan"), "expected a number, not the number `nan`"),
            (float("inf"), "expected a number, not the number `inf`"),
            (float("-inf"), "expected a number, not the number `-inf`"),
        ],
    ),
    "switch": (
        [True, False],
        [
            ("false", "expected true or false, not the text `false`"),
            ("yes", "expected true or false, not the text `yes`"),
            (0, "expected true or false, not the number `0`"),
            (1, "expected true or false, not the number `1`"),
            (None, "expected true or false, not nothing"),
        ],
    ),
    "text": (
        ["", "abc", "1"],
        [
            (1, "expected a text, not the number `1`"),
            (False, "expected a text, not `false`"),
            (None, "expected a text, not nothing"),
            (["abc"], "expected a text, not a list"),
        ],
    ),
    "choice": (
        ["a", "b", 3],
        [
            ("c", "expected one of a, b, 3, not the text `c`"),
            (3.0, "expected one of a, b, 3, not the number `3.0`"),
            (True, "expected one of a, b, 3, not `true`"),
            (None, "expected one of a, b, 3, not nothing"),
        ],
    ),
    "perhaps": ([None, 4], [(4.5, "expected a whole number, not the number `4.5`"), ("", "expected a whole number")]),
    "either": (
        [4, "four"],
        [(4.5, "expected a whole number or a text, not the number `4.5`"), (None, "expected a whole number or a text")],
    ),
    "wholes": (
        [[], [1, 2]],
        [
            ("abc", "expected a list, each a whole number, not the text `abc`"),
            ({"a": 1}, "expected a list, each a whole number, not a mapping"),
            (1, "expected a list, each a whole number, not the number `1`"),
            ([1, "2"], "expected a whole number, not the text `2`"),
        ],
    ),
    "pair": (
        [[0.5, 1]],
        [
            ([0.5], "expected a list of 2: a number, a number, not a list"),
            ([0.5, 1, 2], "expected a list of 2: a number, a number, not a list"),
            ([0.5, "1"], "expected a number, not the text `1`"),
            ("ab", "expected a list of 2: a number, a number, not the text `ab`"),
        ],
    ),
    "texts": ([[], ["a", "b"]], [("ab", "expected a list, each a text, not the text `ab`"), ([1], "expected a text")]),
    "several": ([[1, 2.5]], [(1, "expected a list, each a number, not the number `1`")]),
    "names": ([["a", "b", "a"]], [("ab", "expected a list, each a text, not the text `ab`")]),
    "table": ([{}, {"a": 1}], [([1], "expected a mapping, each a number, not a list"), ({"a": "1"}, "expected a num")]),
    "view": ([{"low": 1}], [({"mid": 1}, "expected one of low, high, not the text `mid`")]),
    "inner": (
        [None, {"size": 2}, {"size": 2, "name": "x"}],
        [
            ({"size": 0}, "must be > 0: 0"),
            ({"size": "2"}, "expected a whole number, not the text `2`"),
            ({}, "needs `size`"),
            ({"size": 1, "nmae": "x"}, "unknown key `nmae`"),
            ([1], "expected a mapping (Inner), not a list"),
        ],
    ),
    "inners": ([[{"size": 1}]], [([{"size": 1}, {"size": -1}], "must be > 0: -1")]),
    "anything": ([None, 1, "a", [1], {"a": 1}], []),
    "path": (["a/b"], [(3, "expected a value (Path), not the number `3`"), (None, "expected a value (Path)")]),
    "colour": (["red"], [("green", "expected one of red, blue, not the text `green`"), ([1], "expected one of red")]),
}
TAKEN = [(name, value) for name, (taken, _) in CASES.items() for value in taken]
REFUSED = [(name, value, told) for name, (_, refused) in CASES.items() for value, told in refused]


def node(**values: Any) -> Node:
    """A mapping as if it stood in a file, each option on a line of its own."""
    return Node(
        {name: place(value, f"r.yaml:{line}:9") for line, (name, value) in enumerate(values.items(), start=1)},
        "r.yaml:1:1",
        {name: Place("r.yaml", line, 1) for line, name in enumerate(values, start=1)},
    )


def place(value: Any, where: str) -> Node:
    if isinstance(value, list):
        return Node([place(item, f"{where}[{index}]") for index, item in enumerate(value)], where, {})
    if isinstance(value, dict):
        children = {key: place(item, f"{where}.{key}") for key, item in value.items()}
        return Node(children, where, {key: Place(f"{where}.{key}") for key in value})
    return Node(value, where, {})


@pytest.mark.parametrize(("name", "value"), TAKEN)
def test_a_value_of_the_right_type_is_taken_as_it_is(name: str, value: Any) -> None:
    made, problems = structure(Everything, node(**{name: value}), "loss `x`")

    assert problems == []
    found = getattr(made, name)
    if isinstance(value, (int, float, str, bool)) and not isinstance(found, (Path, Enum)):
        assert found == value
        assert type(found) is (float if name == "number" else type(value))


@pytest.mark.parametrize(("name", "value", "told"), REFUSED)
def test_a_value_of_another_type_is_refused_and_never_coerced(name: str, value: Any, told: str) -> None:
    made, problems = structure(Everything, node(**{name: value}), "loss `x`")

    assert made is None
    (problem,) = problems
    assert problem.message.startswith(f"`{name}` of loss `x`: {told}")
    assert str(problem.where).startswith("r.yaml:1:9")


def test_every_type_of_option_is_tried_here() -> None:
    assert set(CASES) == {attribute.name for attribute in fields_of(Everything)}


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("wholes", [1, 2, "x"], "r.yaml:1:9[2]"),
        ("table", {"a": 1, "b": []}, "r.yaml:1:9.b"),
        ("inner", {"size": -1}, "r.yaml:1:9.size"),
        ("inner", {"size": 1, "nmae": ""}, "r.yaml:1:9.nmae"),
        ("inners", [{"size": 1}, {"size": True}], "r.yaml:1:9[1].size"),
        ("inner", {}, "r.yaml:1:9"),
    ],
)
def test_a_problem_deep_in_a_value_is_told_at_its_own_place(name: str, value: Any, where: str) -> None:
    _, problems = structure(Everything, node(**{name: value}), "loss `x`")

    (problem,) = problems
    assert str(problem.where) == where


def test_all_problems_are_told_at_once() -> None:
    stated = node(whole="1", number=True, switch="no", inner={"size": 0}, nubmer=1.0)

    _, problems = structure(Everything, stated, "loss `x`")

    assert {str(problem.where) for problem in problems} == {
        *("r.yaml:1:9", "r.yaml:2:9", "r.yaml:3:9", "r.yaml:4:9.size", "r.yaml:5:1"),
    }


def test_an_unknown_key_is_told_with_the_nearest_one_of_the_component_or_of_the_entry() -> None:
    _, problems = structure(Everything, node(nubmer=1.0, wieght=2.0), "loss `x`", also=("type", "weight"))

    first, second = problems
    assert first.message == "unknown key `nubmer` in loss `x`"
    assert first.notes[0] == ("nearest", "number")
    assert second.message == "unknown key `wieght` in loss `x`"
    assert second.notes[0] == ("nearest", "weight")


def test_an_option_without_a_default_is_needed() -> None:
    _, problems = structure(Inner, node(name="x"), "model `m`")

    (problem,) = problems
    assert problem.message == "model `m` needs `size`: a whole number"
    assert str(problem.where) == "r.yaml:1:1"


def test_an_option_that_is_misspelt_is_not_told_to_be_missing_as_well() -> None:
    _, problems = structure(Inner, node(szie=3), "model `m`")

    (problem,) = problems
    assert problem.message == "unknown key `szie` in model `m`"


@pytest.mark.parametrize(
    ("validator", "value", "told"),
    [
        (validators.gt(1), 1, "`n` of loss `x`: must be > 1: 1"),
        (validators.in_([1, 2]), 3, "`n` of loss `x`: must be in [1, 2] (got 3)"),
        ([validators.ge(1), validators.lt(4)], 4, "`n` of loss `x`: must be < 4: 4"),
        (validators.optional(validators.ge(1)), 0, "`n` of loss `x`: must be >= 1: 0"),
    ],
)
def test_the_bounds_of_a_field_are_told_in_a_line(validator: Any, value: int, told: str) -> None:
    @frozen
    class Bounded:
        n: int = field(default=2, validator=validator)

    _, problems = structure(Bounded, node(n=value), "loss `x`")

    (problem,) = problems
    assert problem.message == told
    assert str(problem.where) == "r.yaml:1:9"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("n must divide m\nand more"), "loss `x`: n must divide m"),
        (ValueError(), "loss `x`: ValueError"),
        (KeyError("m"), "loss `x`: KeyError: 'm'"),
        (ZeroDivisionError("division by zero"), "loss `x`: ZeroDivisionError: division by zero"),
        (RuntimeError(), "loss `x`: RuntimeError"),
    ],
)
def test_whatever_a_validator_raises_is_told_at_its_option(error: Exception, told: str) -> None:
    def refuse(instance: Any, attribute: Any, value: int) -> None:
        assert instance.m == 1
        raise error

    @frozen
    class Picky:
        m: int = 1
        n: int = field(default=2, validator=refuse)

    _, problems = structure(Picky, node(m=1, n=3), "loss `x`")

    (problem,) = problems
    assert problem.message == told
    assert str(problem.where) == "r.yaml:2:9"


def test_whatever_a_constructor_raises_is_told_at_its_entry() -> None:
    @frozen
    class Picky:
        m: int = 1

        def __attrs_post_init__(self) -> None:
            raise LookupError

    _, problems = structure(Picky, node(m=1), "loss `x`")

    (problem,) = problems
    assert problem.message == "loss `x`: LookupError"
    assert str(problem.where) == "r.yaml:1:1"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["size", "low", "a"]), inner),
        max_leaves=6,
    ),
    st.sampled_from(sorted(CASES)),
)
def test_any_value_for_any_option_is_taken_or_told(value: Any, name: str) -> None:
    made, problems = structure(Everything, node(**{name: value}), "loss `x`")

    assert (made is None) == bool(problems)
    assert all(problem.message.startswith(f"`{name}` of loss `x`: ") for problem in problems)


@pytest.mark.parametrize("kind", [attribute.type for attribute in fields_of(Everything)])
def test_every_type_has_words(kind: Any) -> None:
    assert "typing" not in describe_type(kind)
    assert "<class" not in describe_type(kind)


@pytest.mark.parametrize("text", ["null", "true", "1", "1.5", "abc", "[1]", "{a: 1}"])
def test_every_value_has_words(text: str) -> None:
    assert describe(parse(f"a: {text}", "r.yaml").value["a"].plain())
