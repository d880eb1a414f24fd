"""Metrics: compared with torchmetrics, by hand, and in the choice of the best checkpoint and of learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fluxflow_lpips.losses import Lpips
from fluxflow_registry import hookimpl
from fluxflow_registry.engine.run.observers import ObservedRun
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Registry
from fluxflow_registry.state import store
from fluxflow_vae import losses
from fluxflow_vae.metrics import Elbo, Ssim, kl, psnr, sharpness
from fluxflow_vae.networks import Posterior

from ..engine.conftest import start
from ..small import PLUGINS


def images(seed: int = 0, side: int = 24) -> Tensor:
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def posterior(seed: int = 0) -> Posterior:
    generator = torch.Generator().manual_seed(seed)
    return Posterior(*torch.randn(2, 3, 2, 4, 4, generator=generator))


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_psnr_and_ssim_agree_with_torchmetrics(noise: float) -> None:
    library = pytest.importorskip("torchmetrics.functional.image", reason="torchmetrics is not installed")
    t = images(0)
    p = (t + noise * images(1)).clamp(-1, 1)

    _, everywhere = library.structural_similarity_index_measure(p, t, data_range=2.0, return_full_image=True)
    similarity = everywhere[..., 5:-5, 5:-5].mean()  # the library's mean includes windows beyond the border

    torch.testing.assert_close(Ssim()(p, t), similarity, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(1 - losses.Ssim()(p, t), similarity, rtol=1e-4, atol=1e-5)
    if noise:
        ratio = library.peak_signal_noise_ratio(p, t, data_range=2.0, dim=(1, 2, 3), reduction="elementwise_mean")
        torch.testing.assert_close(psnr(p, t), ratio, rtol=1e-4, atol=1e-4)


def test_ssim_is_one_for_the_image_itself_and_its_window_shrinks_for_small_images() -> None:
    t = images(0)

    assert float(Ssim()(t, t)) == pytest.approx(1.0)
    assert float(Ssim()(t + 1e9, t)) == float(Ssim()(torch.ones_like(t), t))
    assert float(Ssim(window=5)(images(1), t)) != float(Ssim(window=7)(images(1), t))
    assert float(Ssim(sigma=1.0)(images(1), t)) != float(Ssim(sigma=2.0)(images(1), t))
    assert Ssim()(images(1, side=6), images(0, side=6)).isfinite()
    with pytest.raises(ValueError, match="window is 4: it must be odd and at least 3"):
        Ssim(window=4)


def test_kl_agrees_with_torch_distributions() -> None:
    q = posterior()
    normal = torch.distributions.Normal(q.mean, (0.5 * q.logvar).exp())

    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))

    torch.testing.assert_close(kl(q), expected.mean())
    assert float(kl(Posterior(torch.zeros(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)))) == 0.0


@given(beta=st.floats(0, 4), kind=st.sampled_from(["mse", "l1"]))
@settings(max_examples=20)
def test_elbo_by_means_is_the_weighted_sum_of_the_losses(beta: float, kind: str) -> None:
    p, t, q = images(1), images(0), posterior()
    reconstruction = {"mse": torch.nn.functional.mse_loss, "l1": torch.nn.functional.l1_loss}[kind]

    found = Elbo(reconstruction=kind, beta=beta)(p, t, q)  # type: ignore[arg-type]

    torch.testing.assert_close(found, reconstruction(p, t) + beta * losses.Kl()(q))


@pytest.mark.parametrize("kind", ["mse", "l1"])
def test_elbo_by_sums_is_the_negative_bound_in_nats_up_to_a_constant(kind: Any) -> None:
    p, t, q = images(1), images(0), posterior()
    likelihood: Any = {
        "mse": torch.distributions.Normal(p, math.sqrt(0.5)),
        "l1": torch.distributions.Laplace(p, 1.0),
    }[kind]
    constant = {"mse": 0.5 * math.log(math.pi), "l1": math.log(2.0)}[kind] * t[0].numel()
    normal = torch.distributions.Normal(q.mean, (0.5 * q.logvar).exp())
    divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))

    bound = -likelihood.log_prob(t).flatten(1).sum(dim=1) + divergence.flatten(1).sum(dim=1)

    found = Elbo(reconstruction=kind, reduction="sum")(p, t, q)
    torch.testing.assert_close(found, bound.mean() - constant)


@given(noise=st.floats(0.001, 1.0))
@settings(max_examples=30, deadline=None)
def test_psnr_is_in_decibels_for_images_in_minus_one_to_one(noise: float) -> None:
    t = torch.zeros(2, 3, 4, 4)

    found = psnr(t + noise, t)

    assert float(found) == pytest.approx(10 * math.log10(4 / noise**2), rel=1e-4)


def test_sharpness_is_one_for_the_image_itself_and_lower_for_a_blurred_one() -> None:
    t = images()
    blurred = torch.nn.functional.avg_pool2d(t, 3, 1, 1)
    flat = t.mean(dim=-1, keepdim=True).expand_as(t), t.mean(dim=-2, keepdim=True).expand_as(t)

    assert float(sharpness(t, t)) == pytest.approx(1)
    assert float(sharpness(blurred, t)) < 0.5
    assert all(float(sharpness(each, t)) > 0 for each in flat)  # gradients in both directions count


RECIPE = """
recipe: 1
name: chosen
models:
  compressor: {type: compressor, latent_channels: 2, width: 8}
  expander: {type: expander, latent_channels: 2, width: 8}
datasets:
  shapes: {type: shapes, image_size: 32, length: 24}
  unseen: {type: shapes, image_size: 32, length: 8, seed: 1}
values: {latent: {sample: false}}
steps:
  vae:
    dataset: shapes
    batch_size: 4
    epochs: 5
    checkpoint_every: 1000
    updates:
      vae:
        trains: [compressor, expander]
        losses: {mse: {weight: 1.0}, kl: {weight: 0.01}}
        optimizer: {type: AdamW, lr: 0.05}
        scheduler: SCHEDULER
    evaluate:
      val:
        dataset: unseen
        samples: 8
        batch_size: 3
        every: 1
        metrics: {elbo: {beta: 0.01}, kl: {}, ssim: {}, psnr: {}, lpips: {net: squeeze, random: true}}
    best: {metric: val/elbo}
"""


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load([*PLUGINS, "lpips"])


class Recorder:
    """An observer that records the results of evaluations."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    @hookimpl
    def evaluated(self, metrics: Any) -> None:
        self.metrics.append(dict(metrics))


def test_the_best_checkpoint_is_that_with_the_lowest_elbo_on_the_held_out_dataset(
    prove: Callable[..., RecipePlan], registry: Registry, tmp_path: Path
) -> None:
    # The third epoch, at 250 times the rate, destroys what the first two have learned, whatever the rounding.
    text = RECIPE.replace("SCHEDULER", "{type: ConstantLR, factor: 0.004, total_iters: 2}")
    recipe = prove(text.replace("epochs: 5", "epochs: 3").replace("lr: 0.05", "lr: 0.5"), using=registry)
    recorder = Recorder()

    run = start(recipe, tmp_path / "runs", [recorder]).run

    (best,) = (run.folder.path / "checkpoints").glob("*-best")
    state, meta = store.load(best)
    bounds = [metrics["elbo"] for metrics in recorder.metrics[:3]]
    assert bounds[2] > 10 * min(bounds[:2])
    assert meta["position"]["epoch"] == bounds.index(min(bounds[:2])) + 1
    for name, model in run.models.items():
        model.load_state_dict(state["model"][name])
        model.eval()
    image = ObservedRun(run).peek("unseen", 8)["image"]
    with torch.no_grad():
        q = run.models["compressor"](image)
        p = run.models["expander"](q.mean)
    expected = {
        "elbo": (p - image).square().mean() + 0.01 * losses.Kl()(q),
        "kl": losses.Kl()(q),
        "ssim": 1 - losses.Ssim()(p.clamp(-1, 1), image),
        "psnr": psnr(p, image),
        "lpips": Lpips(net="squeeze", random=True)(p, image),
    }
    found = recorder.metrics[bounds.index(min(bounds))]
    assert found == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-3)


@pytest.mark.parametrize(("mode", "reduced"), [("max", False), ("min", True)])
def test_a_scheduler_reduces_the_rate_when_a_metric_of_the_held_out_dataset_stops_improving(
    prove: Callable[..., RecipePlan], registry: Registry, tmp_path: Path, mode: str, reduced: bool
) -> None:
    scheduler = f"{{type: ReduceLROnPlateau, metric: val/psnr, mode: {mode}, patience: 0, threshold: 0.0}}"
    text = RECIPE.replace("SCHEDULER", scheduler).replace("lr: 0.05", "lr: 0.002").replace("epochs: 5", "epochs: 3")
    recipe = prove(text, using=registry)
    recorder = Recorder()

    run = start(recipe, tmp_path / "runs", [recorder]).run

    ratios = [metrics["psnr"] for metrics in recorder.metrics]
    assert ratios == sorted(ratios)  # it improves in every epoch
    assert (run.live.updates[0].optimizer.optimizer.param_groups[0]["lr"] < 0.002) == reduced


def test_a_scheduler_counts_only_epochs_with_an_evaluation_of_its_metric(
    prove: Callable[..., RecipePlan], registry: Registry, tmp_path: Path
) -> None:
    scheduler = "{type: ReduceLROnPlateau, metric: val/psnr, patience: 0, threshold: 0.0}"
    recipe = prove(RECIPE.replace("SCHEDULER", scheduler).replace("every: 1\n", "every: 2\n"), using=registry)

    run = start(recipe, tmp_path / "runs").run

    assert run.live.updates[0].optimizer.scheduler.last_epoch == 2  # of five epochs


def test_a_scheduler_of_a_metric_that_does_not_exist_is_reported_with_its_location(
    prove: Callable[..., RecipePlan], registry: Registry
) -> None:
    from fluxflow_registry.errors import RecipeError

    with pytest.raises(RecipeError) as caught:
        prove(RECIPE.replace("SCHEDULER", "{type: ReduceLROnPlateau, metric: vae_lss}"), using=registry)

    (problem,) = caught.value.problems
    assert problem.message == "scheduler `ReduceLROnPlateau` watches `vae_lss`, but step `vae` logs no such metric"
    assert problem.nearest == "vae_loss"
    assert str(problem.where).endswith(":22:54")


def test_a_metric_whose_weights_are_missing_is_reported_before_training(
    prove: Callable[..., RecipePlan], registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fluxflow_registry.engine.preflight.shapes import prove_shapes
    from fluxflow_registry.errors import RecipeError

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    text = RECIPE.replace("SCHEDULER", "{type: StepLR, step_size: 1}").replace("{net: squeeze, random: true}", "{}")

    with pytest.raises(RecipeError) as caught:
        prove_shapes(prove(text, using=registry))

    (problem,) = caught.value.problems
    start = "metric `lpips` of evaluation `val` in step `vae`: lpips with net `vgg` needs the file vgg16-"
    assert problem.message.startswith(start)
    assert [text[:9] for label, text in problem.notes if label == "command"] == ["python -c"]
    assert str(problem.where).endswith(":29:67")


def test_a_loss_whose_weights_are_missing_is_reported_once_with_its_location_and_the_command(
    prove: Callable[..., RecipePlan], registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fluxflow_registry.engine.preflight.shapes import prove_shapes
    from fluxflow_registry.errors import RecipeError

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    text = RECIPE.replace("SCHEDULER", "{type: StepLR, step_size: 1}")
    checked = prove(text, "steps.vae.updates.vae.losses.lpips={weight: 0.1}", using=registry)

    with pytest.raises(RecipeError) as caught:
        prove_shapes(checked)

    (problem,) = caught.value.problems
    start = "loss `lpips` of update `vae` in step `vae`: lpips with net `vgg` needs the file vgg16-"
    assert problem.message.startswith(start)
    assert [text[:9] for label, text in problem.notes if label == "command"] == ["python -c"]
    assert "Error" not in str(problem)
    assert problem.where == checked.step("vae").updates["vae"].losses["lpips"].component.where
