"""A model that no step has trained is used only where its weights come from elsewhere, or on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from attrs import frozen
from torch import Tensor, nn

from fluxflow_registry.check.effective_recipe import effective_recipe
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.errors import Problem, RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.recipe.writer import plain
from fluxflow_registry.testing import registry_with

from ..small import FLOW, PLUGINS, VAE_GAN

Checker = Callable[..., RecipePlan]

#: The flow without the step that trains its autoencoder.
ALONE = ("steps.vae_gan=false",)


def rejected(recipe: RecipePlan) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        prove_shapes(recipe)
    return list(caught.value.problems)


def test_a_flow_on_an_autoencoder_that_no_step_trains_is_rejected(checked: Checker) -> None:
    problems = rejected(checked(VAE_GAN + FLOW, *ALONE))

    assert [problem.message for problem in problems] == [
        "step `flow` uses model `compressor`, whose weights are random: no step before it trains it",
        "step `flow` uses model `expander`, whose weights are random: no step before it trains it",
    ]
    assert {problem.code for problem in problems} == {"untrained"}
    assert [problem.subject for problem in problems] == ["compressor", "expander"]
    assert dict(problems[0].notes)["instead"] == "to use random weights on purpose: `models.compressor.untrained: true`"


def test_a_step_that_starts_from_new_weights_does_not_use_those_of_the_step_before_it(checked: Checker) -> None:
    problems = rejected(checked(VAE_GAN + FLOW, "steps.flow.after=null"))

    assert [problem.subject for problem in problems] == ["compressor", "expander"]


def test_random_weights_may_be_used_on_purpose(checked: Checker) -> None:
    allowed = [f"models.{name}.untrained=true" for name in ("compressor", "expander")]

    shapes = prove_shapes(checked(VAE_GAN + FLOW, *ALONE, *allowed))

    assert "clean_latent" in shapes["flow"]


def test_a_recipe_without_the_key_is_the_recipe_of_earlier_versions(checked: Checker) -> None:
    models = plain(effective_recipe(checked(VAE_GAN)))["models"]

    assert all("untrained" not in model for model in models.values())
    assert plain(effective_recipe(checked(VAE_GAN, "models.expander.untrained=true")))["models"]["expander"][
        "untrained"
    ]


class Layer(nn.Module):
    """A layer that shifts an image."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, image: Tensor) -> Tensor:
        shifted: Tensor = image + self.weight
        return shifted


def shifted(reconstruction: Tensor, image: Tensor, teacher: nn.Module) -> Tensor:
    """A loss that looks at both images through a model that nothing trains."""
    difference: Tensor = teacher(reconstruction) - teacher(image)
    return difference.square().mean()


def random() -> nn.Module:
    return Layer(torch.randn(1))


def read() -> nn.Module:
    return Layer(torch.linspace(0, 1, 16))


def frozen_by_its_builder() -> nn.Module:
    return random().requires_grad_(False)


@frozen
class Declared:
    """A builder whose weights are declared to be trained."""

    trained_elsewhere: ClassVar[bool] = True

    def __call__(self) -> nn.Module:
        return random()


def teaching(builder: Any, checked: Checker) -> RecipePlan:
    text = VAE_GAN.replace("datasets:", "  teacher: teacher\ndatasets:")
    registry = registry_with(PLUGINS, models={"teacher": builder}, losses={"shifted": shifted})
    return checked(text, "steps.vae_gan.updates.vae.losses.shifted={}", using=registry)


@pytest.mark.parametrize("builder", [read, frozen_by_its_builder, Declared])
def test_a_model_with_weights_from_elsewhere_may_be_used_untrained(builder: Any, checked: Checker) -> None:
    assert "vae_gan" in prove_shapes(teaching(builder, checked))


def test_a_model_whose_builder_draws_its_weights_may_not(checked: Checker) -> None:
    before = torch.random.get_rng_state()

    (problem,) = rejected(teaching(random, checked))

    assert problem.subject == "teacher"
    assert problem.message.startswith("step `vae_gan` uses model `teacher`, whose weights are random")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_metric_of_a_model_that_is_trained_only_later_is_rejected(checked: Checker) -> None:
    evaluate = "steps.vae_gan.evaluate={early: {dataset: shapes, samples: 2, metrics: {shapes_judge: {}}}}"

    problems = rejected(checked(VAE_GAN + FLOW, evaluate))

    assert [problem.subject for problem in problems] == ["text_encoder", "flow_processor"]
    assert all("step `vae_gan`" in problem.message for problem in problems)
