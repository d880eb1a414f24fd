"""The balancer `gradient_norm`: the ratio of gradient norms at the last layer, bounded and positive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fluxflow_balancers.balancers import GradientNorm
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.data.opening import open_sources
from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.errors import FluxflowError, RecipeError
from fluxflow_registry.plan.steps import RecipePlan

from ..small import VAE_GAN, sized

STEP = "steps.vae_gan"
VAE = f"{STEP}.updates.vae"
LAYER = "expander.out.0.weight"
BALANCER = f"{VAE}.balancer={{type: gradient_norm, layer: {LAYER}, balanced: [hinge_generator]}}"
Prove = Callable[..., RecipePlan]


class FakeGradients:
    """Gradients that a test defines."""

    def __init__(self, weights: Mapping[str, float], **gradients: list[float]) -> None:
        self.weights = weights
        self.gradients = {label: torch.tensor(gradient) for label, gradient in gradients.items()}

    def check(self, layer: str, losses: Sequence[str] = ()) -> None:
        assert layer == "layer"

    def __call__(self, layer: str) -> Mapping[str, Tensor]:
        return self.gradients


def factor(gradients: FakeGradients, loss: float = 1.0, **options: Any) -> float:
    """The factor of loss `gan`, balanced against `l1` and `ssim`."""
    weigher = GradientNorm(layer="layer", balanced=["gan"], **options)(["l1", "ssim", "gan"], gradients)
    return float(weigher({"l1": torch.tensor(0.5), "ssim": torch.tensor(0.5), "gan": torch.tensor(loss)})["gan"])


def test_the_factor_is_the_norm_of_the_weighted_other_gradients_over_that_of_its_own() -> None:
    gradients = FakeGradients({"l1": 2.0, "ssim": 0.5, "gan": 0.1}, l1=[1.0, 0.0], ssim=[2.0, 4.0], gan=[0.3, 0.4])

    assert factor(gradients, delta=0.5) == pytest.approx((3.0**2 + 2.0**2) ** 0.5 / (0.5 + 0.5))
    assert factor(gradients, against=["l1"], delta=0.5) == pytest.approx(2.0 / (0.5 + 0.5))


@given(other=st.floats(-1e9, 1e9, width=32), own=st.floats(-1e9, 1e9, width=32), loss=st.floats(-1e9, 1e9, width=32))
@settings(max_examples=100, deadline=None)
def test_the_factor_is_between_zero_and_the_clamp_for_losses_of_either_sign(
    other: float, own: float, loss: float
) -> None:
    gradients = FakeGradients({"l1": 1.0, "gan": 1.0}, l1=[other], gan=[own])

    assert 0.0 <= factor(gradients, loss) <= 1e4


@pytest.mark.parametrize("vanished", [0.0, 1e-30])
def test_the_factor_of_a_vanishing_gradient_is_the_clamp(vanished: float) -> None:
    gradients = FakeGradients({"l1": 1.0, "gan": 1.0}, l1=[1e3], gan=[vanished])

    assert factor(gradients) == 1e4
    assert factor(gradients, clamp=5.0) == 5.0


@pytest.mark.parametrize("other", [float("nan"), float("inf")])
def test_the_factor_of_a_non_finite_gradient_is_finite(other: float) -> None:
    assert factor(FakeGradients({"l1": 1.0, "gan": 1.0}, l1=[other], gan=[other])) == 0.0
    assert 0.0 <= factor(FakeGradients({"l1": 1.0, "gan": 1.0}, l1=[other], gan=[1.0])) <= 1e4


def test_a_batch_without_the_losses_to_compare_keeps_the_weights() -> None:
    gradients = FakeGradients({"gan": 1.0}, gan=[1.0])
    weigher = GradientNorm(layer="layer", balanced=["gan"])(["l1", "gan"], gradients)

    assert weigher({"l1": torch.tensor(1.0)}) == {}
    assert weigher({"gan": torch.tensor(1.0)}) == {}


def test_a_balanced_loss_that_does_not_reach_the_layer_is_reported() -> None:
    with pytest.raises(FluxflowError, match="the gradient of loss `gan` does not reach `layer`") as caught:
        factor(FakeGradients({"l1": 1.0, "gan": 1.0}, l1=[1.0]))

    (problem,) = caught.value.problems
    assert (problem.code, problem.subject) == ("not-reached", "gan")


def live(checked: RecipePlan) -> LiveStep:
    (source,) = open_sources(checked).values()
    device = torch.device("cpu")
    return LiveStep(sized(checked.steps[0], source), source, build_models(checked, device), 0, device)


def logged(step: LiveStep, count: int) -> list[dict[str, float]]:
    """The metrics of the first batches."""
    found = []
    for index, batch in zip(range(count), step.batches(0, 0), strict=False):
        step.run(batch, Position(batch=index, step_batch=index, run_batch=index))
        found.append(dict(step.metrics.logged()))
    return found


@pytest.mark.parametrize("setting", [f"{STEP}.accumulate=1", f"{STEP}.accumulate=2", f"{STEP}.precision=fp16"])
@pytest.mark.parametrize("detach", ["[latent]", "[]"])
def test_in_training_the_gradient_of_the_balanced_loss_is_its_weight_times_that_of_the_others(
    prove: Prove, setting: str, detach: str
) -> None:
    """The gradient of each weighted loss at the layer, from a step whose other losses have a weight of zero."""
    detached = f"{VAE}.losses.hinge_generator.detach={detach}"
    still = f"{STEP}.updates.discriminator.optimizer.lr=1.0e-12"
    step = live(prove(VAE_GAN, BALANCER, setting, detached, still))
    weight = logged(step, 1)[0]["vae/hinge_generator/weight"]

    def norm(label: str, weight: float) -> float:
        others = [
            f"{VAE}.losses.{name}.weight={weight if name == label else 0.0}" for name in ("l1", "hinge_generator")
        ]
        alone = live(prove(VAE_GAN, *others, setting, detached, still, f"{STEP}.accumulate=9"))
        logged(alone, 1)
        update = alone.updates[1]
        gradient = update.parameters[LAYER].grad
        assert gradient is not None
        return float(gradient.norm()) * 6 / (update.optimizer.scaler.get_scale() if update.optimizer.scaler else 1)

    assert weight > 0
    assert norm("hinge_generator", weight) == pytest.approx(0.1 * norm("l1", 1.0), rel=0.05)


def test_no_gradient_flows_through_the_factor(prove: Prove) -> None:
    balanced = live(prove(VAE_GAN, BALANCER))
    weight = logged(balanced, 1)[0]["vae/hinge_generator/weight"]
    fixed = live(prove(VAE_GAN, f"{VAE}.losses.hinge_generator.weight={weight!r}"))

    logged(fixed, 1)

    for a, b in zip(balanced.models["expander"].parameters(), fixed.models["expander"].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_a_lazy_or_late_loss_is_balanced_on_its_batches(prove: Prove) -> None:
    late = [f"{VAE}.losses.hinge_generator={{weight: 0.1, every: 2, start: 1, detach: [latent]}}"]

    metrics = logged(live(prove(VAE_GAN, BALANCER, *late)), 4)

    assert ["vae/hinge_generator/weight" in each for each in metrics] == [False, False, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "layer: expander.oot.0.weight, balanced: [hinge_generator]",
            r"(?s)is not a parameter that the update trains.*nearest +expander.out.0.weight",
        ),
        (f"layer: {LAYER}, balanced: [hinge]", "names the loss `hinge`, but the update has no such loss"),
        (f"layer: {LAYER}, balanced: [l1], against: [l1]", "loss `l1` cannot be balanced against itself"),
        (f"layer: {LAYER}, balanced: []", "balanced"),
        (f"layer: {LAYER}", "needs `balanced`"),
    ],
)
def test_losses_that_cannot_be_balanced_are_reported_before_training(prove: Prove, options: str, message: str) -> None:
    with pytest.raises((RecipeError, FluxflowError), match=message):
        prove_shapes(prove(VAE_GAN, f"{VAE}.balancer={{type: gradient_norm, {options}}}"))
