"""The adversarial games: hand-computed values, their symmetries, patches before and after, finite in bf16."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fluxflow_gan.losses import (
    HingeDiscriminator,
    HingeGenerator,
    LeastSquaresDiscriminator,
    LeastSquaresGenerator,
    NonsaturatingDiscriminator,
    NonsaturatingGenerator,
)
from fluxflow_gan.penalties import R1, ProjectedR1

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


def logits(*pictures: list[float]) -> Tensor:
    """A batch of pictures with so many patches each: [B, 1, 1, w]."""
    return torch.tensor(pictures)[:, None, None, :]


REAL, FAKE = logits([3.0, -1.0], [0.5, 0.5]), logits([-3.0, 1.0], [0.0, -0.5])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


#: For each game, what the discriminator's loss is where the mean over patches comes after, and before.
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
def test_patches_are_averaged_after_or_before_as_the_option_says(game: str) -> None:
    each, mean = BY_HAND[game]

    assert float(DISCRIMINATORS[game]()(REAL, FAKE)) == pytest.approx(each)
    assert float(DISCRIMINATORS[game](patches="each")(REAL, FAKE)) == pytest.approx(each)
    assert float(DISCRIMINATORS[game](patches="mean")(REAL, FAKE)) == pytest.approx(mean)


def test_the_generator_s_side_is_what_its_equation_says() -> None:
    assert float(HingeGenerator()(FAKE)) == pytest.approx(2.5 / 4)
    assert float(NonsaturatingGenerator()(FAKE)) == pytest.approx(sum(map(softplus, (3, -1, 0, 0.5))) / 4)
    assert float(NonsaturatingGenerator(patches="mean")(FAKE)) == pytest.approx((softplus(1) + softplus(0.25)) / 2)
    assert float(LeastSquaresGenerator()(FAKE)) == pytest.approx(0.5 * (16 + 0 + 1 + 2.25) / 4)
    assert float(LeastSquaresGenerator(patches="mean")(FAKE)) == pytest.approx(0.5 * (4 + 1.5625) / 2)


@pytest.mark.parametrize("patches", ["each", "mean"])
@given(values=st.lists(st.floats(-20, 20), min_size=8, max_size=8))
@settings(max_examples=25, deadline=None)
def test_who_exchanges_real_and_fake_and_turns_the_sign_has_the_same_game(patches: str, values: list[float]) -> None:
    real, fake = torch.tensor(values).reshape(2, 2, 1, 1, 2)

    for game, middle in (("hinge", 0.0), ("nonsaturating", 0.0), ("least_squares", 0.5)):
        loss = DISCRIMINATORS[game](patches=patches)
        torch.testing.assert_close(loss(real, fake), loss(2 * middle - fake, 2 * middle - real))


@pytest.mark.parametrize("game", DISCRIMINATORS)
@pytest.mark.parametrize("patches", ["each", "mean"])
@given(values=st.lists(st.floats(-5, 5), min_size=4, max_size=4))
@settings(max_examples=15, deadline=None)
def test_with_one_patch_a_picture_the_mean_before_and_after_is_the_same(
    game: str, patches: str, values: list[float]
) -> None:
    real, fake = torch.tensor(values).reshape(2, 2, 1, 1, 1)

    assert DISCRIMINATORS[game](patches=patches)(real, fake) == DISCRIMINATORS[game]()(real, fake)


@pytest.mark.parametrize("game", GENERATORS)
def test_the_generator_descends_towards_what_the_discriminator_calls_real(game: str) -> None:
    fake = FAKE.clone().requires_grad_()

    (gradient,) = torch.autograd.grad(GENERATORS[game]()(fake), fake)

    assert (gradient[fake < 1] < 0).all()


@pytest.mark.parametrize("loss", [*DISCRIMINATORS.values(), *GENERATORS.values()], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("size", [1e4, -1e4, 1e8, -1e8])
def test_losses_and_gradients_are_finite_in_bf16_for_huge_logits(loss: Any, size: float) -> None:
    sides = 2 if loss in DISCRIMINATORS.values() else 1
    given = [torch.full((2, 1, 3, 3), size, dtype=torch.bfloat16, requires_grad=True) for _ in range(sides)]

    found = loss()(*given)
    gradients = torch.autograd.grad(found, given)

    assert found.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("loss", GENERATORS.values(), ids=lambda loss: loss.__name__)
def test_every_generator_s_loss_weighs_a_half_where_the_recipe_does_not_say(loss: Any) -> None:
    assert loss.default_weight == 0.5


def test_the_penalty_has_gamma_five_and_sees_the_context_where_there_is_one() -> None:
    """A linear score a(c) x of one pixel in three channels: the gradient is a(c) / patches in each of three."""
    context = torch.tensor([[2.0], [4.0]])

    def score(x: Tensor, c: Tensor | None = None) -> Tensor:
        return (x * (1.0 if c is None else c[:, :, None, None])).sum(dim=1, keepdim=True)

    image = torch.randn(2, 3, 1, 1)

    assert float(R1()(image, score)) == pytest.approx(2.5 * 3)  # type: ignore[arg-type]
    assert float(R1(interval=16)(image, score)) == pytest.approx(16 * 2.5 * 3)  # type: ignore[arg-type]
    assert float(ProjectedR1()(image, score, context)) == pytest.approx(2.5 * 3 * (4 + 16) / 2)  # type: ignore[arg-type]
