"""The factors of the balancers `inverse` and `fixed`: positive, bounded, and the same after resuming."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fluxflow_balancers.balancers import Inverse, InverseWeigher, fixed
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.data.opening import open_sources
from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.plan.steps import RecipePlan

from ..small import VAE_GAN, sized


def after(weigher: InverseWeigher, count: int, **losses: float) -> dict[str, float]:
    """The factors after `count` batches with these losses."""
    batch: dict[str, Tensor] = {name: torch.tensor(value) for name, value in losses.items()}
    for _ in range(count):
        factors = weigher(batch)
    return dict(factors)


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=20),
)
@settings(max_examples=50)
def test_factors_are_positive_and_bounded_for_all_losses(rows: list[tuple[float, ...]]) -> None:
    weigher = Inverse(window=5, low=0.1, high=10.0)(["a", "b", "c"])

    for row in rows:
        factors = weigher({name: torch.tensor(value) for name, value in zip("abc", row, strict=True)})

    assert all(0.1 <= factor <= 10.0 for factor in factors.values())


def test_factors_bring_losses_to_a_common_scale_and_survive_a_checkpoint() -> None:
    weigher = Inverse(window=10)(["large", "small"])

    factors = after(weigher, 10, large=4.0, small=-1.0)
    resumed = Inverse(window=10)(["large", "small"])
    resumed.load_state_dict(weigher.state_dict())

    assert factors == pytest.approx({"large": 2.5 / 4, "small": 2.5})
    assert resumed.state_dict() == weigher.state_dict()
    assert after(resumed, 3, large=8.0, small=1.0) == after(weigher, 3, large=8.0, small=1.0)


def test_a_spared_loss_is_not_balanced_and_does_not_affect_others() -> None:
    weigher = Inverse(window=10, spare=["kl"])(["large", "kl", "small"])

    factors = after(weigher, 10, large=4.0, kl=1000.0, small=1.0)
    weigher.load_state_dict(weigher.state_dict())

    assert factors == pytest.approx({"large": 2.5 / 4, "small": 2.5, "kl": 1.0})
    assert after(weigher, 1, large=4.0, kl=7.0, small=1.0) == pytest.approx(factors)


def test_sparing_a_loss_that_does_not_exist_changes_nothing() -> None:
    weighers = [Inverse(spare=spare)(["l1", "lpips"]) for spare in (["kl"], [])]

    factors = [after(weigher, 2, l1=4.0, lpips=1.0) for weigher in weighers]

    assert factors[0] == factors[1] == pytest.approx({"l1": 2.5 / 4, "lpips": 2.5})


def test_a_negative_loss_keeps_its_sign() -> None:
    factors = after(Inverse()(["l1", "hinge_generator"]), 5, l1=0.5, hinge_generator=-2.0)

    assert factors["hinge_generator"] == pytest.approx(1.25 / 2)


@pytest.mark.parametrize("vanished", [0.0, 1e-30, -1e-12])
def test_a_vanishing_loss_has_the_largest_factor(vanished: float) -> None:
    factors = after(Inverse(high=4.0)(["l1", "kl"]), 5, l1=0.5, kl=vanished)

    assert factors["kl"] == 4.0


def test_losses_that_all_vanish_have_a_factor_of_one() -> None:
    assert after(Inverse()(["a", "b"]), 2, a=0.0, b=0.0) == {"a": 1.0, "b": 1.0}


def test_the_average_is_taken_over_the_window_only() -> None:
    weigher = Inverse(window=4)(["a", "b"])

    after(weigher, 50, a=100.0, b=1.0)
    factors = after(weigher, 4, a=1.0, b=1.0)

    assert factors == pytest.approx({"a": 1.0, "b": 1.0})


@pytest.mark.parametrize(("option", "loss", "expected"), [({"low": 0.5}, 1e6, 0.5), ({"high": 3.0}, 1e-6, 3.0)])
def test_factors_are_clamped_to_low_and_high(option: dict[str, float], loss: float, expected: float) -> None:
    losses = {"a": loss, "b": 1.0, "c": 1.0, "d": 1.0}

    assert after(Inverse(**option)(list(losses)), 2, **losses)["a"] == expected  # type: ignore[arg-type]


def test_a_high_below_low_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"high is 0\.5, less than low \(2\)"):
        Inverse(low=2.0, high=0.5)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_non_finite_loss_does_not_enter_the_averages(wrong: float) -> None:
    weigher = Inverse()(["a", "b"])
    after(weigher, 1, a=1.0, b=1.0)

    assert after(weigher, 1, a=wrong, b=1.0) == pytest.approx({"a": 1.0, "b": 1.0})
    assert after(Inverse()(["a", "b"]), 1, a=wrong, b=2.0) == pytest.approx({"a": 1.0, "b": 1.0})


def test_a_lazy_loss_keeps_its_average_between_its_batches() -> None:
    weigher: Any = Inverse()(["a", "lazy"])

    after(weigher, 1, a=1.0, lazy=3.0)
    between = after(weigher, 3, a=1.0)

    assert between == pytest.approx({"a": 2.0})


def test_fixed_has_factors_of_one() -> None:
    assert fixed(["a"])({}) == {"a": 1.0}


def live(checked: RecipePlan) -> LiveStep:
    (source,) = open_sources(checked).values()
    device = torch.device("cpu")
    return LiveStep(sized(checked.steps[0], source), source, build_models(checked, device), 0, device)


def test_the_factors_weight_the_total_loss_and_are_resumed_with_the_step(
    prove: Callable[..., RecipePlan],
) -> None:
    """The total of each batch is computed from the logged losses by the equation of the balancer."""
    recipe = prove(VAE_GAN, "steps.vae_gan.updates.vae.balancer={type: inverse, window: 2, low: 0.01, high: 3.0}")
    step = live(recipe)
    weights = {"l1": 1.0, "hinge_generator": 0.1}  # the weight of `kl` rises from 0
    seen: dict[str, list[float]] = {"l1": [], "kl": [], "hinge_generator": []}

    for index, batch in zip(range(3), step.batches(0, 0), strict=False):
        step.run(batch, Position(batch=index, step_batch=index, run_batch=index))
        logged = step.metrics.fetch()
        for name, values in seen.items():
            values.append(logged[f"vae/{name}"])
        averages = {name: abs(sum(values[-2:]) / len(values[-2:])) for name, values in seen.items()}
        mean = sum(averages.values()) / 3
        factors = {name: min(max(mean / average, 0.01), 3.0) for name, average in averages.items()}
        rising = 1e-3 * (1 - math.cos(math.pi * index / 5)) / 2
        expected = sum({**weights, "kl": rising}[name] * factors[name] * values[-1] for name, values in seen.items())
        assert logged["vae_loss"] == pytest.approx(expected, rel=1e-4)

    resumed = live(recipe)
    resumed.load(step.state())
    weigher = resumed.updates[1].weights.weigher
    assert weigher is not None
    assert weigher.state_dict() == {name: pytest.approx(v[-2:]) for name, v in seen.items()}
