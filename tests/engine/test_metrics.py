"""Metrics are held to what a metric is: before training over one batch, and wherever they are measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluxflow_registry import hookimpl
from fluxflow_registry.engine.data.opening import open_sources
from fluxflow_registry.engine.models.build import build_on_meta
from fluxflow_registry.engine.preflight.metrics import try_metrics
from fluxflow_registry.errors import RecipeError, TrainingError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import add_plugin, load
from fluxflow_registry.registry.registry import Plugin, Registry
from fluxflow_registry.state import checkpoints

from ..small import FLOW, PLUGINS, VAE_GAN
from ..synthetic import plugin
from .conftest import start

Checker = Callable[..., RecipePlan]
STEP = "steps.vae_gan"


def each(reconstruction: Tensor, image: Tensor) -> Tensor:
    """One figure a picture, which is no figure."""
    return (reconstruction - image).abs().mean(dim=(1, 2, 3))


def sliced(reconstruction: Tensor, image: Tensor) -> Tensor:
    return (reconstruction[:, :, 1:] - image).abs().mean()


def absent(reconstruction: Tensor) -> Tensor:
    picture: Any = reconstruction
    return torch.as_tensor(picture.absent)


def edges(reconstruction: Tensor, image: Tensor) -> dict[str, Tensor]:
    return {"dx": (reconstruction - image).diff(dim=3).abs().mean(), "dy": (reconstruction - image).diff(dim=2).mean()}


def rows(reconstruction: Tensor) -> dict[str, Tensor]:
    return {"all": reconstruction.mean(), "rows": reconstruction.mean(dim=3)}


def number(reconstruction: Tensor, image: Tensor) -> float:
    return float((reconstruction - image).abs().mean()) if bool(image.mean() < 2) else 0.0


def text(reconstruction: Tensor) -> str:
    return str(reconstruction.shape)


def inside(expander: nn.Module) -> Tensor:
    return next(expander.parameters()).mean()


def frozen_mapping(reconstruction: Tensor) -> Mapping[str, Tensor]:
    return MappingProxyType({"size": reconstruction.mean()})


MEASURES = {f.__name__: f for f in (each, sliced, absent, edges, rows, number, text, inside, frozen_mapping)}


@pytest.fixture(scope="module")
def own() -> Registry:
    made = load(PLUGINS)
    add_plugin(made, Plugin("own", "test", "1", "here"), plugin(metrics=MEASURES))
    return made


def evaluated(metrics: str) -> str:
    return f"{STEP}.evaluate={{seen: {{dataset: shapes, samples: 4, every: 1, metrics: {{{metrics}}}}}}}"


WRONG = [
    ("each", r"metric `each` of evaluation `seen` in step `vae_gan` returned a tensor of shape \[\d\]; a metric must"),
    ("sliced", r"metric `sliced` of evaluation `seen` in step `vae_gan` failed: RuntimeError: The size of tensor a"),
    ("absent", r"metric `absent` of evaluation `seen` in step `vae_gan` failed: AttributeError"),
    ("rows", r"metric `rows` of .*, value `rows`, returned a tensor of shape \[\d, 3, 16\]"),
    ("text", r"metric `text` of .* returned str; a metric must"),
]


@pytest.mark.parametrize(("name", "words"), WRONG)
def test_a_metric_that_returns_no_number_is_rejected_before_training(
    checked: Checker, own: Registry, name: str, words: str
) -> None:
    recipe = checked(VAE_GAN, evaluated(f"{name}: {{}}"), using=own)

    with pytest.raises(RecipeError, match=words) as caught:
        try_metrics(recipe, open_sources(recipe), build_on_meta(recipe.models))

    (problem,) = caught.value.problems
    assert str(problem.where).startswith("--set")
    assert "test_metrics.py" in dict(problem.notes)["defined in"]


@pytest.mark.parametrize("name", ["each", "absent"])
def test_a_run_ends_with_the_same_words_and_no_traceback(
    checked: Checker, own: Registry, tmp_path: Path, name: str
) -> None:
    recipe = checked(VAE_GAN, evaluated(f"{name}: {{}}"), f"{STEP}.max_steps=1", using=own)

    with pytest.raises(TrainingError, match=rf"metric `{name}` of evaluation `seen` in step `vae_gan`"):
        start(recipe, tmp_path / "runs")


def test_metrics_that_look_at_numbers_or_draw_or_ask_for_models_pass(checked: Checker, own: Registry) -> None:
    recipe = checked(VAE_GAN + FLOW, evaluated("number: {}, inside: {}, psnr: {}, ssim: {}, elbo: {}"), using=own)

    try_metrics(recipe, open_sources(recipe), build_on_meta(recipe.models))


def test_the_models_compute_nothing_for_it(checked: Checker, own: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = checked(VAE_GAN, evaluated("psnr: {}"), using=own)
    devices = set()
    convolve = torch.nn.Conv2d.forward

    def watched(layer: torch.nn.Conv2d, x: Tensor) -> Tensor:
        devices.add(x.device.type)
        return convolve(layer, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)

    try_metrics(recipe, open_sources(recipe), build_on_meta(recipe.models))

    assert devices == {"meta"}


@pytest.mark.parametrize("watching", ["best={metric: seen/edges/dx}", "until={type: plateau, metric: seen/edges/dx}"])
def test_a_metric_of_a_dict_that_is_watched_by_another_name_is_rejected(
    checked: Checker, own: Registry, watching: str
) -> None:
    recipe = checked(VAE_GAN, evaluated("edges: {}"), f"{STEP}.{watching}", using=own)

    with pytest.raises(
        RecipeError, match="watches `seen/edges/dx`, but evaluation `seen` does not measure it"
    ) as caught:
        try_metrics(recipe, open_sources(recipe), build_on_meta(recipe.models))

    (problem,) = caught.value.problems
    assert problem.choices is not None
    assert problem.choices.available == ("seen/dx", "seen/dy")


@pytest.mark.parametrize("metrics", ["edges: {}, dx: {type: number}", "dx: {type: number}, edges: {}"])
def test_a_label_keeps_its_name_wherever_it_stands(
    checked: Checker, own: Registry, tmp_path: Path, metrics: str
) -> None:
    recipe = checked(VAE_GAN, evaluated(metrics), f"{STEP}.max_steps=1", f"{STEP}.epochs=1", using=own)

    run = start(recipe, tmp_path / "runs").run

    assert set(run.history.results["vae_gan"]["seen"]) == {"dx", "edges/dx", "dy"}


class Warned:
    """An observer that keeps the warnings and what is measured."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.measured: list[dict[str, float]] = []

    @hookimpl
    def evaluated(self, metrics: dict[str, float]) -> None:
        self.measured.append(metrics)

    @hookimpl
    def warned(self, message: str) -> None:
        self.said.append(message)


def test_a_run_warns_once_of_a_watched_name_that_its_evaluation_did_not_measure(
    checked: Checker, own: Registry, tmp_path: Path
) -> None:
    best = f"{STEP}.best={{metric: seen/edges/dx}}"
    recipe = checked(VAE_GAN, evaluated("edges: {}"), best, f"{STEP}.max_steps=1", using=own)
    observer = Warned()

    start(recipe, tmp_path / "runs", [observer])

    (reported,) = observer.said
    assert "`best` watches `seen/edges/dx`, but evaluation `seen` does not measure it" in reported
    assert "available  seen/dx, seen/dy" in reported


@pytest.mark.parametrize(("metric", "better"), [("psnr", max), ("elbo", min)])
def test_the_best_checkpoint_is_that_of_the_epoch_with_the_best_metric(
    checked: Checker, tmp_path: Path, metric: str, better: Callable[[list[float]], float]
) -> None:
    settings = [evaluated(f"{metric}: {{}}"), f"{STEP}.best={{metric: seen/{metric}}}", f"{STEP}.epochs=3"]
    observer = Warned()

    run = start(checked(VAE_GAN, *settings), tmp_path / "runs", [observer]).run

    figures = [each[metric] for each in observer.measured][:3]
    (best,) = [each for each in checkpoints.listing(run.folder.checkpoints) if each.kind == "best"]
    assert best.run_batch == 6 * (1 + figures.index(better(figures)))
    assert min(figures) < max(figures)


def test_a_metric_may_return_any_mapping(checked: Checker, own: Registry, tmp_path: Path) -> None:
    recipe = checked(VAE_GAN, evaluated("frozen_mapping: {}"), f"{STEP}.max_steps=1", using=own)

    try_metrics(recipe, open_sources(recipe), build_on_meta(recipe.models))
    run = start(recipe, tmp_path / "runs").run

    assert isinstance(run.history.results["vae_gan"]["seen"]["size"], float)
