"""The adversarial losses: values computed by hand, symmetries, the option `patches`, finite in bf16."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxflow_gan.losses import (
    R1,
    HingeDiscriminator,
    HingeGenerator,
    LeastSquaresDiscriminator,
    LeastSquaresGenerator,
    NonsaturatingDiscriminator,
    NonsaturatingGenerator,
    ProjectedR1,
)

DISCRIMINATORS: dict[str, Any] = {
    "hinge": HingeDiscriminator,
    "nonsaturating": NonsaturatingDiscriminator,
    "least_squares": LeastSquaresDiscriminator,
}
GENERATORS: dict[str, Any] = {
    "hinge": HingeGenerator,
    "nonsaturating": NonsaturatingGenerator,
    "least_squares": LeastSquaresGenerator,
}


def logits(*images: list[float]) -> Tensor:
    """The logits of a batch of images, one list of patches per image: [B, 1, 1, w]."""
    return torch.tensor(images)[:, None, None, :]


REAL, FAKE = logits([3.0, -1.0], [0.5, 0.5]), logits([-3.0, 1.0], [0.0, -0.5])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


#: For each game the discriminator's loss with the mean over patches taken after, and before.
BY_HAND = {
    "hinge": (
        0.5 * ((0 + 2 + 0.5 + 0.5) / 4 + (0 + 2 + 1 + 0.5) / 4),
        0.5 * ((0 + 0.5) / 2 + (0 + 0.75) / 2),  # means 1 and 0.5; -1 and -0.25
    ),
    "nonsaturating": (
        sum(map(softplus, (-3, 1, -0.5, -0.5))) / 4 + sum(map(softplus, (-3, 1, 0, -0.5))) / 4,
        sum(map(softplus, (-1, -0.5))) / 2 + sum(map(softplus, (-1, -0.25))) / 2,
    ),
    "least_squares": (
        0.5 * ((4 + 4 + 0.25 + 0.25) / 4 + (9 + 1 + 0 + 0.25) / 4),
        0.5 * ((0 + 0.25) / 2 + (1 + 0.0625) / 2),
    ),
}


@pytest.mark.parametrize("game", DISCRIMINATORS)
def test_the_option_patches_selects_whether_patches_are_averaged_after_or_before(game: str) -> None:
    each, mean = BY_HAND[game]

    assert float(DISCRIMINATORS[game]()(REAL, FAKE)) == pytest.approx(each)
    assert float(DISCRIMINATORS[game](patches="each")(REAL, FAKE)) == pytest.approx(each)
    assert float(DISCRIMINATORS[game](patches="mean")(REAL, FAKE)) == pytest.approx(mean)


def test_the_losses_of_the_generator_agree_with_values_computed_by_hand() -> None:
    assert float(HingeGenerator()(FAKE)) == pytest.approx(2.5 / 4)
    assert float(NonsaturatingGenerator()(FAKE)) == pytest.approx(sum(map(softplus, (3, -1, 0, 0.5))) / 4)
    assert float(NonsaturatingGenerator(patches="mean")(FAKE)) == pytest.approx((softplus(1) + softplus(0.25)) / 2)
    assert float(LeastSquaresGenerator()(FAKE)) == pytest.approx(0.5 * (16 + 0 + 1 + 2.25) / 4)
    assert float(LeastSquaresGenerator(patches="mean")(FAKE)) == pytest.approx(0.5 * (4 + 1.5625) / 2)


@pytest.mark.parametrize("patches", ["each", "mean"])
@given(values=st.lists(st.floats(-20, 20), min_size=8, max_size=8))
@settings(max_examples=25, deadline=None)
def test_a_loss_is_symmetric_when_real_and_fake_are_exchanged_and_mirrored(patches: str, values: list[float]) -> None:
    real, fake = torch.tensor(values).reshape(2, 2, 1, 1, 2)

    for game, middle in (("hinge", 0.0), ("nonsaturating", 0.0), ("least_squares", 0.5)):
        loss = DISCRIMINATORS[game](patches=patches)
        torch.testing.assert_close(loss(real, fake), loss(2 * middle - fake, 2 * middle - real))


@pytest.mark.parametrize("game", DISCRIMINATORS)
@pytest.mark.parametrize("patches", ["each", "mean"])
@given(values=st.lists(st.floats(-5, 5), min_size=4, max_size=4))
@settings(max_examples=15, deadline=None)
def test_the_option_patches_has_no_effect_with_one_patch_per_image(
    game: str, patches: str, values: list[float]
) -> None:
    real, fake = torch.tensor(values).reshape(2, 2, 1, 1, 1)

    assert DISCRIMINATORS[game](patches=patches)(real, fake) == DISCRIMINATORS[game]()(real, fake)


@pytest.mark.parametrize("game", GENERATORS)
def test_the_gradient_of_the_generator_raises_logits_that_are_below_real(game: str) -> None:
    fake = FAKE.clone().requires_grad_()

    (gradient,) = torch.autograd.grad(GENERATORS[game]()(fake), fake)

    assert (gradient[fake < 1] < 0).all()


@pytest.mark.parametrize("loss", [*DISCRIMINATORS.values(), *GENERATORS.values()], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("size", [1e4, -1e4, 1e8, -1e8])
def test_losses_and_gradients_are_finite_in_bf16_for_huge_logits(loss: Any, size: float) -> None:
    sides = 2 if loss in DISCRIMINATORS.values() else 1
    scores = [torch.full((2, 1, 3, 3), size, dtype=torch.bfloat16, requires_grad=True) for _ in range(sides)]

    value = loss()(*scores)
    gradients = torch.autograd.grad(value, scores)

    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("loss", GENERATORS.values(), ids=lambda loss: loss.__name__)
def test_the_default_weight_of_a_generator_loss_is_one_half(loss: Any) -> None:
    assert loss.default_weight == 0.5


def test_the_penalty_has_a_gamma_of_five_and_uses_the_context() -> None:
    """For a linear score a(c) x of one pixel with three channels the gradient is a(c) in each channel."""
    context = torch.tensor([[2.0], [4.0]])

    def score(x: Tensor, c: Tensor | None = None) -> Tensor:
        return (x * (1.0 if c is None else c[:, :, None, None])).sum(dim=1, keepdim=True)

    image = torch.randn(2, 3, 1, 1)

    assert float(R1()(image, score)) == pytest.approx(2.5 * 3)  # type: ignore[arg-type]
    assert float(R1(interval=16)(image, score)) == pytest.approx(16 * 2.5 * 3)  # type: ignore[arg-type]
    assert float(ProjectedR1()(image, score, context)) == pytest.approx(2.5 * 3 * (4 + 16) / 2)  # type: ignore[arg-type]


def test_hinge_applies_the_relu_to_each_patch_before_the_mean() -> None:
    real = torch.tensor([2.0, 0.0]).view(1, 1, 1, 2)
    fake = torch.tensor([-3.0, 0.5]).view(1, 1, 1, 2)

    assert float(HingeDiscriminator()(real, fake)) == pytest.approx(0.5 * (0.5 + 0.75))
    assert float(HingeGenerator()(fake)) == pytest.approx(1.25)


def test_r1_is_the_squared_gradient_of_the_mean_logit_and_reaches_the_discriminator() -> None:
    net = nn.Conv2d(3, 1, 1, bias=False)
    x = torch.randn(2, 3, 16, 16)
    # D(x) = mean over 256 positions of w . x, so the gradient at each position is w / 256.
    exact = 2.0 / 2 * 256 * float((net.weight / 256).square().sum().detach())

    penalty = R1(gamma=2.0)(x, net)
    (gradient,) = torch.autograd.grad(penalty, net.weight)

    assert float(penalty.detach()) == pytest.approx(exact, rel=1e-4)
    assert gradient.abs().sum() > 0
    assert float(R1(gamma=2.0, interval=16)(x, net).detach()) == pytest.approx(16 * exact, rel=1e-4)


def test_r1_does_not_grow_with_the_number_of_patches() -> None:
    net = nn.Conv2d(3, 1, 1, bias=False)

    small, large = R1()(torch.randn(2, 3, 8, 8), net), R1()(torch.randn(2, 3, 32, 32), net)

    assert float(large.detach()) <= float(small.detach())
