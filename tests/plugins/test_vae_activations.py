"""Bezier activations: points computed by hand, end points, and an initialization that preserves variance."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxflow_vae.activations import (
    Bezier,
    ChannelBezier,
    build_activation,
    build_same_width_activation,
    expansion,
    initialize_for,
)

POINTS = st.floats(-10, 10, width=32)


def stacked(*channels: float) -> Tensor:
    """One position [1, 5, 1, 1]: t, p0, p1, p2, p3."""
    return torch.tensor(channels).view(1, -1, 1, 1)


def test_a_bezier_is_the_cubic_curve_at_the_sigmoid_of_t() -> None:
    half = Bezier()(stacked(0.0, 1.0, 2.0, 4.0, 8.0))
    quarter = Bezier()(stacked(-torch.tensor(3.0).log().item(), 1.0, 2.0, 4.0, 8.0))  # sigmoid(-log 3) = 1/4

    assert float(half) == pytest.approx((1 + 3 * 2 + 3 * 4 + 8) / 8)
    assert float(quarter) == pytest.approx((27 * 1 + 27 * 2 + 9 * 4 + 1 * 8) / 64)


def test_the_channels_of_t_precede_those_of_each_control_point() -> None:
    x = torch.arange(10.0).view(1, 10, 1, 1)  # two channels of t: 0, 1; of p0: 2, 3; ...

    y = Bezier()(x)

    assert y.shape == (1, 2, 1, 1)
    assert float(y[0, 0]) == pytest.approx((2 + 3 * 4 + 3 * 6 + 8) / 8)
    s = torch.sigmoid(torch.tensor(1.0))
    expected = (1 - s) ** 3 * 3 + 3 * (1 - s) ** 2 * s * 5 + 3 * (1 - s) * s**2 * 7 + s**3 * 9
    assert float(y[0, 1]) == pytest.approx(float(expected))


@given(st.lists(POINTS, min_size=4, max_size=4), st.floats(-30, 30, width=32))
def test_a_bezier_starts_at_p0_ends_at_p3_and_stays_between_its_control_points(points: list[float], t: float) -> None:
    first, last, between = (Bezier()(stacked(at, *points)) for at in (-200.0, 200.0, t))

    assert float(first) == points[0]
    assert float(last) == points[3]
    assert min(points) - 1e-4 <= float(between) <= max(points) + 1e-4


def test_the_gradient_of_a_bezier_reaches_t_and_all_four_control_points() -> None:
    x = torch.randn(2, 5, 3, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0)).requires_grad_()

    (gradient,) = torch.autograd.grad(Bezier()(x).sum(), x)

    assert torch.autograd.gradcheck(Bezier(), x)
    assert (gradient.abs() > 1e-6).all()


@given(st.lists(POINTS, min_size=4, max_size=4), st.floats(-20, 20, width=32))
def test_a_channel_bezier_is_the_same_curve_with_control_points_per_channel(points: list[float], x: float) -> None:
    layer = ChannelBezier(2)
    with torch.no_grad():
        layer.points[:, 1] = torch.tensor(points).view(4, 1, 1)

        y = layer(torch.full((1, 2, 1, 1), x))

    assert float(y[0, 0]) == pytest.approx(2 * torch.tensor(x / 2).tanh().item(), abs=1e-5)  # as initialized
    assert float(y[0, 1]) == pytest.approx(float(Bezier()(stacked(x, *points))), abs=1e-3)


def test_a_channel_bezier_starts_and_ends_at_its_outer_control_points() -> None:
    layer = ChannelBezier(1)
    with torch.no_grad():
        layer.points.copy_(torch.tensor([0.5, -1.0, 3.0, -2.0]).view(4, 1, 1, 1))

    y = layer(torch.tensor([-200.0, 200.0]).view(2, 1, 1, 1))

    assert y.flatten().tolist() == pytest.approx([0.5, -2.0])


def test_the_gradient_of_a_channel_bezier_reaches_its_control_points_and_its_input() -> None:
    layer = ChannelBezier(3).double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0)).requires_grad_()

    layer(x).square().sum().backward()

    assert layer.points.grad is not None
    assert (layer.points.grad.abs() > 0).all()
    assert x.grad is not None
    assert (x.grad.abs() > 0).all()
    assert torch.autograd.gradcheck(layer, x)


def test_the_initialization_in_front_of_a_bezier_preserves_signals_and_gradients() -> None:
    torch.manual_seed(0)
    stack = nn.Sequential(*(build_same_width_activation("bezier", 32) for _ in range(6)))
    x = torch.randn(4, 32, 8, 8).requires_grad_()

    y = stack(x)
    (gradient,) = torch.autograd.grad(y, x, torch.randn_like(y))

    assert 0.5 < float(y.detach().std()) < 2  # after six layers
    assert 0.3 < float(gradient.std()) < 3


def test_the_initialization_of_a_transposed_convolution_counts_the_weights_of_one_output() -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(32, 160, 4, stride=2, padding=1)

    y = Bezier()(initialize_for(layer, "bezier", 4 * 32)(torch.randn(2, 32, 16, 16))).detach()

    assert float(y[..., 2:-2, 2:-2].std()) == pytest.approx(1, abs=0.25)


def test_other_activations_keep_the_initialization_of_torch() -> None:
    layer = nn.Conv2d(3, 3, 3)
    before = layer.weight.detach().clone()

    assert initialize_for(layer, "silu") is layer
    assert torch.equal(layer.weight, before)
    assert [expansion(name) for name in ("silu", "relu", "leaky_relu", "bezier", "bezier_channel")] == [1, 1, 1, 5, 1]


def test_gelu_is_x_times_the_normal_distribution_function() -> None:
    x = torch.tensor([-2.0, 0.0, 0.5, 3.0])

    y = build_activation("gelu", width=1)(x)

    torch.testing.assert_close(y, x * (1 + torch.erf(x / 2**0.5)) / 2)
