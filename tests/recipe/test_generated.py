"""Recipes drawn from the registry's own schemas validate, plan, and mean the same when they are written out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxflow_registry.check.checker import check
from fluxflow_registry.check.effective_recipe import effective_recipe
from fluxflow_registry.cli import explain
from fluxflow_registry.cli.schema import recipe_schema
from fluxflow_registry.plan.steps import RecipePlan, StepPlan
from fluxflow_registry.recipe.writer import dump, plain
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Registry

from ..generated import recipes
from ..recipes import DEFAULT, SHIPPED

REGISTRY = load()
#: A recipe is large, and takes its time to draw.
PATIENT = settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def validator() -> Any:
    """The validator of the schema that editors read."""
    return jsonschema.Draft202012Validator(recipe_schema(REGISTRY))


def essence(step: StepPlan) -> Any:
    """All that a plan derives, without the components and locations behind it."""
    values = [(each.name, each.source, each.needs, each.models, each.upstream) for each in step.values.values()]
    updates = [
        (each.name, each.trains, each.order, each.carries, each.reused, each.stale) for each in step.updates.values()
    ]
    losses = [
        (
            loss.label,
            loss.weight,
            loss.warmup,
            loss.every,
            loss.detached,
            loss.reaches,
            loss.closure,
            loss.start.description,
        )
        for update in step.updates.values()
        for loss in update.losses.values()
    ]
    return values, updates, losses


@PATIENT
@given(recipe=recipes(REGISTRY))
def test_a_recipe_generated_from_the_schemas_validates_plans_and_round_trips(
    recipe: dict[str, Any], prove: Callable[..., RecipePlan], validator: Any
) -> None:
    text = json.dumps(recipe)  # YAML 1.2 holds JSON

    checked = prove(text)
    written = dump(effective_recipe(checked))
    again = prove(written)

    assert plain(effective_recipe(again)) == plain(effective_recipe(checked))
    assert [step.name for step in again.steps] == [step.name for step in checked.steps]
    for step in checked.steps:
        assert essence(step) == essence(again.step(step.name))
    assert explain.explain(checked) == explain.explain(again)
    assert json.dumps(explain.explain_data(checked)) == json.dumps(explain.explain_data(again))
    assert explain.mermaid(checked) == explain.mermaid(again)
    validator.validate(recipe)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_means_the_same_when_it_is_written_out(
    path: Path, everything: Registry, tmp_path: Path
) -> None:
    tree = effective_recipe(check(path, everything))
    (tmp_path / "r.yaml").write_text(dump(tree))

    again = effective_recipe(check(tmp_path / "r.yaml", everything))

    assert plain(again) == plain(tree)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_value_of_a_written_recipe_shows_where_it_came_from(path: Path, everything: Registry) -> None:
    written = dump(effective_recipe(check(path, everything, ["seed=5"])))

    for line in written.splitlines():
        assert line.endswith(":") or " # " in line
    assert "seed: 5 # --set seed=5" in written
    assert f"# {path}:" in written
    assert "# default" in written


@given(origin=st.text(min_size=1, max_size=12))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_setting_can_escape_from_its_comment(origin: str, prove: Callable[..., RecipePlan]) -> None:
    text = DEFAULT.read_text()
    setting = f"seed=7 # {origin}"

    try:
        checked = prove(text, setting)
    except Exception:
        return  # the setting itself is refused: see test_override
    again = prove(dump(effective_recipe(checked)))

    assert again.recipe.seed == 7
    assert plain(effective_recipe(again)) == plain(effective_recipe(checked))
