"""Every recipe that comes with the framework: it is valid, its shapes are proven, and its head says how it is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxflow_registry.check import check
from fluxflow_registry.engine.shapes import prove_shapes
from fluxflow_registry.registry import Registry

from ..recipes import RECIPES, SHIPPED

EACH = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(RECIPES)))

#: Where recipes ask for LPIPS, whose weights are drawn here: nothing is fetched.
LPIPS = {"fluxflow_1024.yaml": ["steps.vae_gan.updates.vae.losses.lpips"]}


@EACH
def test_a_shipped_recipe_is_valid_and_its_shapes_are_proven(path: Path, everything: Registry) -> None:
    drawn = [f"{place}.random=true" for place in LPIPS.get(path.name, ()) if "lpips" in path.read_text()]
    checked = check(path, everything, drawn)

    shapes = prove_shapes(checked)

    assert list(shapes) == [step.name for step in checked.steps]
    assert all(shapes.values())


@EACH
def test_the_head_of_a_shipped_recipe_gives_the_command_that_runs_it(path: Path) -> None:
    head = path.read_text().partition("recipe: 1")[0]

    assert head.startswith("# ")
    assert f"fluxflow-run recipes/{path.relative_to(RECIPES)}" in head


def test_every_small_recipe_is_the_small_variant_of_another() -> None:
    large = {path.name for path in SHIPPED if path.parent == RECIPES}

    assert {path.name for path in SHIPPED if path.parent == RECIPES / "small"} <= large
