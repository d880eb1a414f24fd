"""Paths: their coefficients, their times, and how latent, noise and prediction determine each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fluxflow_flow import values
from fluxflow_flow.paths import STEPS, DdpmPath, LinearPath, Path, RectifiedPath, betas
from fluxflow_flow.values import PathBuilder

from .flow_path import NAMES, OPTIONS, PATHS

every_path = pytest.mark.parametrize("path", PATHS, ids=NAMES)

SCHEDULES: list[Any] = ["linear", "scaled_linear", "cosine"]


def double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize(
    ("schedule", "first", "third", "last"),
    [
        ("linear", 1e-4, 0.0067333, 0.02),
        ("scaled_linear", 0.00085, 0.0031306, 0.012),
        ("cosine", 4.13e-5, 0.0018335, 0.999),
    ],
)
def test_a_schedule_has_the_variances_of_its_paper(schedule: Any, first: float, third: float, last: float) -> None:
    added = betas(schedule)

    assert len(added) == STEPS
    assert added[0] == pytest.approx(first, rel=2e-3)
    assert added[333] == pytest.approx(third, rel=1e-3)  # a third of the way from the first to the last
    assert added[-1] == pytest.approx(last)
    assert added == sorted(added)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_step_k_of_a_diffusion_is_at_time_k_over_1000(schedule: Any) -> None:
    path = DdpmPath("epsilon", schedule)
    products = torch.tensor([1 - beta for beta in betas(schedule)], dtype=torch.float64).cumprod(0)
    t = torch.arange(1, STEPS + 1, dtype=torch.float64) / STEPS

    torch.testing.assert_close(path.alpha(t), products.sqrt(), rtol=1e-8, atol=0)
    torch.testing.assert_close(path.sigma(t), (1 - products).sqrt(), rtol=1e-8, atol=0)
    assert float(path.alpha(double(0))) == 1
    assert float(path.sigma(double(0))) == 0


@pytest.mark.parametrize(("schedule", "left"), [("linear", 0.00635), ("scaled_linear", 0.0682), ("cosine", 4.9e-5)])
def test_the_last_step_of_a_schedule_still_contains_some_of_the_latent(schedule: Any, left: float) -> None:
    path = DdpmPath("epsilon", schedule)

    assert float(path.alpha(double(1.0))) == pytest.approx(left, rel=0.02)
    assert path.last_level == pytest.approx(float(path.level(double(1.0))), rel=1e-9)
    assert path.last_level < 1 == RectifiedPath("velocity").last_level


@every_path
def test_the_slopes_are_the_derivatives_of_alpha_and_sigma(path: Path) -> None:
    # Between two steps, where the derivative is defined.
    t, step = double(0.1234, 0.5006, 0.9314), 1e-6

    alpha, sigma = path.slopes(t)

    torch.testing.assert_close(alpha, (path.alpha(t + step) - path.alpha(t - step)) / (2 * step), rtol=1e-5, atol=0)
    torch.testing.assert_close(sigma, (path.sigma(t + step) - path.sigma(t - step)) / (2 * step), rtol=1e-5, atol=0)


@every_path
def test_the_log_snr_falls_and_the_level_of_the_noise_rises(path: Path) -> None:
    t = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)

    assert (path.log_snr(t).diff() < 0).all()
    assert (path.level(t).diff() > 0).all()
    assert torch.allclose(path.log_snr(t), 2 * (path.alpha(t) / path.sigma(t)).log())


@every_path
@settings(max_examples=30, deadline=None)
@given(t=st.floats(0.0, 1.0))
def test_time_of_is_the_inverse_of_level(path: Path, t: float) -> None:
    found = path.time_of(path.level(double(t)))

    assert float(found) == pytest.approx(t, abs=1e-6)


@every_path
def test_times_and_levels_are_accurate_in_single_precision(path: Path) -> None:
    t = torch.linspace(0.0, 1.0, 2001)

    assert (path.time_of(path.level(t)) - t).abs().max() < 2e-5
    assert (path.alpha(t).double() - path.alpha(t.double())).abs().max() < 1e-6
    assert (path.sigma(t).double() - path.sigma(t.double())).abs().max() < 1e-5


@every_path
@pytest.mark.parametrize("shape", [(3,), ()], ids=["a time for each sample", "one time"])
def test_latent_noise_and_velocity_are_recovered_from_the_prediction(path: Path, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x_0, noise = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    t = torch.rand(shape, dtype=torch.float64) * 0.98 + 0.01

    x_t = path.noisy(x_0, noise, t)
    target = path.target(x_0, noise, t)

    torch.testing.assert_close(path.latent(target, x_t, t), x_0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(path.noise(target, x_t, t), noise, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(path.linear_velocity(target, x_t, t), noise - x_0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(values.predicted_latent(target, x_t, t, path), x_0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        values.velocity(target, x_t, t, path), values.velocity_target(x_0, noise, t, path), rtol=1e-6, atol=1e-6
    )


@every_path
def test_the_velocity_is_the_derivative_of_the_noisy_latent(path: Path) -> None:
    x_0, noise = torch.randn(2, 1, 2, 3, 3, dtype=torch.float64)
    t, step = double(0.3004), 1e-6

    slope = (path.noisy(x_0, noise, t + step) - path.noisy(x_0, noise, t - step)) / (2 * step)

    torch.testing.assert_close(path.velocity(x_0, noise, t), slope, rtol=1e-4, atol=1e-5)


def test_the_targets_of_one_sample_agree_with_values_computed_by_hand() -> None:
    x_0, noise = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 5.0)
    t = torch.tensor([0.25])

    def target(**options: Any) -> float:
        return float(values.prediction_target(x_0, noise, t, PathBuilder(**options)()))

    beta = betas("scaled_linear")
    alpha = math.prod(math.sqrt(1 - each) for each in beta[:250])
    sigma = math.sqrt(1 - alpha**2)
    assert target() == pytest.approx(5 - 2)
    assert target(predicts="v") == pytest.approx(0.75 * 5 - 0.25 * 2)
    assert target(kind="ddpm", predicts="epsilon") == 5
    assert target(kind="ddpm", predicts="v") == pytest.approx(alpha * 5 - sigma * 2, rel=1e-5)


@every_path
def test_the_linear_path_is_the_same_path_up_to_scale_and_time(path: Path) -> None:
    linear = LinearPath(path)
    x_0, noise = torch.randn(2, 1, 2, 3, 3, dtype=torch.float64)
    u = double(0.37)
    t = path.time_of(u * path.last_level)

    y = linear.alpha(u) * x_0 + linear.sigma(u) * noise
    velocity = linear.velocity_field(lambda x, time: path.target(x_0, noise, time))(y, u)

    torch.testing.assert_close(y * (path.alpha(t) + path.sigma(t)), path.noisy(x_0, noise, t))
    torch.testing.assert_close(velocity, path.last_level * (noise - x_0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        linear.start(path.noisy(x_0, noise, double(1.0))[0])[None],
        linear.alpha(double(1.0)) * x_0 + linear.sigma(double(1.0)) * noise,
    )


@every_path
def test_the_velocity_field_is_finite_at_both_ends(path: Path) -> None:
    y = torch.randn(1, 2, 3, 3)
    field = LinearPath(path).velocity_field(lambda x, t: torch.ones_like(x))

    assert all(field(y, torch.tensor(u)).isfinite().all() for u in (0.0, 1e-6, 1.0))


@every_path
def test_a_path_is_equal_to_one_with_the_same_options_and_contains_no_tensor(path: Path) -> None:
    again = PathBuilder(**OPTIONS[PATHS.index(path)])()

    assert again == path
    assert "tensor" not in repr(path)
    assert "0x" not in repr(path)


@every_path
def test_paths_work_on_the_meta_device(path: Path) -> None:
    x, t = torch.empty(3, 2, 4, 4, device="meta"), torch.empty(3, device="meta")

    assert path.noisy(x, x, path.on_grid(t)).shape == x.shape
    assert path.latent(path.target(x, x, t), x, t).is_meta
    assert LinearPath(path).velocity_field(lambda x, t: x)(x, torch.empty((), device="meta")).is_meta


@pytest.mark.parametrize("distribution", ["uniform", "logit_normal"])
def test_a_diffusion_is_trained_at_its_steps_from_the_first_to_the_last(distribution: Any) -> None:
    path = DdpmPath("epsilon", "linear")
    latent = torch.zeros(50_000, 1, 1, 1)

    t = values.Time(distribution=distribution, std=3.0)(latent, path, torch.Generator().manual_seed(0))

    step = t * STEPS
    assert torch.allclose(step, step.round(), atol=1e-3)
    assert 1 <= round(float(step.min())) <= 5
    assert 995 <= round(float(step.max())) <= 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "cosine"}, "schedule is cosine: a rectified path has no schedule; set `kind: ddpm` as well"),
        (
            {"predicts": "epsilon"},
            "predicts is epsilon: sampling starts at t = 1, where a rectified path is only noise",
        ),
    ],
)
def test_options_that_contradict_each_other_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PathBuilder(**options)
