"""Maximum mean discrepancy: zero on average for the prior, growing with distance, with bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fluxflow_vae.losses import Mmd


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents(seed: int = 1, batch: int = 4, channels: int = 2, side: int = 8) -> Tensor:
    return torch.randn(batch, channels, side, side, generator=seeded(seed))


def mean_over_seeds(loss: Mmd, z: Tensor, count: int = 40) -> float:
    return float(torch.stack([loss(z, seeded(seed)) for seed in range(count)]).mean())


def test_it_agrees_with_the_unbiased_estimate_computed_pair_by_pair() -> None:
    z = latents(batch=2, side=2)
    prior = torch.randn(8, 2, generator=seeded())
    x = [z[b, :, i, j].double().numpy() for b in range(2) for i in range(2) for j in range(2)]
    y = list(prior.double().numpy())

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-((a - b) ** 2).sum() / (2 * 1.5**2)))

    among = [np.mean([k(s[i], s[j]) for i in range(8) for j in range(8) if i != j]) for s in (x, y)]
    between = np.mean([k(a, b) for a in x for b in y])

    assert float(Mmd(sigma=1.5)(z, seeded())) == pytest.approx(float(among[0] + among[1] - 2 * between), abs=1e-6)


def test_its_mean_is_zero_for_latents_of_the_prior() -> None:
    found = [float(Mmd()(latents(seed), seeded(1000 + seed))) for seed in range(200)]

    mean, error = np.mean(found), np.std(found) / len(found) ** 0.5
    assert abs(mean) < 4 * error
    assert min(found) < 0 < max(found)
    assert error < 1e-3


def test_it_grows_with_a_shift_and_with_a_change_of_scale() -> None:
    z = latents(batch=8)

    shifted = [mean_over_seeds(Mmd(), z + shift) for shift in (0.0, 0.5, 1.0, 2.0)]
    scaled = [mean_over_seeds(Mmd(), z * scale) for scale in (1.0, 0.5, 0.1)]

    assert shifted == sorted(shifted)
    assert scaled == sorted(scaled)
    assert abs(shifted[0]) < 0.01
    assert shifted[2] > 0.1


def test_it_agrees_with_the_closed_form_for_two_gaussians() -> None:
    # E k for a - b ~ N(d, v) in each of two dimensions, sigma 1: (1 + v)^-1 exp(-|d|^2 / (2 (1 + v))).
    z = latents(batch=64, side=8) + 1.0
    exact = 1 / 3 + 1 / 3 - 2 / 3 * np.exp(-2 / 6)

    assert mean_over_seeds(Mmd(), z) == pytest.approx(float(exact), abs=0.02)


def test_a_step_along_its_gradient_moves_latents_towards_the_prior() -> None:
    z = (latents() + 1.0).requires_grad_()

    (gradient,) = torch.autograd.grad(Mmd()(z, seeded()), z)

    assert gradient.isfinite().all()
    assert float(gradient.mean()) > 0
    assert float(Mmd()(z.detach() - 50 * gradient, seeded())) < float(Mmd()(z, seeded()).detach())


def test_its_gradient_agrees_with_finite_differences() -> None:
    z = latents(batch=2, side=2).double().requires_grad_()

    assert torch.autograd.gradcheck(lambda x: Mmd()(x, seeded()), z)


@pytest.mark.parametrize("z", [torch.zeros(2, 2, 4, 4), 1e4 * torch.ones(2, 2, 4, 4)], ids=["equal", "far"])
def test_its_gradient_is_finite_for_latents_that_coincide(z: Tensor) -> None:
    z.requires_grad_()

    (gradient,) = torch.autograd.grad(Mmd()(z, seeded()), z)

    assert gradient.isfinite().all()


def test_it_samples_positions_of_a_large_batch_with_the_generator() -> None:
    z = latents(batch=4, side=16).requires_grad_()

    seen = []
    for seed in range(3):
        (gradient,) = torch.autograd.grad(Mmd(points=100)(z, seeded(seed)), z)
        seen.append(gradient.abs().sum(dim=1) > 0)

    assert [int(positions.sum()) for positions in seen] == [100, 100, 100]
    assert not torch.equal(seen[0], seen[1])
    assert all(positions.any(dim=(1, 2)).all() for positions in seen)


def test_it_is_deterministic_for_a_seeded_generator() -> None:
    assert torch.equal(Mmd()(latents(), seeded(7)), Mmd()(latents(), seeded(7)))
    assert not torch.equal(Mmd()(latents(), seeded(7)), Mmd()(latents(), seeded(8)))


def test_a_batch_with_only_one_position_is_rejected() -> None:
    with pytest.raises(ValueError, match="compares pairs of latent positions, but the batch has only one position"):
        Mmd()(torch.zeros(1, 2, 1, 1), seeded())


@pytest.mark.parametrize(("option", "value"), [("sigma", 0.0), ("points", 1), ("points", 5000)])
def test_an_option_out_of_bounds_is_rejected(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        Mmd(**{option: value})  # type: ignore[arg-type]
