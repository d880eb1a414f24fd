"""Training finds everything that `--check` finds, before it creates a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fluxflow_registry.check.checker import check
from fluxflow_registry.check.effective_recipe import effective_recipe
from fluxflow_registry.recipe.writer import dump, plain
from fluxflow_registry.registry.registry import Registry

from ..recipes import DEFAULT
from ..small import FLOW, VAE_GAN

PLUGIN = '''
from attrs import frozen

from fluxflow_registry import Draw, Field, hookimpl


def no_metric(image):
    raise ValueError("no number")


def no_image(latent):
    raise ValueError("no image")


def no_optimizer(parameters):
    return None


def evaluates(reconstruction, expander):
    expander.eval()
    return reconstruction.square().mean()


@frozen
class Painter:
    """An observer that draws a value which cannot be computed."""

    def draws(self):
        return [Draw(("no_image",), dataset="shapes", steps=("vae_gan",))]


class Source:
    def __len__(self):
        return 24

    def batch(self, indices, seed):
        import torch

        return {"image": torch.zeros(len(indices), 3, 16, 16).double(), "caption": ["x"] * len(indices)}


class Double:
    """A dataset of another type than it declares."""

    def fields(self):
        return {"image": Field((3, 16, 16)), "caption": Field(None, "text")}

    def __call__(self):
        return Source()


@hookimpl
def fluxflow_register_metrics(register):
    register("no_metric", no_metric)


@hookimpl
def fluxflow_register_values(register):
    register("no_image", no_image)


@hookimpl
def fluxflow_register_optimizers(register):
    register("no_optimizer", no_optimizer)


@hookimpl
def fluxflow_register_losses(register):
    register("evaluates", evaluates)


@hookimpl
def fluxflow_register_observers(register):
    register("painter", Painter)


@hookimpl
def fluxflow_register_datasets(register):
    register("double", Double)
'''

VAE = "steps.vae_gan.updates.vae"

WRONG: Mapping[str, tuple[list[str], str]] = {
    "a metric": (
        ["steps.vae_gan.evaluate={e: {dataset: shapes, metrics: {no_metric: {}}}}"],
        "metric `no_metric` of evaluation `e` in step `vae_gan` failed: ValueError: no number",
    ),
    "a drawn value": (
        ["observers.painter={}"],
        "observer `painter` draws `no_image` in step `vae_gan`: value `no_image` failed: ValueError: no image",
    ),
    "an optimizer": (
        [f"{VAE}.optimizer={{type: no_optimizer}}"],
        "in step `vae_gan`, optimizer `no_optimizer` returned NoneType, not a torch Optimizer",
    ),
    "a batch": (
        ["datasets.shapes={type: double}"],
        "`batch` of dataset `shapes` returned a tensor of float64 as field `image`",
    ),
    "a loss": (
        [f"{VAE}.losses.evaluates={{}}"],
        "in step `vae_gan`, loss `evaluates` of update `vae` calls `train()` or `eval()` of `expander`",
    ),
    "untrained models": (
        ["steps.vae_gan=false"],
        "step `flow` uses model `compressor`, whose weights are random: no step before it trains it",
    ),
    "a compiled model": (
        ["models.expander.compile={backend: eagr}"],
        "unknown backend `eagr` of torch.compile for model `expander`",
    ),
}


@pytest.mark.parametrize("command", [["--check"], []], ids=["check", "training"])
@pytest.mark.parametrize("wrong", WRONG)
def test_training_is_refused_by_what_the_check_finds(
    wrong: str, command: list[str], call: Callable[..., Any], tmp_path: Path
) -> None:
    settings, words = WRONG[wrong]
    (tmp_path / "small.yaml").write_text(VAE_GAN + FLOW)
    (tmp_path / "plugin.py").write_text(PLUGIN)
    chosen = [word for setting in settings for word in ("--set", setting)]

    refused = call("small.yaml", "--plugin", "plugin.py", "--output", "runs", *chosen, *command)

    assert refused.code == 2
    assert words in refused.err
    assert "Traceback" not in refused.err
    assert not (tmp_path / "runs").exists()


def test_the_flow_of_the_default_recipe_alone_is_rejected_with_how_to_allow_it(call: Callable[..., Any]) -> None:
    refused = call(DEFAULT, "--set", "steps.vae_warmup=false", "--set", "steps.vae_gan=false", "--check")

    assert refused.code == 2
    assert "step `flow` uses model `compressor`, whose weights are random: no step before it trains it" in refused.err
    assert "instead   to use random weights on purpose: `models.compressor.untrained: true`" in refused.err


def test_a_recipe_whose_observers_name_removed_steps_is_written_out_as_one_that_means_the_same(
    everything: Registry, tmp_path: Path
) -> None:
    plan = check(DEFAULT, everything, ["steps.vae_gan=false"])
    written = tmp_path / "recipe.yaml"
    written.write_text(dump(effective_recipe(plan)))

    again = check(written, everything)

    assert [step.name for step in again.steps] == ["vae_warmup", "flow"]
    assert plain(effective_recipe(again)) == plain(effective_recipe(plan))
