"""Whatever a recipe holds, the answer is a proven recipe or a report: never another exception."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxflow_registry.check.effective_recipe import effective_recipe
from fluxflow_registry.cli import explain
from fluxflow_registry.errors import FluxflowError, RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.recipe.reader import parse
from fluxflow_registry.recipe.writer import dump, plain

from ..recipes import DEFAULT, TINY

Prove = Callable[..., RecipePlan]
TEXT = DEFAULT.read_text()
TREE = parse(TEXT, "r.yaml").plain()
HOSTILE = settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

words = st.sampled_from(
    ["compressor", "image", "latent", "l1", "vae", "shapes", "epoch", "AdamW", "generator", "steps", "type", "", "a b"]
)
scalars = (
    st.sampled_from([None, True, False, 0, -1, 1, 3.7, float("inf"), float("-inf"), 2**63, 1e-300])
    | words
    | st.text(max_size=5)
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=5
)


def attempt(prove: Prove, text: str | bytes) -> tuple[FluxflowError, RecipePlan | None]:
    try:
        return FluxflowError([]), prove(text)
    except FluxflowError as error:
        return error, None


def answer(prove: Prove, text: str | bytes, write: bool = False) -> list[Any]:
    """The problems of a text; none for a recipe, which can then be explained and written out too."""
    refused, checked = attempt(prove, text)
    if checked is None:
        assert refused.problems
        assert all(line.isprintable() for line in str(refused).split("\n"))
        return list(refused.problems)
    for explanation in (explain.summary, explain.explain, explain.mermaid):
        assert explanation(checked)
    json.dumps([explain.summary_data(checked), explain.explain_data(checked)])
    tree = effective_recipe(checked)
    assert not write or plain(effective_recipe(prove(dump(tree)))) == plain(tree)
    return []


def paths(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(deeper for key, child in children for deeper in paths(child, (*path, key)))]


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    head, *rest = path
    if isinstance(tree, list):
        return [replaced(child, tuple(rest), value) if index == head else child for index, child in enumerate(tree)]
    return {key: replaced(child, tuple(rest), value) if key == head else child for key, child in tree.items()}


def renamed(tree: Any, path: tuple[Any, ...], name: str) -> Any:
    *above, last = path
    parent = tree
    for part in above:
        parent = parent[part]
    if not isinstance(parent, dict):
        return tree
    return replaced(tree, tuple(above), {name if key == last else key: child for key, child in parent.items()})


@HOSTILE
@given(data=st.data())
def test_any_value_anywhere_gives_a_recipe_or_a_report(data: st.DataObject, prove: Prove) -> None:
    tree = TREE
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths(tree)[1:]))
        if data.draw(st.booleans()):
            tree = replaced(tree, path, data.draw(anything))
        else:
            tree = renamed(tree, path, data.draw(words))

    answer(prove, json.dumps(tree), write=True)


@pytest.mark.parametrize("value", [None, True, -1, 2.5, "", "a b", [], {}, [None], {"type": None}, {"a": {"b": [1]}}])
def test_one_odd_value_anywhere_gives_a_recipe_or_a_report(value: Any, prove: Prove) -> None:
    tiny = parse(TINY, "r.yaml").plain()

    for path in paths(tiny):
        answer(prove, json.dumps(replaced(tiny, path, value)), write=True)


@HOSTILE
@given(tree=anything)
def test_any_tree_gives_a_recipe_or_a_report(tree: Any, prove: Prove) -> None:
    wrapped = {"recipe": 1, **tree} if isinstance(tree, dict) else tree

    assert answer(prove, json.dumps(wrapped))


@HOSTILE
@given(data=st.data())
def test_any_typing_error_gives_a_recipe_or_a_report(data: st.DataObject, prove: Prove) -> None:
    start = data.draw(st.integers(0, len(TEXT)))
    end = min(len(TEXT), start + data.draw(st.integers(0, 6)))
    inserted = data.draw(st.text("[]{}:,-?*&!|>'\"%@`#abl1.0 \n\t\x07é", max_size=4))

    answer(prove, TEXT[:start] + inserted + TEXT[end:])


@HOSTILE
@given(data=st.binary(max_size=60))
def test_any_bytes_give_a_recipe_or_a_report(data: bytes, prove: Prove) -> None:
    assert answer(prove, b"recipe: 1\n" + data)


def leaves() -> list[tuple[int, int, int]]:
    """Line, start and end of every scalar after a key or in a list."""
    found = []
    for number, line in enumerate(TEXT.split("\n"), start=1):
        code = line.split("#")[0].rstrip()
        scalars = re.finditer(r"(?<=: )[\w.-]+(?=[,}\]]|$)|(?<=\[)[\w.-]+(?=[,\]])|(?<=, )[\w.-]+(?=[,\]])", code)
        found += [(number, match.start(), match.end()) for match in scalars]
    return found


@HOSTILE
@given(data=st.data())
def test_a_changed_type_is_reported_on_its_line(data: st.DataObject, prove: Prove) -> None:
    line, start, end = data.draw(st.sampled_from(leaves()))
    lines = TEXT.split("\n")
    before = lines[line - 1][start:end]
    after = data.draw(st.sampled_from(["null", "true", "[7]", "{a: 7}", "7.5", "'a string'", "-3"]))
    lines[line - 1] = lines[line - 1][:start] + after + lines[line - 1][end:]

    found = answer(prove, "\n".join(lines))

    # Text that may be any text, numbers that may be any number, and null that leaves a setting out are right.
    if found:
        assert any(re.search(rf":{line}:\d+\Z", str(problem.where)) for problem in found), (before, after)
    else:
        assert after in ("null", "7.5", "-3", "'a string'") or (before, after) == ("false", "true")


@pytest.mark.parametrize(
    ("old", "new", "expected", "nearest"),
    [
        ("trains: [discriminator]", "trains: [discriminater]", "but the recipe has no such model", "discriminator"),
        ("trains: [discriminator]", "trains: [discriminator, text_encoder]", "but none of its losses reaches it", None),
        ("detach: [latent]", "detach: [latents]", "cannot detach `latents`", "latent"),
        ("dataset: shapes", "dataset: shape", "is not a dataset of the recipe", "shapes"),
        (
            "ema: {models: [flow_processor",
            "ema: {models: [flow_procesor",
            "but none of its updates",
            "flow_processor",
        ),
        (
            "hinge_generator: {",
            "hinge_generator: {with: {fake_logits: real_logit}, ",
            "nothing provides it",
            "real_logits",
        ),
        ("{type: euler", "{type: eulre", "unknown sampler `eulre`", "euler"),
        ("value: reconstruction,", "value: reconstuction,", "but nothing provides it", "reconstruction"),
    ],
)
def test_a_broken_reference_is_reported_on_its_line(
    old: str, new: str, expected: str, nearest: str | None, prove: Prove
) -> None:
    assert old in TEXT
    line = TEXT[: TEXT.index(old)].count("\n") + 1

    with pytest.raises(RecipeError) as caught:
        prove(TEXT.replace(old, new, 1))

    problem = next(problem for problem in caught.value.problems if expected in problem.message)
    assert re.search(rf":{line}:\d+\Z", str(problem.where))
    assert nearest is None or nearest in (problem.nearest, dict(problem.notes).get("nearest"))
