"""Reconstruction losses and the KL divergence: values computed by hand, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fluxflow_vae.losses import Frequency, Kl, Mse, Ssim, l1
from fluxflow_vae.networks import Posterior
from fluxflow_vae.similarity import ssim


def images(seed: int = 0, batch: int = 2, side: int = 16) -> Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


PAIRWISE: dict[str, Any] = {"l1": l1, "mse": Mse(), "frequency": Frequency(), "ssim": Ssim()}


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_reconstruction_loss_is_zero_for_the_image_itself_and_positive_otherwise(name: str) -> None:
    t, p = images(0), images(1)

    same, other = PAIRWISE[name](t, t), PAIRWISE[name](p, t)

    assert float(same) == pytest.approx(0, abs=1e-6)
    assert float(other) > 0.01
    assert other.ndim == 0


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_along_the_gradient_lowers_the_loss(name: str, dtype: torch.dtype) -> None:
    t, p = images(0).to(dtype), images(1).to(dtype).requires_grad_()

    loss = PAIRWISE[name](p, t)
    (gradient,) = torch.autograd.grad(loss, p)
    lower = PAIRWISE[name]((p - 20 * gradient).detach(), t)

    assert gradient.isfinite().all()
    assert float(lower) < float(loss.detach())


def test_l1_and_mse_are_means_over_all_elements() -> None:
    t = torch.zeros(2, 3, 4, 4)

    assert float(l1(t + 0.5, t)) == pytest.approx(0.5)
    assert float(Mse()(t + 0.5, t)) == pytest.approx(0.25)


def test_frequency_weights_low_and_high_frequencies_separately() -> None:
    flat = torch.full((1, 3, 8, 8), 0.5)
    checkers = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).expand(1, 3, 8, 8)
    low = torch.nn.functional.avg_pool2d(checkers, 3, 1, 1)
    zero = torch.zeros(1, 3, 8, 8)

    only_low, only_high = Frequency(low_weight=1, high_weight=0), Frequency(low_weight=0, high_weight=1)

    assert float(only_low(checkers, zero)) == pytest.approx(float(low.abs().mean()))
    assert float(only_high(checkers, zero)) == pytest.approx(float((checkers - low).abs().mean()))
    assert float(only_high(flat, zero)[...]) < float(only_low(flat, zero))
    both = Frequency(low_weight=2, high_weight=3)(checkers, zero)
    assert float(both) == pytest.approx(2 * float(only_low(checkers, zero)) + 3 * float(only_high(checkers, zero)))


def test_ssim_agrees_with_its_definition_computed_for_one_window() -> None:
    p, t = images(1, batch=1, side=11), images(2, batch=1, side=11)
    offset = torch.arange(11.0) - 5
    w = torch.exp(-(offset**2) / (2 * 1.5**2))
    weight = torch.outer(w, w) / torch.outer(w, w).sum()

    values = []
    for c in range(3):
        x, y = p[0, c].double(), t[0, c].double()
        mx, my = (weight * x).sum(), (weight * y).sum()
        vx, vy = (weight * (x - mx) ** 2).sum(), (weight * (y - my) ** 2).sum()
        cov = (weight * (x - mx) * (y - my)).sum()
        c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
        values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))

    assert float(ssim(p, t)) == pytest.approx(float(torch.stack(values).mean()), abs=1e-5)


def test_kl_is_the_divergence_of_torch_distributions() -> None:
    q = Posterior(torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3))
    normal = torch.distributions.Normal
    exact = torch.distributions.kl_divergence(normal(q.mean, (0.5 * q.logvar).exp()), normal(0.0, 1.0))

    assert float(Kl()(q)) == pytest.approx(float(exact.mean()), rel=1e-5)
    assert float(Kl(reduction="sum")(q)) == pytest.approx(float(exact.sum() / 4), rel=1e-5)
    for per in ("element", "channel", "dimension"):
        floored = Kl(reduction="sum", free_bits=1e-9, free_bits_per=per)(q)
        assert float(floored) == pytest.approx(float(exact.sum() / 4), rel=1e-5)


def test_below_the_free_bits_there_is_no_gradient() -> None:
    near = Posterior(torch.full((2, 2, 1, 1), 0.1).requires_grad_(), torch.zeros(2, 2, 1, 1))

    free = Kl(free_bits=0.5)(near)
    (gradient,) = torch.autograd.grad(free, near.mean)
    paid = Kl(free_bits=0.0)(near)

    assert float(free.detach()) == pytest.approx(0.5)
    assert not gradient.any()
    assert float(paid.detach()) == pytest.approx(0.005)


def test_free_bits_per_channel_apply_to_the_mean_of_a_channel() -> None:
    mean = torch.zeros(1, 1, 1, 2)
    mean[..., 0] = 2.0
    q = Posterior(mean.requires_grad_(), torch.zeros_like(mean))

    element = Kl(free_bits=0.5)(q)
    channel = Kl(free_bits=0.5, free_bits_per="channel")(q)

    assert float(element.detach()) == pytest.approx((2.0 + 0.5) / 2)
    assert float(channel.detach()) == pytest.approx((2.0 + 0.0) / 2)


def test_free_bits_are_the_minimum_of_the_mean_over_elements_that_share_them() -> None:
    mean = torch.zeros(2, 2, 1, 2)
    mean[0, 0, 0, 0] = 4.0  # 8 nats at one position of one channel of one sample, none elsewhere
    q = Posterior(mean, torch.zeros_like(mean))

    def kl(per: str, **options: Any) -> float:
        return float(Kl(free_bits=1.5, free_bits_per=per, **options)(q))  # type: ignore[arg-type]

    assert kl("element") == pytest.approx((8 + 7 * 1.5) / 8)
    assert kl("channel") == pytest.approx((2 + 1.5) / 2)  # 8 nats in 4 elements
    assert kl("dimension") == pytest.approx((4 + 3 * 1.5) / 4)  # 8 nats in 2 samples
    assert kl("dimension", reduction="sum") == pytest.approx(4 + 3 * 1.5)


@pytest.mark.parametrize(("per", "nats"), [("element", 0.5 * 6), ("channel", 0.5 * 6), ("dimension", 0.5 * 6)])
def test_free_bits_of_a_sum_are_counted_for_every_element(per: str, nats: float) -> None:
    q = Posterior(torch.zeros(4, 2, 1, 3), torch.zeros(4, 2, 1, 3))

    assert float(Kl(free_bits=0.5, free_bits_per=per, reduction="sum")(q)) == pytest.approx(nats)  # type: ignore[arg-type]
