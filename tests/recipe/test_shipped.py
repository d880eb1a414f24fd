"""Every recipe that comes with the framework: it is valid, its shapes are proven, and its head says how it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fluxflow_registry.check.checker import check
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.recipe.schema import Best
from fluxflow_registry.registry.registry import Registry

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
def test_the_head_of_a_shipped_recipe_has_the_command_that_runs_it(path: Path) -> None:
    head = path.read_text().partition("recipe: 1")[0]

    assert head.startswith("# ")
    assert f"fluxflow-run recipes/{path.relative_to(RECIPES)}" in head


def test_every_small_recipe_is_the_small_variant_of_another() -> None:
    large = {path.name for path in SHIPPED if path.parent == RECIPES}

    assert {path.name for path in SHIPPED if path.parent == RECIPES / "small"} <= large


def losses(step: Any, update: str) -> dict[str, Any]:
    """The configured losses of an update, by label."""
    return {label: loss.component.instance for label, loss in step.updates[update].losses.items()}


@pytest.mark.parametrize("folder", [RECIPES, RECIPES / "small"], ids=["whole", "small"])
def test_the_convolutional_vae_is_trained_as_its_page_says(folder: Path, everything: Registry) -> None:
    checked = check(folder / "conv_vae.yaml", everything)
    (step,) = checked.steps
    vae = step.updates["vae"]

    assert list(losses(step, "vae")) == ["multiscale", "spectral", "kl"]
    assert (losses(step, "vae")["multiscale"].scales, losses(step, "vae")["kl"].free_bits > 0) == (3, True)
    assert vae.losses["kl"].warmup > 0
    assert vae.entry.settings.clip_grad_norm == 1.0
    assert step.settings.best == Best(metric="val/elbo", mode="min")
    drawn = {label: observer.instance.value for label, observer in checked.observers.items() if label in DRAWN}
    assert drawn == DRAWN


#: What the observers of the recipe draw.
DRAWN = {"reconstructions": "reconstruction_mean", "samples": "prior_sample"}


@pytest.mark.parametrize("folder", [RECIPES, RECIPES / "small"], ids=["whole", "small"])
def test_the_latent_unet_is_trained_as_its_page_says(folder: Path, everything: Registry) -> None:
    checked = check(folder / "latent_unet.yaml", everything)
    step = checked.step("unet")

    assert list(losses(step, "unet")) == ["epsilon"]
    assert checked.models["flow_processor"].component.name == "unet"
    assert len(checked.models["flow_processor"].instance.channel_mults) > 1
    assert step.providers["path"].instance.predicts == "epsilon"
    assert step.providers["prompt"].instance.dropout == 0.1
    assert step.providers["generated_image"].instance.guidance > 1
    assert checked.observers["drawings"].instance.every > 0
    assert "watchdog" in checked.observers
