"""Averaged weights, and the text encoder that was trained, are what is measured, drawn, kept and generated with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluxflow_registry import hookimpl
from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.models.trained_weights import load_trained_models
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.state.models import read_model

from ..small import FLOW, VAE_GAN
from .conftest import StopAfter, start, weights

Checker = Callable[..., RecipePlan]
CPU = torch.device("cpu")

#: Averages that hardly move while the weights move far.
AVERAGED = [
    "steps.vae_gan.ema={models: [compressor, expander], decay: 0.99, warmup: false}",
    "steps.vae_gan.evaluate={seen: {dataset: shapes, samples: 4, batch_size: 4, every: 1, metrics: {psnr: {}}}}",
    "steps.vae_gan.updates.vae.optimizer.lr=0.02",
    "steps.vae_gan.epochs=1",
    "values={latent: {sample: false}}",
]


def decoded(models: Mapping[str, nn.Module], image: Tensor) -> Tensor:
    """What an autoencoder makes of a picture."""
    with torch.no_grad():
        found: Tensor = models["expander"].eval()(models["compressor"].eval()(image).mean)
    return found


class Look:
    """At the first evaluation: what was measured, what is drawn, and what both kinds of weights give by hand."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}
        self.averages: dict[str, Tensor] = {}

    @hookimpl
    def evaluated(self, run: Any, metrics: Any) -> None:
        if self.told:
            return
        image = run.peek("shapes", 4)["image"]
        averages = {name: average.module for name, average in run.engine.live.averages.items()}
        self.told = {"image": image, "psnr": metrics["psnr"], "averaged": decoded(averages, image)}
        self.told["trained"] = decoded(run.engine.models, image)
        self.told["drawn"] = run.draw(["reconstruction_mean"], {"image": image})["reconstruction_mean"]
        self.averages = weights(averages)
        run.engine.live.train_mode()


def psnr(reconstruction: Tensor, image: Tensor) -> float:
    """The mean over images of 10 log10(4 / mse)."""
    error = (reconstruction - image).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean())


def test_a_run_measures_and_draws_with_averages_and_leaves_them_as_its_result(checked: Checker, tmp_path: Path) -> None:
    look = Look()

    run = start(checked(VAE_GAN, *AVERAGED), tmp_path / "runs", [look]).run

    told = look.told
    assert told["psnr"] == pytest.approx(psnr(told["averaged"], told["image"]), abs=1e-4)
    assert abs(told["psnr"] - psnr(told["trained"], told["image"])) > 0.1
    torch.testing.assert_close(told["drawn"], told["averaged"])
    assert not torch.allclose(told["drawn"], told["trained"], atol=1e-2)
    for name in ("compressor", "expander"):
        _, final = read_model(run.folder.path / "final" / name)
        assert all(torch.equal(final[key], look.averages[f"{name}.{key}"]) for key in final)


def test_a_checkpoint_draws_with_its_averages_and_its_text_encoder(checked: Checker, tmp_path: Path) -> None:
    recipe = checked(VAE_GAN + FLOW, "steps.flow.updates.flow.optimizer.lr=0.02", "steps.vae_gan.epochs=1")

    stopped = start(recipe, tmp_path, [StopAfter("batch_ended", 10)]).run
    models, source, note = load_trained_models(recipe, recipe.steps[1], stopped.folder.path, CPU, None)

    assert source.startswith("000000010-flow")
    assert note is not None
    average = stopped.live.averages["flow_processor"].module
    assert same(models["flow_processor"], average)
    assert not same(models["flow_processor"], stopped.models["flow_processor"])
    assert same(models["text_encoder"], stopped.models["text_encoder"])
    assert not same(models["text_encoder"], build_models(recipe, CPU)["text_encoder"])


def test_a_finished_run_draws_with_the_models_that_it_ended_with(checked: Checker, tmp_path: Path) -> None:
    recipe = checked(VAE_GAN + FLOW, "steps.flow.updates.flow.optimizer.lr=0.02", "steps.vae_gan.epochs=1")

    ended = start(recipe, tmp_path).run
    models, source, note = load_trained_models(recipe, recipe.steps[1], ended.folder.path, CPU, None)

    assert (source, note) == ("final", None)
    assert {name for name, model in models.items() if same(model, ended.models[name])} == set(ended.models)
    fresh = build_models(recipe, CPU)
    assert {name for name, model in models.items() if same(model, fresh[name])} == set()


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models have the same numbers."""
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[key], theirs[key]) for key in mine)
