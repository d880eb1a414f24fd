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
from fluxflow_registry.recipe.convert import structure
from fluxflow_registry.recipe.node import Node, describe_value
from fluxflow_registry.recipe.reader import parse
from fluxflow_registry.registry.signature import describe_type, fields_of


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
    switch_or_inner: bool | Inner = False
    inners: list[Inner] = field(factory=list)
    anything: Any = None
    path: Path = Path()
    colour: Colour = Colour.RED


#: For each option: values that it takes, and values that it refuses with what is said of them.
CASES: dict[str, tuple[list[Any], list[tuple[Any, str]]]] = {
    "whole": (
        [0, -3, 2**63],
        [
            (3.7, "must be an integer, got the number `3.7`"),
            (3.0, "must be an integer, got the number `3.0`"),
            (True, "must be an integer, got `true`"),
            ("3", "must be an integer, got the string `3`"),
            (None, "must be an integer, got null"),
            ([3], "must be an integer, got a list"),
            ({"a": 3}, "must be an integer, got a mapping"),
        ],
    ),
    "number": (
        [0, 1.5, -2],
        [
            (True, "must be a number, got `true`"),
            ("1.5", "must be a number, got the string `1.5`"),
            (None, "must be a number, got null"),
            (float("nan"), "must be a number, got the number `nan`"),
            (float("inf"), "must be a number, got the number `inf`"),
            (float("-inf"), "must be a number, got the number `-inf`"),
        ],
    ),
    "switch": (
        [True, False],
        [
            ("false", "must be true or false, got the string `false`"),
            ("yes", "must be true or false, got the string `yes`"),
            (0, "must be true or false, got the number `0`"),
            (1, "must be true or false, got the number `1`"),
            (None, "must be true or false, got null"),
        ],
    ),
    "text": (
        ["", "abc", "1"],
        [
            (1, "must be a string, got the number `1`"),
            (False, "must be a string, got `false`"),
            (None, "must be a string, got null"),
            (["abc"], "must be a string, got a list"),
        ],
    ),
    "choice": (
        ["a", "b", 3],
        [
            ("c", "must be one of a, b, 3, got the string `c`"),
            (3.0, "must be one of a, b, 3, got the number `3.0`"),
            (True, "must be one of a, b, 3, got `true`"),
            (None, "must be one of a, b, 3, got null"),
        ],
    ),
    "perhaps": ([None, 4], [(4.5, "must be an integer, got the number `4.5`"), ("", "must be an integer")]),
    "either": (
        [4, "four"],
        [(4.5, "must be an integer or a string, got the number `4.5`"), (None, "must be an integer or a string")],
    ),
    "wholes": (
        [[], [1, 2]],
        [
            ("abc", "must be a list of integers, got the string `abc`"),
            ({"a": 1}, "must be a list of integers, got a mapping"),
            (1, "must be a list of integers, got the number `1`"),
            ([1, "2"], "must be an integer, got the string `2`"),
        ],
    ),
    "pair": (
        [[0.5, 1]],
        [
            ([0.5], "must be a list of 2 values (a number, a number), got a list of "),
            ([0.5, 1, 2], "must be a list of 2 values (a number, a number), got a list of "),
            ([0.5, "1"], "must be a number, got the string `1`"),
            ("ab", "must be a list of 2 values (a number, a number), got the string `ab`"),
        ],
    ),
    "texts": ([[], ["a", "b"]], [("ab", "must be a list of strings, got the string `ab`"), ([1], "must be a string")]),
    "several": ([[1, 2.5]], [(1, "must be a list of numbers, got the number `1`")]),
    "names": ([["a", "b", "a"]], [("ab", "must be a list of strings, got the string `ab`")]),
    "table": ([{}, {"a": 1}], [([1], "must be a mapping of numbers, got a list"), ({"a": "1"}, "must be a num")]),
    "view": ([{"low": 1}], [({"mid": 1}, "must be one of low, high, got the string `mid`")]),
    "inner": (
        [None, {"size": 2}, {"size": 2, "name": "x"}],
        [
            ({"size": 0}, "must be > 0, got 0"),
            ({"size": "2"}, "must be an integer, got the string `2`"),
            ({}, "needs `size`: an integer"),
            ({"size": 1, "nmae": "x"}, "unknown key `nmae` in `inner` of loss `x`"),
            ([1], "must be a mapping (Inner), got a list"),
        ],
    ),
    "switch_or_inner": (
        [True, {"size": 2}],
        [
            (3, "must be true or false or a mapping (Inner), got the number `3`"),
            ({"size": 1, "nmae": "x"}, "unknown key `nmae` in `switch_or_inner` of loss `x`"),
            ({"name": "x"}, "needs `size`: an integer"),
            ({"size": "2"}, "must be an integer, got the string `2`"),
        ],
    ),
    "inners": ([[{"size": 1}]], [([{"size": 1}, {"size": -1}], "must be > 0, got -1")]),
    "anything": ([None, 1, "a", [1], {"a": 1}], []),
    "path": (["a/b"], [(3, "must be a value (Path), got the number `3`"), (None, "must be a value (Path)")]),
    "colour": (["red"], [("green", "must be one of red, blue, got the string `green`"), ([1], "must be one of red")]),
}
TAKEN = [(name, value) for name, (taken, _) in CASES.items() for value in taken]
REFUSED = [(name, value, expected) for name, (_, refused) in CASES.items() for value, expected in refused]


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
def test_a_value_of_the_right_type_is_used_unchanged(name: str, value: Any) -> None:
    made, problems = structure(Everything, node(**{name: value}), "loss `x`")

    assert problems == []
    found = getattr(made, name)
    if isinstance(value, (int, float, str, bool)) and not isinstance(found, (Path, Enum)):
        assert found == value
        assert type(found) is (float if name == "number" else type(value))


@pytest.mark.parametrize(("name", "value", "expected"), REFUSED)
def test_a_value_of_another_type_is_rejected_and_never_coerced(name: str, value: Any, expected: str) -> None:
    made, problems = structure(Everything, node(**{name: value}), "loss `x`")

    assert made is None
    (problem,) = problems
    assert f"`{name}" in problem.message.partition(" of loss `x`")[0]
    assert expected in problem.message
    assert (problem.code, problem.subject) in (
        ("wrong-type", name),
        ("wrong-type", "mid"),
        ("out-of-range", name),
        ("unknown-key", "nmae"),
        ("missing-key", name),
    )
    assert str(problem.where).startswith("r.yaml:1:9")


def test_every_type_of_option_has_cases() -> None:
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
def test_a_problem_deep_in_a_value_is_located_there(name: str, value: Any, where: str) -> None:
    _, problems = structure(Everything, node(**{name: value}), "loss `x`")

    (problem,) = problems
    assert str(problem.where) == where


def test_all_problems_are_reported_at_once() -> None:
    stated = node(whole="1", number=True, switch="no", inner={"size": 0}, nubmer=1.0)

    _, problems = structure(Everything, stated, "loss `x`")

    assert {str(problem.where) for problem in problems} == {
        *("r.yaml:1:9", "r.yaml:2:9", "r.yaml:3:9", "r.yaml:4:9.size", "r.yaml:5:1"),
    }


def test_an_unknown_key_is_reported_with_the_nearest_key_of_the_component_or_of_the_entry() -> None:
    _, problems = structure(Everything, node(nubmer=1.0, wieght=2.0), "loss `x`", also=("type", "weight"))

    first, second = problems
    assert first.message == "unknown key `nubmer` in loss `x`"
    assert first.nearest == "number"
    assert second.message == "unknown key `wieght` in loss `x`"
    assert second.nearest == "weight"


def test_an_option_without_a_default_is_required() -> None:
    _, problems = structure(Inner, node(name="x"), "model `m`")

    (problem,) = problems
    assert problem.message == "model `m` needs `size`: an integer"
    assert str(problem.where) == "r.yaml:1:1"


def test_a_misspelled_option_is_not_reported_as_missing_too() -> None:
    _, problems = structure(Inner, node(szie=3), "model `m`")

    (problem,) = problems
    assert problem.message == "unknown key `szie` in model `m`"


@pytest.mark.parametrize(
    ("validator", "value", "expected"),
    [
        (validators.gt(1), 1, "`n` of loss `x` must be > 1, got 1"),
        (validators.in_([1, 2]), 3, "`n` of loss `x` must be one of 1, 2, got 3"),
        ([validators.ge(1), validators.lt(4)], 4, "`n` of loss `x` must be >= 1 and < 4, got 4"),
        (validators.optional(validators.ge(1)), 0, "`n` of loss `x` must be >= 1, got 0"),
        (validators.not_(validators.in_([3])), 3, "`n` of loss `x` is not valid"),
        (validators.or_(validators.lt(0), validators.gt(10)), 5, "`n` of loss `x` is not valid"),
        ([validators.ge(0), validators.not_(validators.in_([3]))], 3, "`n` of loss `x` is not valid"),
        ([validators.ge(0), validators.not_(validators.in_([3]))], -1, "`n` of loss `x` must be >= 0, got -1"),
        (
            validators.optional([validators.ge(0), validators.not_(validators.in_([3]))]),
            3,
            "`n` of loss `x` is not valid",
        ),
    ],
)
def test_the_bounds_of_a_field_are_reported_in_one_line(validator: Any, value: int, expected: str) -> None:
    @frozen
    class Bounded:
        n: int = field(default=2, validator=validator)

    _, problems = structure(Bounded, node(n=value), "loss `x`")

    (problem,) = problems
    assert problem.message == expected
    assert str(problem.where) == "r.yaml:1:9"


def test_what_a_validator_without_bounds_reports_is_the_cause() -> None:
    @frozen
    class Bounded:
        n: list[int] = field(default=[2], validator=validators.deep_iterable(validators.ge(0)))

    _, problems = structure(Bounded, node(n=[1, -1]), "loss `x`")

    (problem,) = problems
    assert (problem.message, problem.code) == ("`n` of loss `x` is not valid", "invalid-value")
    assert dict(problem.notes)["cause"] == "'n' must be >= 0: -1"


@frozen
class Range:
    """Options with a rule."""

    low: int
    high: int

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low must not exceed high")


@frozen
class Ranged:
    """An option that is a mapping with a rule."""

    n: bool | Range | list[Range] = False


@pytest.mark.parametrize("value", [{"low": 2, "high": 1}, [{"low": 0, "high": 1}, {"low": 2, "high": 1}]])
def test_the_rule_of_a_mapping_in_an_option_is_reported_as_the_cause(value: Any) -> None:
    _, problems = structure(Ranged, node(n=value), "loss `x`")

    (problem,) = problems
    option = "n.1" if isinstance(value, list) else "n"
    assert (problem.message, problem.code) == (f"`{option}` of loss `x` is not valid", "invalid-value")
    assert problem.notes == (("cause", "low must not exceed high"),)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("n must divide m\nand more"), "loss `x`: n must divide m"),
        (ValueError(), "loss `x`: ValueError"),
        (KeyError("m"), "loss `x`: KeyError: 'm'"),
        (ZeroDivisionError("division by zero"), "loss `x`: ZeroDivisionError: division by zero"),
        (RuntimeError(), "loss `x`: RuntimeError"),
    ],
)
def test_whatever_a_validator_raises_is_reported_at_its_option(error: Exception, expected: str) -> None:
    def refuse(instance: Any, attribute: Any, value: int) -> None:
        assert instance.m == 1
        raise error

    @frozen
    class Picky:
        m: int = 1
        n: int = field(default=2, validator=refuse)

    _, problems = structure(Picky, node(m=1, n=3), "loss `x`")

    (problem,) = problems
    assert problem.message == expected
    assert str(problem.where) == "r.yaml:2:9"


def test_whatever_a_constructor_raises_is_reported_at_its_entry() -> None:
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
def test_any_value_for_any_option_is_used_or_reported(value: Any, name: str) -> None:
    made, problems = structure(Everything, node(**{name: value}), "loss `x`")

    assert (made is None) == bool(problems)
    assert all("of loss `x`" in problem.message and problem.subject for problem in problems)


@pytest.mark.parametrize("kind", [attribute.type for attribute in fields_of(Everything)])
def test_every_type_has_a_description(kind: Any) -> None:
    assert "typing" not in describe_type(kind)
    assert "<class" not in describe_type(kind)


@pytest.mark.parametrize("text", ["null", "true", "1", "1.5", "abc", "[1]", "{a: 1}"])
def test_every_value_has_a_description(text: str) -> None:
    assert describe_value(parse(f"a: {text}", "r.yaml").value["a"].plain())
