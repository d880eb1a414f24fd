"""A dataset's entry may say how its batches are read: before `defaults`, behind what a step says itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from fluxflow_registry.check.effective_recipe import effective_recipe
from fluxflow_registry.errors import RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.recipe.writer import dump

from ..recipes import steps

Prove = Callable[..., RecipePlan]

#: What a step has where nobody says anything.
BUILT_IN = {"batch_size": 16, "workers": 0}

#: Who states a value, from the one that counts most.
RANKS = ("step", "dataset", "defaults")


def recipe(key: str, *who: str) -> str:
    """A recipe in which each of these states another value."""
    values = {"step": 7, "dataset": 5, "defaults": 3}
    dataset = f"{{type: shapes, {key}: {values['dataset']}}}" if "dataset" in who else "{type: shapes}"
    text = steps("one").replace("{type: shapes}", dataset)
    assert dataset in text
    if "step" in who:
        text = text.replace("  one:\n", f"  one:\n    {key}: {values['step']}\n")
    if "defaults" in who:
        text = text.replace("steps:\n", f"defaults: {{{key}: {values['defaults']}}}\nsteps:\n")
    return text


COMBINATIONS = [chosen for count in range(4) for chosen in itertools.combinations(RANKS, count)]


@pytest.mark.parametrize("key", BUILT_IN)
@pytest.mark.parametrize("who", COMBINATIONS, ids=lambda who: "+".join(who) or "nobody")
def test_the_step_overrides_the_dataset_and_the_dataset_overrides_the_defaults(
    prove: Prove, key: str, who: tuple[str, ...]
) -> None:
    expected = {"step": 7, "dataset": 5, "defaults": 3}[who[0]] if who else BUILT_IN[key]

    (step,) = prove(recipe(key, *who)).steps

    assert getattr(step.settings, key) == expected


def test_each_step_uses_the_settings_of_its_own_dataset(prove: Prove) -> None:
    text = steps("one", "two").replace(
        "{type: shapes}", "{type: shapes, batch_size: 5}\n  other: {type: shapes, batch_size: 9, workers: 2}"
    )

    found = [(s.settings.batch_size, s.settings.workers) for s in prove(text, "steps.two.dataset=other").steps]

    assert found == [(5, 0), (9, 2)]


def test_a_dataset_setting_on_the_command_line_acts_like_one_in_the_file(prove: Prove) -> None:
    changed = prove(recipe("batch_size", "dataset", "defaults"), "datasets.shapes.batch_size=11")
    none = prove(recipe("batch_size", "dataset", "defaults"), "datasets.shapes.batch_size=null")

    assert changed.steps[0].settings.batch_size == 11
    assert none.steps[0].settings.batch_size == 3


def test_the_written_recipe_shows_where_each_value_came_from_and_means_the_same(prove: Prove) -> None:
    checked = prove(recipe("batch_size", "dataset", "defaults"))
    place = checked.datasets["shapes"].entry
    assert place is not None

    written = dump(effective_recipe(checked))
    again = prove(written)

    assert f"batch_size: 5 # {place.node.at('batch_size')}" in written
    assert "workers: null" not in written
    assert again.steps[0].settings == checked.steps[0].settings


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ("batch_size: 0", "`batch_size` of dataset `shapes` must be >= 1, got 0"),
        ("batch_size: many", "`batch_size` of dataset `shapes` must be an integer, got the string `many`"),
        ("workers: -1", "`workers` of dataset `shapes` must be >= 0 and <= 1024, got -1"),
        ("workers: 1025", "`workers` of dataset `shapes` must be >= 0 and <= 1024, got 1025"),
    ],
)
def test_an_invalid_dataset_setting_is_reported_once_where_it_is(prove: Prove, stated: str, words: str) -> None:
    text = steps("one", "two").replace("{type: shapes}", f"{{type: shapes, {stated}}}")

    with pytest.raises(RecipeError) as caught:
        prove(text)

    (problem,) = caught.value.problems
    assert problem.message == words
