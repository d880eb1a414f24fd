"""Samplers: each has its order, and all lead to the same samples for every kind of prediction."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxflow_flow.paths import DdpmPath, LinearPath, Path, RectifiedPath
from fluxflow_flow.samplers import Ddim, DpmPp2m, Euler, Heun
from fluxflow_registry.registry.discovery import from_modules

from ..small import PLUGINS
from .flow_path import NAMES, PATHS, Gaussian

RECTIFIED = LinearPath(RectifiedPath("velocity"))

#: Each sampler, with the options under which it has its order.
SOLVERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "euler": (Euler, {}),
    "heun": (Heun, {}),
    "ddim": (Ddim, {}),
    "dpmpp_2m": (DpmPp2m, {"spacing": "log_snr"}),
}

every_solver = pytest.mark.parametrize("name", SOLVERS)


class DoubleTimes(LinearPath):
    """A linear path whose times are double, so that rounding does not mask the order."""

    def times(self, steps: int, device: torch.device) -> Tensor:
        t = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
        return self.path.level(t) / self.path.last_level


def solve(name: str, steps: int, velocity: Any, noise: Tensor, path: LinearPath = RECTIFIED, **options: Any) -> Tensor:
    """The sample of a solver, called with the arguments that it declares."""
    kind, defaults = SOLVERS[name]
    solver = kind(steps=steps, **{**defaults, **options})
    arguments = {"path": path} if name in ("ddim", "dpmpp_2m") else {}
    sample: Tensor = solver(velocity=velocity, noise=noise, **arguments)
    return sample


def test_the_order_of_every_sampler_of_the_plugin_is_tested() -> None:
    import fluxflow_flow

    assert set(from_modules({"flow": fluxflow_flow}).names("sampler")) == set(SOLVERS)
    assert "flow" in PLUGINS


@every_solver
def test_the_error_falls_with_the_power_of_the_order(name: str) -> None:
    """For latents N(mean, std^2) x_1 leads to mean + std (x_1 - alpha mean) / sqrt(alpha^2 std^2 + sigma^2)."""
    data, path = Gaussian(mean=0.5, std=0.6), RectifiedPath("velocity")
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)
    field = LinearPath(path).velocity_field(lambda x, t: data.prediction(path, x, t.double()))

    def error(steps: int) -> float:
        found = solve(name, steps, field, noise, DoubleTimes(path))
        return float((found - data.sample(path, noise)).square().mean().sqrt())

    measured = math.log2(error(64) / error(128))

    assert measured == pytest.approx(SOLVERS[name][0].order, abs=0.15)


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_a_solver_has_its_order_for_other_velocity_fields_too(name: str) -> None:
    """dx/dt = x cos t from t = 1 to 0 has the solution x_1 exp(-sin 1)."""
    x_1 = torch.ones(1, dtype=torch.float64)

    def error(steps: int) -> float:
        return abs(float(solve(name, steps, lambda x, t: x * t.double().cos(), x_1)) - math.exp(-math.sin(1.0)))

    measured = math.log2(error(32) / error(64))

    assert measured == pytest.approx(SOLVERS[name][0].order, abs=0.1)


@every_solver
def test_a_constant_velocity_is_integrated_exactly_in_any_number_of_steps(name: str) -> None:
    noise, x_0 = torch.randn(2, 2, 3)

    for steps in (1, 2, 5):
        torch.testing.assert_close(solve(name, steps, lambda *_: noise - x_0, noise), x_0, rtol=1e-5, atol=1e-5)


@every_solver
@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_every_kind_of_prediction_on_every_path_leads_to_the_same_samples(name: str, path: Path) -> None:
    data, linear = Gaussian(), LinearPath(path)
    x_1 = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)
    field = linear.velocity_field(lambda x, t: data.prediction(path, x, t))

    # At exactly t = 0 the noise that a perfect network predicts is 0 / 0.
    found = solve(name, 100, lambda y, u: field(y, u.double().clamp(min=1e-9)), linear.start(x_1), linear)

    assert (found - data.sample(path, x_1)).abs().max() < {1: 0.05, 2: 0.01}[SOLVERS[name][0].order]


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_sampling_starts_at_unit_noise_and_at_the_last_trained_time(path: Path) -> None:
    seen: list[tuple[Tensor, float]] = []
    linear, x_1 = LinearPath(path), torch.randn(1, 2, 4, 4)

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x, float(t)))
        return torch.zeros_like(x)

    solve("euler", 3, linear.velocity_field(network), linear.start(x_1))

    first, time = seen[0]
    torch.testing.assert_close(first, x_1)
    assert time == pytest.approx(1.0, abs=1e-5)


def test_the_steps_of_ddim_are_evenly_spaced_in_the_time_of_the_diffusion() -> None:
    path = DdpmPath("epsilon", "scaled_linear")
    linear, seen = LinearPath(path), []

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t))
        return torch.zeros_like(x)

    solve("ddim", 5, linear.velocity_field(network), linear.start(torch.randn(1, 1, 2, 2)), linear)

    assert seen == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2], abs=1e-5)


def test_ddim_agrees_with_its_equation_in_the_coordinates_of_the_diffusion() -> None:
    path = DdpmPath("epsilon", "scaled_linear")
    linear, x = LinearPath(path), torch.randn(1, 1, 2, 2, dtype=torch.float64)
    found = solve("ddim", 4, linear.velocity_field(lambda x, t: x.sin()), linear.start(x), DoubleTimes(path))

    for k in (1000, 750, 500, 250):
        now, then = torch.tensor(k / 1000, dtype=torch.float64), torch.tensor((k - 250) / 1000, dtype=torch.float64)
        eps = x.sin()
        x_0 = (x - path.sigma(now) * eps) / path.alpha(now)
        x = path.alpha(then) * x_0 + path.sigma(then) * eps

    torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spacing", ["noise", "time", "log_snr"])
def test_the_steps_of_dpmpp_2m_are_evenly_spaced_in_what_spacing_names(spacing: str) -> None:
    path = DdpmPath("epsilon", "scaled_linear")
    linear, seen = LinearPath(path), []

    def velocity(y: Tensor, u: Tensor) -> Tensor:
        seen.append(float(u))
        return torch.zeros_like(y)

    solve("dpmpp_2m", 6, velocity, torch.zeros(1), linear, spacing=spacing)

    u = torch.tensor(seen, dtype=torch.float64)
    spacings = {
        "noise": u,
        "time": path.time_of(u * path.last_level),
        "log_snr": (linear.alpha(u) / linear.sigma(u)).log(),
    }
    assert len(seen) == 6
    assert seen[0] == 1
    for each, values in spacings.items():
        even = torch.allclose(values.diff(), values.diff().mean().expand(5), rtol=1e-3)
        assert even == (each == spacing)


def test_dpmpp_2m_agrees_with_its_equations_written_out() -> None:
    def x_0_of(x: float, t: float) -> float:
        return math.sin(x) + t

    def log_ratio(t: float) -> float:
        return math.log((1 - t) / t)

    x, estimates = 2.0, []
    for i, (t, then) in enumerate([(1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)]):
        estimates.append(x_0_of(x, t))
        extrapolated = estimates[i]
        if i == 2:  # the log-SNR is infinite at the outer ends of the first and the last step
            h, before = log_ratio(0.25) - log_ratio(0.5), log_ratio(0.5) - log_ratio(0.75)
            extrapolated += h / (2 * before) * (estimates[2] - estimates[1])
        x = then / t * x + ((1 - then) - (1 - t) * then / t) * extrapolated

    found = solve(
        "dpmpp_2m",
        4,
        lambda x, t: (x - (x.sin() + t.double())) / t.double(),
        torch.tensor([2.0], dtype=torch.float64),
        spacing="noise",
    )

    assert float(found) == pytest.approx(x, abs=1e-6)
