"""Averaged weights, and the trained text encoder, are used for evaluation, sampling, `final/` and generation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluxflow_registry import hookimpl
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.engine.run.trained_models import load_trained_models
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.errors import RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.state.store import read_model
from fluxflow_registry.testing import registry_with

from ..small import FLOW, PLUGINS, VAE_GAN
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
    """The reconstruction of an image."""
    with torch.no_grad():
        found: Tensor = models["expander"].eval()(models["compressor"].eval()(image).mean)
    return found


class FirstEvaluation:
    """At the first evaluation: its metrics, a sample, and what both kinds of weights give when computed by hand."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.averages: dict[str, Tensor] = {}

    @hookimpl
    def evaluated(self, run: Any, metrics: Any) -> None:
        if self.values:
            return
        image = run.peek("shapes", 4)["image"]
        averages = {name: average.module for name, average in run.engine.live.averages.items()}
        self.values = {"image": image, "psnr": metrics["psnr"], "averaged": decoded(averages, image)}
        self.values["trained"] = decoded(run.engine.models, image)
        self.values["sampled"] = run.draw(["reconstruction_mean"], {"image": image})["reconstruction_mean"]
        self.averages = weights(averages)
        run.engine.live.train_mode()


def psnr(reconstruction: Tensor, image: Tensor) -> float:
    """The mean over images of 10 log10(4 / mse)."""
    error = (reconstruction - image).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean())


def test_a_run_evaluates_and_samples_with_averaged_weights_and_ends_with_them(checked: Checker, tmp_path: Path) -> None:
    seen = FirstEvaluation()

    run = start(checked(VAE_GAN, *AVERAGED), tmp_path / "runs", [seen]).run

    values = seen.values
    assert values["psnr"] == pytest.approx(psnr(values["averaged"], values["image"]), abs=1e-4)
    assert abs(values["psnr"] - psnr(values["trained"], values["image"])) > 0.1
    torch.testing.assert_close(values["sampled"], values["averaged"])
    assert not torch.allclose(values["sampled"], values["trained"], atol=1e-2)
    for name in ("compressor", "expander"):
        _, final = read_model(run.folder.path / "final" / name)
        assert all(torch.equal(final[key], seen.averages[f"{name}.{key}"]) for key in final)


def test_generation_from_a_checkpoint_uses_its_averages_and_its_text_encoder(checked: Checker, tmp_path: Path) -> None:
    recipe = checked(VAE_GAN + FLOW, "steps.flow.updates.flow.optimizer.lr=0.02", "steps.vae_gan.epochs=1")

    stopped = start(recipe, tmp_path, [StopAfter("batch_ended", 10)]).run
    models, source, note = load_trained_models(recipe, stopped.folder.path, CPU)

    assert source.startswith("000000010-flow")
    assert note is not None
    average = stopped.live.averages["flow_processor"].module
    assert same(models["flow_processor"], average)
    assert not same(models["flow_processor"], stopped.models["flow_processor"])
    assert same(models["text_encoder"], stopped.models["text_encoder"])
    assert not same(models["text_encoder"], build_models(recipe, CPU)["text_encoder"])


def test_generation_from_a_finished_run_uses_its_final_models(checked: Checker, tmp_path: Path) -> None:
    recipe = checked(VAE_GAN + FLOW, "steps.flow.updates.flow.optimizer.lr=0.02", "steps.vae_gan.epochs=1")

    ended = start(recipe, tmp_path).run
    models, source, note = load_trained_models(recipe, ended.folder.path, CPU)

    assert (source, note) == ("final", None)
    assert {name for name, model in models.items() if same(model, ended.models[name])} == set(ended.models)
    fresh = build_models(recipe, CPU)
    assert {name for name, model in models.items() if same(model, fresh[name])} == set()


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models have the same weights."""
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[key], theirs[key]) for key in mine)


class Weighted(nn.Module):
    """A decoder with weight normalization in its first form, which keeps a weight that it has computed."""

    def __init__(self) -> None:
        super().__init__()
        from fluxflow_vae.models import ExpanderBuilder

        self.inner = ExpanderBuilder(latent_channels=2, width=8)()
        self.downscale = self.inner.downscale
        self.color = torch.nn.utils.weight_norm(nn.Conv2d(3, 3, 1))
        self.number = nn.Parameter(torch.tensor(3), requires_grad=False)

    def forward(self, latent: Tensor) -> Tensor:
        image: Tensor = self.color(self.inner(latent))
        return image


class Locked(Weighted):
    """The same decoder with something that nothing can copy."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def averaging(checked: Checker, model: type[nn.Module]) -> RecipePlan:
    registry = registry_with(PLUGINS, models={"decoder": lambda: model()})
    text = VAE_GAN.replace("{type: expander, latent_channels: 2, width: 8}", "decoder")
    return checked(text, "steps.vae_gan.ema={models: [expander], decay: 0.5, warmup: false}", using=registry)


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_a_model_with_weight_normalization_is_averaged(checked: Checker, live: Callable[..., LiveStep]) -> None:
    recipe = averaging(checked, Weighted)
    prove_shapes(recipe)
    step = live(recipe)
    before = {name: p.clone() for name, p in step.models["expander"].named_parameters()}

    step.run(next(step.batches(0, 0)), Position())

    averaged = dict(step.averages["expander"].module.named_parameters())
    for name, trained in step.models["expander"].named_parameters():
        if name.startswith("color.weight"):
            assert torch.allclose(averaged[name], 0.5 * before[name] + 0.5 * trained)
            assert not torch.equal(trained, before[name])
    z = torch.randn(1, 2, 4, 4)
    fresh = Weighted().eval()
    fresh.load_state_dict(step.averages["expander"].module.state_dict())
    with torch.no_grad():
        assert torch.equal(step.averages["expander"].module(z), fresh(z))


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_a_model_that_cannot_be_copied_is_reported_before_training_with_its_builder(checked: Checker) -> None:
    with pytest.raises(RecipeError) as rejected:
        prove_shapes(averaging(checked, Locked))

    (problem,) = rejected.value.problems
    assert problem.message.startswith("step `vae_gan` averages model `expander`, which cannot be copied: TypeError")
    assert "test_averages.py" in dict(problem.notes)["defined in"]
