"""Parameters that a builder has frozen stay as they were built, whatever trains the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluxflow_registry.engine.models.build import build_models, frozen_parameters
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.errors import RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import add_plugin, load
from fluxflow_registry.registry.registry import Plugin, Registry

from ..small import FLOW, PLUGINS, VAE_GAN
from ..synthetic import plugin
from .conftest import StopAfter, changed, start, weights
from .test_model_options import take
from .test_resume import finals

Checker = Callable[..., RecipePlan]
Maker = Callable[..., LiveStep]


class Critic(nn.Module):
    """Frozen features, and a head that learns."""

    def __init__(self, head: bool) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False)
        self.head = nn.Conv2d(4, 1, 3, padding=1).requires_grad_(head)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(image).relu())
        return logits


@pytest.fixture
def using(everything: Registry) -> Registry:
    """The registry with two such discriminators: one with a head that learns, one frozen entirely."""
    made = load(PLUGINS)
    models = {"critic": lambda: Critic(True), "statue": lambda: Critic(False)}
    add_plugin(made, Plugin("critics", "test", "1", "here"), plugin(models=models))
    return made


CRITIC = "models.discriminator={type: critic}"
EMA = "steps.vae_gan.ema={models: [discriminator], decay: 0.5}"


def moved(step: LiveStep, before: dict[str, Tensor]) -> set[str]:
    return {
        name
        for name, p in step.models["discriminator"].named_parameters()
        if not torch.equal(p, before[f"discriminator.{name}"])
    }


def test_an_update_moves_only_the_parameters_that_are_not_frozen(
    checked: Checker, live: Maker, using: Registry
) -> None:
    step = live(checked(VAE_GAN, CRITIC, EMA, using=using))
    before = weights(step.models)

    take(step, 3)

    assert frozen_parameters(step.models["discriminator"]) == {"features.weight", "features.bias"}
    assert moved(step, before) == {"head.weight", "head.bias"}
    assert {name for name in step.updates[0].parameters if "features" in name} == set()
    assert all(p.grad is None for p in step.models["discriminator"].features.parameters())  # type: ignore[union-attr]
    average = step.averages["discriminator"].module.state_dict()
    assert torch.equal(average["features.weight"], before["discriminator.features.weight"])
    assert not torch.equal(average["head.weight"], before["discriminator.head.weight"])


def test_frozen_parameters_stay_in_a_later_step_and_in_a_resumed_run(
    checked: Checker, tmp_path: Path, using: Registry
) -> None:
    again = FLOW.replace("  flow:\n    epochs: 2", "  flow:\n    epochs: 1") + VAE_GAN.split("steps:\n")[1].replace(
        "  vae_gan:", "  vae_gan_again:"
    )
    recipe = checked(VAE_GAN + again, CRITIC, "sampler.steps=1", using=using)
    whole = start(recipe, tmp_path / "whole").run

    first = start(recipe, tmp_path / "cut", [StopAfter("batch_ended", 20)])
    second = start(recipe, tmp_path / "cut")

    fresh = build_models(recipe, torch.device("cpu"))
    assert first.stopped is not None
    assert finals(second.run) == finals(whole)
    trained, before = (models["discriminator"].state_dict() for models in (whole.models, fresh))
    same = {name: torch.equal(trained[name], before[name]) for name in trained}
    assert same == {"features.weight": True, "features.bias": True, "head.weight": False, "head.bias": False}


def test_a_model_that_one_step_does_not_train_is_trained_by_the_next(
    checked: Checker, live: Maker, using: Registry
) -> None:
    recipe = checked(VAE_GAN + FLOW, CRITIC, using=using)
    flow = live(recipe, 1)
    frozen = [p.requires_grad for p in flow.models["discriminator"].parameters()]

    step = live(recipe, 0, flow.models)
    before = weights(step.models)
    take(step, 1)

    assert frozen == [False] * 4
    assert [p.requires_grad for p in step.models["discriminator"].parameters()] == [False, False, True, True]
    assert "discriminator" in changed(before, step.models)


def test_training_a_model_that_is_frozen_entirely_is_rejected_with_its_location(
    checked: Checker, using: Registry
) -> None:
    recipe = checked(VAE_GAN, "models.discriminator={type: statue}", using=using)

    with pytest.raises(RecipeError) as rejected:
        prove_shapes(recipe)

    problem = rejected.value.problems[0]
    who = "update `discriminator` of step `vae_gan`"
    assert problem.message == f"{who} trains model `discriminator`, but its builder freezes all parameters"
    assert str(problem.where).endswith("recipe.yaml:19:18")


def test_a_builder_that_requests_weights_receives_those_that_will_be_loaded(checked: Checker, tmp_path: Path) -> None:
    from fluxflow_registry.engine.run.trained_models import load_trained_models

    seen: list[Any] = []

    def listening(weights: Any) -> nn.Module:
        seen.append(None if weights is None else sorted(weights))
        return Critic(True)

    made = load(PLUGINS)
    add_plugin(made, Plugin("critics", "test", "1", "here"), plugin(models={"critic": listening}))
    recipe = checked(VAE_GAN, CRITIC, using=made)

    first = start(recipe, tmp_path / "run", [StopAfter("batch_ended", 3)])
    load_trained_models(recipe, first.run.folder.path, torch.device("cpu"))
    second = start(recipe, tmp_path / "run")
    second.run.folder.write_identity(finished=True)
    load_trained_models(recipe, second.run.folder.path, torch.device("cpu"))

    keys = ["features.bias", "features.weight", "head.bias", "head.weight"]
    assert seen == [None, keys, None, keys]
