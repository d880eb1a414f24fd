"""What is offered for tests of plugins works in the tests of a plugin."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from attrs import frozen
from torch import Tensor

from fluxflow_registry import PluginError, RecipeError
from fluxflow_registry.testing import plan_recipe, registry_with, train

from .recipes import TINY

PLUGINS = ("shapes", "torch", "vae")
SMALL = TINY.replace("type: shapes", "type: shapes, image_size: 16, length: 32")


@frozen
class Charbonnier:
    """A loss as an author writes it."""

    eps: float = 1e-3

    def __call__(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        return ((reconstruction - image).square() + self.eps**2).sqrt().mean()


def recipe() -> str:
    return SMALL.replace("l1: {}", "charbonnier: {}")


SETTINGS = ("steps.vae.epochs=2", "steps.vae.batch_size=8", "models.compressor.width=8", "models.expander.width=8")


def test_a_registry_has_the_named_plugins_and_the_passed_components() -> None:
    registry = registry_with(PLUGINS, losses={"charbonnier": Charbonnier})

    assert registry.get("loss", "charbonnier") is not None
    assert registry.get("loss", "kl") is not None
    assert registry.get("loss", "velocity") is None


def test_a_component_that_breaks_a_law_is_rejected_as_at_registration() -> None:
    with pytest.raises(PluginError, match="is not the plural of a kind"):
        registry_with(PLUGINS, loss={"charbonnier": Charbonnier})


def test_a_problem_of_a_recipe_from_a_string_has_its_line() -> None:
    registry = registry_with(PLUGINS, losses={"charbonnier": Charbonnier})

    with pytest.raises(RecipeError) as caught:
        plan_recipe(recipe().replace("charbonnier: {}", "charbonnier: {epz: 1.0}"), registry)

    (problem,) = caught.value.problems
    assert (problem.code, problem.subject, problem.nearest) == ("unknown-key", "epz", "eps")
    assert str(problem.where).startswith("recipe.yaml:")


def test_a_trained_run_has_its_weights_and_its_history(tmp_path: Path) -> None:
    plan = plan_recipe(recipe(), registry_with(PLUGINS, losses={"charbonnier": Charbonnier}), *SETTINGS)

    trained = train(plan, tmp_path)

    assert trained.stopped is None
    first, last = trained.history["vae"]["vae/charbonnier"]
    assert last < first
    assert (trained.folder / "final" / "expander" / "model.safetensors").is_file()


def test_a_run_that_is_stopped_and_resumed_ends_in_the_same_bits(tmp_path: Path) -> None:
    plan = plan_recipe(recipe(), registry_with(PLUGINS, losses={"charbonnier": Charbonnier}), *SETTINGS)
    whole = train(plan, tmp_path / "whole")

    stopped = train(plan, tmp_path / "stopped", stop_after=3)
    resumed = train(plan, tmp_path / "stopped")

    assert stopped.stopped is not None
    assert stopped.stopped.run_batch == 3
    assert resumed.folder == stopped.folder
    for name, weights in whole.weights.items():
        assert all(torch.equal(weights[key], resumed.weights[name][key]) for key in weights)
