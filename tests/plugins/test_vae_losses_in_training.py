"""Each loss in a recipe, alone; and LPIPS, whose network is in no checkpoint."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.data.opening import open_sources
from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Registry

from ..engine.conftest import StopAfter, changed, start, weights
from ..small import PLUGINS, sized

RECIPE = """
recipe: 1
name: one_loss
models:
  compressor: {type: compressor, latent_channels: 2, width: 8}
  expander: {type: expander, latent_channels: 2, width: 8}
datasets:
  shapes: {type: shapes, image_size: 32, length: 16}
steps:
  vae:
    dataset: shapes
    epochs: 1
    batch_size: 4
    checkpoint_every: 1
    precision: PRECISION
    updates:
      vae:
        trains: TRAINS
        losses: {LOSS}
        optimizer: {type: AdamW, lr: 1.0e-3, weight_decay: 0.0}  # weights change only by gradients
"""

BOTH = "[compressor, expander]"
LOSSES = {
    "l1: {}": BOTH,
    "mse: {}": BOTH,
    "frequency: {}": BOTH,
    "ssim: {}": BOTH,
    "color_statistics: {}": BOTH,
    "histogram: {}": BOTH,
    "contrast: {}": BOTH,
    "multiscale: {}": BOTH,
    "spectral: {}": BOTH,
    "lpips: {net: squeeze, random: true}": BOTH,
    "mmd: {points: 64}": "[compressor]",
    "kl: {free_bits: 1.0e-6, free_bits_per: channel, warmup: 0}": "[compressor]",
}


def recipe(loss: str, precision: str = "fp32") -> str:
    return RECIPE.replace("LOSS", loss).replace("TRAINS", LOSSES.get(loss, BOTH)).replace("PRECISION", precision)


@pytest.fixture(scope="module")
def plugins() -> Registry:
    """What these recipes name, without observers."""
    return load([*PLUGINS, "lpips"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.partition(":")[0])
def test_a_loss_alone_trains_the_models_that_it_reaches(
    loss: str, precision: str, prove: Callable[..., RecipePlan], plugins: Registry
) -> None:
    checked = prove(recipe(loss, precision), using=plugins)
    source = open_sources(checked)["shapes"]
    models = build_models(checked, torch.device("cpu"))
    step = LiveStep(sized(checked.steps[0], source), source, models, 0, torch.device("cpu"))
    before = weights(models)

    for number, batch in zip(range(2), step.batches(0, 0), strict=False):
        step.run(batch, Position(batch=number, step_batch=number, run_batch=number))

    assert changed(before, models) == set(LOSSES[loss].strip("[]").split(", "))
    assert all(weight.isfinite().all() for weight in weights(models).values())


def test_the_network_of_lpips_is_in_no_checkpoint_and_a_resumed_run_is_bit_identical(
    prove: Callable[..., RecipePlan], plugins: Registry, tmp_path: Path
) -> None:
    checked = prove(recipe("lpips: {net: squeeze, random: true}"), using=plugins)

    uninterrupted = start(checked, tmp_path / "uninterrupted")
    assert start(checked, tmp_path / "stopped", [StopAfter("batch_ended", 2)]).stopped
    resumed = start(checked, tmp_path / "stopped")

    expected = weights(uninterrupted.run.models)
    assert set(uninterrupted.run.models) == {"compressor", "expander"}
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed.run.models).items())
    files = [file for file in uninterrupted.run.folder.path.rglob("*") if file.is_file()]
    assert not [file for file in files if "lpips" in file.name]
    assert sum(file.stat().st_size for file in files if "final" in file.parts) < 200_000  # the network has 3 MB


def test_a_run_whose_weights_are_missing_ends_before_training(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(recipe("l1: {}, lpips: {}"))

    done = command("r.yaml", TORCH_HOME=str(tmp_path / "home"))

    assert done.returncode == 2
    assert "r.yaml:19:26  loss `lpips` of update `vae` in step `vae`: lpips with net `vgg` needs" in done.stderr
    assert f"vgg16-397923af.pth, which is not in {tmp_path}/home/hub/checkpoints" in done.stderr
    assert "python -c \"import torchvision; torchvision.models.vgg16(weights='IMAGENET1K_V1')\"" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "home").exists()


def test_weights_that_could_contain_code_are_rejected_by_validation_without_reading_the_file(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(recipe("l1: {}, lpips: {weights: vgg.pth}"))

    done = command("r.yaml", "--validate")

    assert done.returncode == 2
    assert "weights is `vgg.pth`, but only .safetensors is read: convert it with python -c" in done.stderr


def test_explaining_a_recipe_with_lpips_needs_no_weights(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(recipe("l1: {}, lpips: {}"))

    done = command("r.yaml", "--explain", TORCH_HOME=str(tmp_path / "home"))

    assert "+ 0.1 * lpips(reconstruction, image) -> compressor, expander" in done.stdout
