"""Where models do not fit each other, the options that would make them fit are found by trying them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from attrs import frozen
from torch import nn

from fluxflow_registry.engine.preflight.shapes import changes, prove_shapes
from fluxflow_registry.errors import Problem, RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import add_plugin, load
from fluxflow_registry.registry.registry import Plugin, Registry

from ..recipes import line_of
from ..small import FLOW, PLUGINS, VAE_GAN
from ..synthetic import plugin

#: The values alone: a step without a discriminator is proven in a moment.
VAE = VAE_GAN.replace("hinge_generator: {weight: 0.1, detach: [latent]}", "").replace(
    VAE_GAN[VAE_GAN.index("      discriminator:\n") : VAE_GAN.index("      vae:\n")], ""
)

#: An option that is wrong; the change that fixes it, and the option whose value it takes.
FIXES = {
    "expander.latent_channels=3": ("models.expander.latent_channels: 2", "models.compressor.latent_channels"),
    "flow_processor.text_width=12": ("models.flow_processor.text_width: 16", "models.text_encoder.width"),
    "text_encoder.width=12": ("models.flow_processor.text_width: 12", "models.text_encoder.width"),
    "compressor.downscale=8": ("models.compressor.downscale: 4", "models.expander.downscale"),
}


def misfits(recipe: RecipePlan) -> tuple[Problem, ...]:
    with pytest.raises(RecipeError) as caught:
        prove_shapes(recipe)
    return caught.value.problems


@pytest.mark.parametrize("wrong", FIXES)
def test_the_option_that_fixes_it_is_suggested(wrong: str, checked: Callable[..., RecipePlan]) -> None:
    recipe = checked(VAE + FLOW, f"models.{wrong}")

    (problem,) = misfits(recipe)

    change, like = FIXES[wrong]
    assert ("hint", f"set `{change}`, the value of `{like}`") in problem.notes


@pytest.mark.parametrize(
    ("label", "like"), [("text_encoder", "flow_processor.text_width"), ("writer", "flow_processor.text_width")]
)
def test_of_two_options_of_one_value_the_one_that_is_named_after_the_model_is_the_counterpart(
    label: str, like: str, prove: Callable[..., RecipePlan]
) -> None:
    text = VAE_GAN.replace("text_encoder:", f"{label}:")

    models = prove(text, f"models.{label}.width=12").models

    assert models["flow_processor"].instance.width == models["flow_processor"].instance.text_width == 16
    likes = {change.like for change in changes(models) if change.path == f"models.{label}.width" and change.value == 16}
    assert likes == {f"models.{like}"}


def test_options_of_one_name_are_counterparts_before_one_that_is_named_after_another_model(
    prove: Callable[..., RecipePlan],
) -> None:
    models = prove(VAE_GAN, "models.compressor.width=12").models

    likes = {
        change.like for change in changes(models) if change.path == "models.compressor.width" and change.value == 16
    }
    assert likes == {"models.text_encoder.width"}


def test_a_misfit_stands_at_the_option_with_the_models_involved_and_their_lines(
    checked: Callable[..., RecipePlan],
) -> None:
    text = (VAE + FLOW).replace("{type: expander, latent_channels: 2", "{type: expander, latent_channels: 3")

    (problem,) = misfits(checked(text))

    notes = problem.notes
    lines = {name: line_of(text, f"  {name}: ") for name in ("compressor", "expander")}
    assert problem.message.startswith("in step `vae_gan`, value `reconstruction` failed: ")
    assert str(problem.where).endswith(f"recipe.yaml:{lines['expander']}:47")
    assert ("received", "latent [4, 2, 4, 4]") in notes
    models = [text for label, text in notes if label == "see also"]
    assert models[0].startswith("model compressor: ")
    assert models[0].endswith(f"recipe.yaml:{lines['compressor']}:3  compressor")
    assert models[1].endswith(f"recipe.yaml:{lines['expander']}:3  expander")
    hints = [text for label, text in notes if label == "hint"]
    assert len(hints) == 1, "with three channels the compressor would not fit the flow model"


def with_reader(call: Callable[..., torch.Tensor]) -> Registry:
    """The registry with a model `reader`, whose option no other model has, and a loss `reads`."""

    @frozen
    class Reader:
        room: int = 7

        def __call__(self) -> nn.Module:
            return nn.Linear(self.room, 1)

    using = load(PLUGINS)
    add_plugin(using, Plugin("read", "test", "1", "here"), plugin(losses={"reads": call}, models={"reader": Reader}))
    return using


READ = VAE.replace("models:\n", "models:\n  reader: {}\n").replace("l1: {}", "reads: {}\n          l1: {}")


def test_options_without_a_like_name_are_found_by_the_numbers_of_the_error(checked: Callable[..., RecipePlan]) -> None:
    def reads(reader: nn.Module, latent: torch.Tensor) -> torch.Tensor:
        return reader(latent.movedim(1, -1)).mean()  # type: ignore[no-any-return]

    (problem,) = misfits(checked(READ, using=with_reader(reads)))

    assert (
        dict(problem.notes)["hint"] == "set `models.reader.room: 2`, the value of `models.compressor.latent_channels`"
    )


@pytest.mark.parametrize(("fits", "suggested"), [(2, True), (1, False)])
def test_a_number_that_fits_by_chance_is_not_suggested(
    fits: int, suggested: bool, checked: Callable[..., RecipePlan]
) -> None:
    def reads(reader: nn.Module, latent: torch.Tensor) -> torch.Tensor:
        if reader.in_features != fits:
            raise ValueError(f"{latent.shape[1]} channels do not fit {reader.in_features}")
        return reader.weight.mean() * latent.mean()  # type: ignore[operator]

    (problem,) = misfits(checked(READ, using=with_reader(reads)))

    # The error names 2; 1 is the depth of other models.
    hints = [text for label, text in problem.notes if label == "hint"]
    assert any("models.reader.room" in hint for hint in hints) == suggested


@pytest.mark.parametrize(
    ("size", "settings", "multiple", "sides"),
    [
        (18, (), 8, "16 or 24"),
        (36, (), 8, "32 or 40"),
        (18, ("steps.flow=false",), 4, "16 or 20"),
        (36, ("models.compressor.patch=1",), 8, "32 or 40"),
        (36, ("models.compressor.downscale=8", "models.expander.downscale=8"), 16, "32 or 48"),
        (20, ("models.flow_processor.patch=1",), 0, ""),
    ],
)
def test_images_whose_size_does_not_fit_are_answered_with_sizes_that_do(
    size: int, settings: tuple[str, ...], multiple: int, sides: str, checked: Callable[..., RecipePlan]
) -> None:
    plan = checked(VAE + FLOW, f"datasets.shapes.image_size={size}", "models.compressor.depth=1", *settings)

    if not multiple:
        prove_shapes(plan)
        return
    problem, *_ = misfits(plan)

    hint = f"set `datasets.shapes.image_size` to a multiple of {multiple}, such as {sides}"
    assert [text for label, text in problem.notes if label == "hint"] == [hint]
    assert str(problem.where).startswith("--set datasets.shapes.image_size")


def test_a_mistake_in_code_is_not_blamed_on_the_options_of_models(
    checked: Callable[..., RecipePlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reads(reader: nn.Module, latent: torch.Tensor) -> torch.Tensor:
        return latent.men()  # type: ignore[attr-defined,no-any-return]

    monkeypatch.setattr(
        "fluxflow_registry.engine.preflight.shapes.suggested_changes", lambda *_: pytest.fail("options were tried")
    )

    (problem,) = misfits(checked(READ, using=with_reader(reads)))

    assert "no attribute 'men'" in problem.message
    assert "reader" in str(problem)
