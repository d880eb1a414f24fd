"""Losses of statistics, spectra and scales: values computed by hand, invariances, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fluxflow_vae.losses import ColorStatistics, Contrast, Histogram, Multiscale, Spectral, Ssim, l1


def images(seed: int = 0, batch: int = 2, side: int = 16) -> Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def shuffled(x: Tensor, seed: int = 3) -> Tensor:
    """The same values at other positions, permuted identically in all channels and samples."""
    order = torch.randperm(x[0, 0].numel(), generator=torch.Generator().manual_seed(seed))
    return x.flatten(2)[..., order].view_as(x)


LOSSES: dict[str, Any] = {
    "color_statistics": ColorStatistics(),
    "histogram": Histogram(),
    "contrast": Contrast(),
    "multiscale": Multiscale(),
    "spectral": Spectral(),
}
EACH = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@EACH
def test_it_is_zero_for_the_image_itself_and_positive_for_another(loss: Any) -> None:
    t, p = images(0), 0.5 * images(1)

    same, other = loss(t, t), loss(p, t)

    assert float(same) == pytest.approx(0, abs=1e-6)
    assert float(other) > 0.01
    assert other.ndim == 0


@EACH
def test_its_gradient_agrees_with_finite_differences(loss: Any) -> None:
    t, p = images(0, 2, 8).double(), images(1, 2, 8).double().requires_grad_()

    assert torch.autograd.gradcheck(lambda x: loss(x, t), p, eps=1e-7, atol=1e-4)


@EACH
def test_a_step_along_its_gradient_improves_every_sample(loss: Any) -> None:
    t, p = images(0), (0.5 * images(1) + 0.2).requires_grad_()

    (gradient,) = torch.autograd.grad(loss(p, t), p)
    improved = (p - 1e-2 * gradient / gradient.abs().max()).detach()

    assert (gradient.flatten(2).abs().sum(dim=2) > 0).all()
    for sample in range(len(t)):
        here = slice(sample, sample + 1)
        assert float(loss(improved[here], t[here])) < float(loss(p[here], t[here]).detach())


FLAT = torch.full((2, 3, 16, 16), 0.25)


@EACH
@pytest.mark.parametrize(
    ("p", "t"),
    [
        (images(0), images(0)),
        (FLAT, FLAT),
        (FLAT, images(0)),
        (images(0), FLAT),
        (FLAT + 1e-7 * images(0), FLAT),
        (images(0).bfloat16().float(), images(1).bfloat16().float()),
    ],
    ids=["the image itself", "both flat", "flat", "flat target", "nearly flat", "rounded"],
)
def test_its_gradient_is_finite_where_a_root_or_a_quotient_is_critical(loss: Any, p: Tensor, t: Tensor) -> None:
    p = p.clone().requires_grad_()

    value = loss(p, t)
    (gradient,) = torch.autograd.grad(value, p)

    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["color_statistics", "histogram", "contrast"])
def test_a_statistic_does_not_depend_on_the_positions_of_pixels(name: str) -> None:
    t, p = images(0), images(1) * 0.7

    alike, apart = LOSSES[name](shuffled(p), shuffled(t)), LOSSES[name](shuffled(p, 4), t)

    assert float(alike) == pytest.approx(float(LOSSES[name](p, t)), rel=1e-4)
    assert float(apart) == pytest.approx(float(LOSSES[name](p, t)), rel=1e-4)


@pytest.mark.parametrize("name", ["color_statistics", "histogram", "contrast"])
def test_a_statistic_is_computed_per_sample_and_channel(name: str) -> None:
    t = torch.stack([0.1 * images(0)[0], 0.9 * images(0)[0]])  # two samples that differ in everything
    channels = torch.stack([0.1 * images(0)[0, 0], 0.9 * images(0)[0, 0], images(0)[0, 0] - 1])[None]

    assert float(LOSSES[name](t.flip(0), t)) > 0.05
    assert float(LOSSES[name](channels.flip(1), channels)) > 0.05


def test_color_statistics_is_the_squared_difference_of_mean_and_population_std() -> None:
    t = torch.tensor([-0.5, 0.5]).repeat(8).view(1, 1, 4, 4).expand(1, 3, 4, 4)  # mean 0, std 0.5
    scale, shift = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([0.0, 0.0, 0.3])
    p = t * scale.view(1, 3, 1, 1) + shift.view(1, 3, 1, 1)

    assert float(ColorStatistics()(p, t)) == pytest.approx((0 + 0.5**2 + 0.3**2) / 3)


def test_histogram_is_the_mean_distance_between_values_of_equal_rank() -> None:
    t = torch.tensor([0.0, 0.0, 1.0, 1.0]).view(1, 1, 2, 2)
    p = torch.tensor([0.4, 1.0, 0.2, 1.0]).view(1, 1, 2, 2)

    assert float(Histogram()(p, t)) == pytest.approx((0.2 + 0.4) / 4)


@given(st.integers(0, 999))
def test_histogram_is_the_area_between_the_distribution_functions(seed: int) -> None:
    t, p = images(seed, 1, 4), images(seed + 1, 1, 4)

    areas = []
    for c in range(3):
        a, b = p[0, c].flatten().double().numpy(), t[0, c].flatten().double().numpy()
        ends = np.sort(np.concatenate([a, b]))
        below = [np.searchsorted(np.sort(x), ends[:-1], side="right") / x.size for x in (a, b)]
        areas.append(float((np.abs(below[0] - below[1]) * np.diff(ends)).sum()))

    assert float(Histogram()(p, t)) == pytest.approx(sum(areas) / 3, rel=1e-4)


def test_contrast_is_the_ratio_of_channels_and_the_difference_of_samples() -> None:
    t = torch.tensor([-0.5, 0.5]).repeat(8).view(1, 1, 4, 4).expand(1, 3, 4, 4)  # std 0.5, of the sample too

    doubled = Contrast(eps=1e-6)(2 * t, t)
    wider = Contrast(eps=0.5)(2 * t, t)

    assert float(doubled) == pytest.approx(1.0**2 + 0.5**2, rel=1e-4)
    assert float(wider) == pytest.approx((1.5 / 1.0 - 1) ** 2 + 0.5**2)
    assert float(Contrast()(t + 0.3, t)) == pytest.approx(0, abs=1e-8)


def test_contrast_compares_each_sample_with_its_own_target() -> None:
    t = torch.stack([0.1 * images(0)[0], 0.9 * images(0)[0]])
    deviations = t.flatten(1).std(dim=1, correction=0)

    found = Contrast(eps=1e6)(t.flip(0), t)  # the term of the channels vanishes

    assert float(found) == pytest.approx(float((deviations[0] - deviations[1]) ** 2), rel=1e-4)


def test_contrast_is_bounded_for_a_flat_target_and_zero_for_a_flat_reconstruction_of_it() -> None:
    noise = 0.01 * images(1)

    assert float(Contrast()(FLAT, FLAT)) == 0
    assert float(Contrast()(FLAT + noise, FLAT)) < 1


def test_spectral_spreads_a_point_evenly_over_all_frequencies() -> None:
    zero = torch.zeros(1, 1, 8, 8)
    point = zero.clone()
    point[..., 3, 5] = 0.5

    # Parseval: 64 frequencies of magnitude 0.5 / 8 hold the energy of the point.
    assert float(Spectral()(point, zero)) == pytest.approx(0.5 / 8)
    assert 64 * float(Spectral()(point, zero)) ** 2 == pytest.approx(float(point.square().sum()))


def test_spectral_finds_a_constant_and_a_wave_at_their_own_frequencies() -> None:
    zero = torch.zeros(1, 1, 8, 8)
    wave = torch.cos(2 * torch.pi * torch.arange(8) / 4).expand(1, 1, 8, 8)

    # The half plane has 8 x 5 frequencies; a constant c has c * 8 at one of them, a wave half of that.
    assert float(Spectral()(zero + 0.5, zero)) == pytest.approx(0.5 * 8 / 40)
    assert float(Spectral()(wave, zero)) == pytest.approx(4 / 40, rel=1e-5)


def test_spectral_compares_complex_values_so_that_phase_counts() -> None:
    t, p = images(0), images(1)
    spectra = [np.fft.rfft2(x.double().numpy(), norm="ortho") for x in (p, t)]

    assert float(Spectral()(p, t)) == pytest.approx(float(np.abs(spectra[0] - spectra[1]).mean()), rel=1e-5)
    assert float(Spectral()(t.roll(1, dims=3), t)) > 0.1  # the same magnitudes


def test_multiscale_is_the_mixture_of_l1_and_ssim_averaged_over_halved_images() -> None:
    t, p = images(0, side=32), images(1, side=32)

    def halved(x: Tensor, times: int) -> Tensor:
        for _ in range(times):
            x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
        return x

    scales = [(halved(p, times), halved(t, times)) for times in range(3)]
    absolute = sum(float(l1(a, b)) for a, b in scales) / 3
    structure = sum(float(Ssim()(a, b)) for a, b in scales) / 3

    assert float(Multiscale(mix=0)(p, t)) == pytest.approx(absolute, rel=1e-5)
    assert float(Multiscale(mix=1)(p, t)) == pytest.approx(structure, rel=1e-5)
    assert float(Multiscale(mix=0.25)(p, t)) == pytest.approx(0.75 * absolute + 0.25 * structure, rel=1e-5)
    assert float(Multiscale(scales=1, mix=0)(p, t)) == pytest.approx(float(l1(p, t)))


@pytest.mark.parametrize("side", [1, 7, 16])
def test_multiscale_rejects_more_scales_than_the_image_has(side: int) -> None:
    t, p = images(0, side=side), images(1, side=side)
    most = side.bit_length()

    assert Multiscale(scales=most)(p, t).isfinite()
    with pytest.raises(
        ValueError, match=f"`scales` is {most + 1}, but images of {side} x {side} pixels have at most {most}"
    ):
        Multiscale(scales=most + 1)(p, t)


@pytest.mark.parametrize(
    ("option", "loss"),
    [
        ("scales", lambda: Multiscale(scales=0)),
        ("mix", lambda: Multiscale(mix=1.5)),
        ("window is 4: it must be odd and at least 3", lambda: Ssim(window=4)),
        ("window is 1: it must be odd and at least 3", lambda: Ssim(window=1)),
    ],
)
def test_an_option_out_of_bounds_is_rejected(option: str, loss: Any) -> None:
    with pytest.raises(ValueError, match=option):
        loss()


def test_the_losses_have_their_default_weights() -> None:
    weights = {name: getattr(loss, "default_weight", None) for name, loss in LOSSES.items()}

    assert weights == {
        "color_statistics": 0.05,
        "histogram": 0.02,
        "contrast": 0.1,
        "multiscale": None,
        "spectral": 0.1,
    }
