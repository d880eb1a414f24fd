"""A file that is not a recipe is one clear problem at its location, whatever it contains."""

from __future__ import annotations

import string
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from fluxflow_registry.errors import Problem, RecipeError
from fluxflow_registry.recipe.node import Node
from fluxflow_registry.recipe.reader import MAX_BYTES, parse, read

BOMB = "".join(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefghi"))


@pytest.mark.parametrize(
    ("text", "where", "expected"),
    [
        ("", "r.yaml", "the file is empty"),
        ("# nothing but a comment\n", "r.yaml", "the file is empty"),
        ("null", "r.yaml", "the file is empty"),
        ("a: [1, 2", "r.yaml:1:9", "this is not valid YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("a: 1\n\tb: 2", "r.yaml:2:1", "this is not valid YAML: while scanning for the next token, found character"),
        ("a: 1\n b: 2", "r.yaml:2:3", "this is not valid YAML: mapping values are not allowed here"),
        (
            "a: 'open\nb: 1",
            "r.yaml:2:5",
            "this is not valid YAML: while scanning a quoted scalar, found unexpected end",
        ),
        ("a: *nowhere", "r.yaml:1:4", "this is not valid YAML: found undefined alias 'nowhere'"),
        (
            "a: 1\n---\nb: 2",
            "r.yaml:2:1",
            "this is not valid YAML: expected a single document in the stream, but found",
        ),
        ("%YAML 2.0\n---\na: 1", "r.yaml:1:1", "this is not valid YAML: found incompatible YAML document"),
        ("%YAML 1.3\n---\na: 1", "r.yaml:1:1", "this is not valid YAML: unknown version of YAML"),
        ("a: 1\na: 2", "r.yaml:2:1", "duplicate key `a`"),
        ("a: {b: 1, c: 2, b: 3}", "r.yaml:1:17", "duplicate key `b`"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "r.yaml:3:3", "merge keys are not allowed in a recipe: use `defaults`"),
        (
            "a: !!python/object:os.system {}",
            "r.yaml:1:4",
            "the tag `tag:yaml.org,2002:python/object:os.system` is not allowed",
        ),
        ("a: !custom 1", "r.yaml:1:4", "the tag `!custom` is not allowed: a recipe is plain data"),
        ("a: !!binary aGVsbG8=", "r.yaml:1:4", "the tag `tag:yaml.org,2002:binary` is not allowed"),
        ("a: !!set {b, c}", "r.yaml:1:4", "the tag `tag:yaml.org,2002:set` is not allowed: a recipe is plain data"),
        ("a: 2020-01-01", "r.yaml:1:4", "the tag `tag:yaml.org,2002:timestamp` is not allowed: a recipe is plain data"),
        ("a: !!int x", "r.yaml:1:4", "`x` is not an integer"),
        ("a: !!int ''", "r.yaml:1:4", "`` is not an integer"),
        ("a: !!float ''", "r.yaml:1:4", "`` is not a number"),
        ("a: !!bool maybe", "r.yaml:1:4", "`maybe` is not true or false"),
        ("a: 18446744073709551616", "r.yaml:1:4", "the integer is too large: integers have 64 bits"),
        ("a: 0x" + "f" * 5000, "r.yaml:1:4", "the integer is too large: integers have 64 bits"),
        ('a: "\\ud800"', "r.yaml:1:4", "the string contains an unpaired surrogate"),
        ('"\\ud800": 1', "r.yaml:1:1", "a key must be a string of at most 200 characters"),
        ("? [a, b]\n: 1", "r.yaml:1:3", "a key must be a string of at most 200 characters"),
        ("? {a: b}\n: 1", "r.yaml:1:3", "a key must be a string of at most 200 characters"),
        (f"{'k' * 300}: 1", "r.yaml:1:1", "a key must be a string of at most 200 characters"),
        ("a: 1\nb: \x07", "r.yaml:2:4", "this is not valid YAML: unacceptable character #x0007"),
        ("# long\n" * 3000 + "b: \x07", "r.yaml:3001:4", "this is not valid YAML: unacceptable character #x0007"),
        ("a: " + "[" * 10_000, "r.yaml:1:43", "the values are nested too deeply"),
        ("a: " + "{b: " * 10_000, "r.yaml:1:157", "the values are nested too deeply"),
        ("".join(f"{' ' * depth}a:\n" for depth in range(99)), "r.yaml:40:40", "the values are nested too deeply"),
        ("a: &a [*a]", "r.yaml:1:4", "the values are nested too deeply"),
        ("a: &a [x, x, x, x, x, x, x, x, x]\n" + BOMB, "r.yaml:1:", "the file expands to more than 20,000 values"),
        ("[" + "1," * 30_000 + "]", "r.yaml:1:40000", "the file has more than 20,000 values"),
    ],
)
def test_text_that_is_not_a_recipe_is_one_problem_at_its_location(
    text: str, where: str, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)

    with pytest.raises(RecipeError) as caught:
        read(path)

    (problem,) = caught.value.problems
    assert problem.message.startswith(expected)
    assert str(problem.where).startswith(f"{tmp_path}/{where}")


@pytest.mark.parametrize(
    ("data", "where"),
    [("ä".encode("latin-1"), ":1:1"), ("ä: 1\nab: ä".encode() + b"\xff", ":2:6")],
)
def test_a_file_that_is_not_utf_8_is_reported_with_the_position(data: bytes, where: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(data)

    with pytest.raises(RecipeError) as caught:
        read(path)

    assert str(caught.value) == f"{path}{where}  the file is not UTF-8 text"


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * (MAX_BYTES + 1))

    for path, expected in (
        (tmp_path / "nothing.yaml", "the file does not exist"),
        (tmp_path, "the file cannot be read: Is a directory"),
        (big, "the file is longer than 1,000,000 bytes: this is not a recipe"),
        (Path("/dev/zero"), "the file is longer than 1,000,000 bytes: this is not a recipe"),
    ):
        with pytest.raises(RecipeError) as caught:
            read(path)

        assert str(caught.value) == f"{path}  {expected}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("0o17", 15),
        ("010", 10),
        ("0x1f", 31),
        ("1_000", 1000),
        ("1.0e-3", 0.001),
        ("1e-3", 0.001),
        ("true", True),
        ("yes", "yes"),
        ("off", "off"),
        ("~", None),
        ("null", None),
        ("1.5.2", "1.5.2"),
        ("12:30", "12:30"),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ('"\\ud83d\\ude00"', "\U0001f600"),
        ("<<", "<<"),
        ("[0.9, 0.99]", [0.9, 0.99]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    node = parse(f"a: {text}", "r.yaml").value["a"]

    assert node.plain() == value
    assert type(node.plain()) is type(value)


def test_a_file_with_a_byte_order_mark_and_line_ends_of_windows_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb:\r\n  c: 2\r\n")

    node = read(path)

    assert node.plain() == {"a": 1, "b": {"c": 2}}
    assert str(node.value["b"].keys["c"]) == f"{path}:3:3"


def test_an_anchor_may_be_defined_again_without_a_warning() -> None:
    node = parse("a: &x 1\nb: *x\nc: &x 2\nd: *x", "r.yaml")

    assert node.plain() == {"a": 1, "b": 1, "c": 2, "d": 2}


keys = st.text(string.ascii_letters + "_", min_size=1, max_size=8)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | keys
trees = st.dictionaries(
    keys,
    st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4)),
    min_size=1,
    max_size=5,
)


@given(trees)
def test_what_is_written_is_read_back_with_every_location(tree: dict[str, Any]) -> None:
    from io import StringIO

    stream = StringIO()
    yaml = YAML()
    yaml.dump(tree, stream)
    places = yaml.load(stream.getvalue())

    node = parse(stream.getvalue(), "r.yaml")

    assert node.plain() == tree
    assert_keys_stand_where_ruamel_says(node, places)


def assert_keys_stand_where_ruamel_says(node: Node, places: Any) -> None:
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            line, column = places.lc.key(key)
            assert str(node.keys[key]) == f"r.yaml:{line + 1}:{column + 1}"
            assert_keys_stand_where_ruamel_says(child, places[key])
    if isinstance(node.value, list):
        for item, place in zip(node.value, places, strict=True):
            assert_keys_stand_where_ruamel_says(item, place)


@given(st.text() | st.text("[]{}:,-?*&!|>'\"%@`#ab1 \n\t"))
def test_any_text_gives_a_tree_or_one_problem(text: str) -> None:
    try:
        answers: list[Node | Problem] = [parse(text, "r.yaml")]
    except RecipeError as error:
        answers = [*error.problems]

    (answer,) = answers
    assert str(answer.where).startswith("r.yaml")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_reported_as_such(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes("recipe: 1\nname: x\n".encode(encoding))

    with pytest.raises(RecipeError) as caught:
        read(path)

    assert str(caught.value) == f"{path}:1:1  the file is UTF-16: save it as UTF-8"


@pytest.mark.parametrize("text", ["a: 1\n\tb: 2", "steps:\n\ta: 1", "a:\n  b: 1\n\tc: 2"])
def test_a_tab_is_reported_with_what_to_use_instead(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text, "r.yaml")

    assert caught.value.problems[0].notes == (("hint", "indent with spaces: YAML allows no tabs there"),)
