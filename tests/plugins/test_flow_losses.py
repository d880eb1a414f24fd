"""The losses of a path: their equations, weights and errors; and the alignment with the text."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fluxflow_flow.losses import Epsilon, Velocity, VPrediction, alignment
from fluxflow_flow.models import ProjectionBuilder
from fluxflow_flow.paths import DdpmPath, Path, RectifiedPath, betas
from fluxflow_flow.transformer import mean_token
from fluxflow_flow.values import PathBuilder

from .flow_path import NAMES, PATHS

LOSSES: dict[str, Any] = {"velocity": Velocity, "epsilon": Epsilon, "v": VPrediction}

every_path = pytest.mark.parametrize("path", PATHS, ids=NAMES)


@every_path
def test_the_loss_of_a_path_is_the_mean_squared_error_of_its_prediction(path: Path) -> None:
    prediction, target = torch.ones(2, 2, 1, 1), torch.full((2, 2, 1, 1), 3.0)

    loss = LOSSES[path.predicts]()(prediction, target, torch.tensor([0.2, 0.9]), path)

    assert float(loss) == pytest.approx(4.0)
    assert loss.ndim == 0


@every_path
@pytest.mark.parametrize("other", LOSSES)
def test_a_loss_rejects_a_path_with_another_kind_of_prediction(path: Path, other: str) -> None:
    if other == path.predicts:
        return
    names = {"velocity": "velocity", "epsilon": "epsilon", "v": "v_prediction"}

    with pytest.raises(ValueError, match="value `path` predicts") as caught:
        LOSSES[other]()(torch.ones(1), torch.ones(1), torch.ones(1), path)

    assert str(caught.value) == (
        f"value `path` predicts {path.predicts}: use loss `{names[path.predicts]}`, or set "
        f"`values: {{path: {{predicts: {other}}}}}` for loss `{names[other]}`"
    )


@pytest.mark.parametrize(("gamma", "step"), [(5.0, 100), (5.0, 700), (0.5, 400)])
def test_min_snr_weights_each_kind_of_prediction_of_a_diffusion_as_in_the_paper(gamma: float, step: int) -> None:
    square = math.prod(1 - beta for beta in betas("linear")[:step])
    snr = square / (1 - square)
    t = torch.tensor([step / 1000], dtype=torch.float64)

    def weight(predicts: Any) -> float:
        loss = LOSSES[predicts](min_snr_gamma=gamma)
        return float(loss(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), t, DdpmPath(predicts, "linear")))

    assert weight("epsilon") == pytest.approx(min(snr, gamma) / snr, rel=1e-5)
    assert weight("v") == pytest.approx(min(snr, gamma) / (snr + 1), rel=1e-5)


def test_min_snr_weights_of_a_rectified_path_agree_with_values_computed_by_hand() -> None:
    t = torch.tensor([0.25, 0.5])
    prediction = torch.tensor([1.0, 2.0])[:, None, None, None]

    loss = Velocity(min_snr_gamma=5.0)(prediction, torch.zeros(2, 1, 1, 1), t, RectifiedPath("velocity"))

    # SNR 9 and 1; the error of x_0 is t times that of the velocity.
    assert float(loss) == pytest.approx((5 * 0.25**2 * 1 + 1 * 0.5**2 * 4) / 2)


@every_path
def test_min_snr_is_the_same_weighted_error_of_the_latent_for_all_kinds_of_prediction(path: Path) -> None:
    torch.manual_seed(0)
    x_0, noise, error = torch.randn(3, 4, 2, 3, 3, dtype=torch.float64)
    t = torch.tensor([0.1, 0.4, 0.7, 0.95], dtype=torch.float64)
    x_t, target = path.noisy(x_0, noise, t), path.target(x_0, noise, t)

    loss = LOSSES[path.predicts](min_snr_gamma=5.0)(target + error, target, t, path)

    of_latent = (path.latent(target + error, x_t, t) - x_0).square().flatten(1).mean(dim=1)
    torch.testing.assert_close(loss, (path.log_snr(t).exp().clamp(max=5.0) * of_latent).mean(), rtol=1e-6, atol=0)


@every_path
def test_min_snr_weights_are_finite_at_both_ends(path: Path) -> None:
    t = torch.tensor([0.0, 1e-3, 1.0])

    weight = path.min_snr_weight(path.on_grid(t) if isinstance(path, DdpmPath) else t, 5.0)

    assert weight.isfinite().all()
    assert (weight >= 0).all()


class Embedding(NamedTuple):
    tokens: Tensor
    mask: Tensor


def test_alignment_is_one_minus_the_cosine_of_the_means_through_the_projection() -> None:
    latent = torch.zeros(2, 2, 1, 2)
    latent[0, :, 0, 0] = torch.tensor([2.0, 0.0])  # the mean over positions is (1, 0)
    latent[1, :, 0, 1] = torch.tensor([0.0, 4.0])  # and (0, 2)
    tokens = torch.tensor([[[1.0, 0, 0], [1.0, 2.0, 0], [99.0, 99, 99]], [[0, 0, 1.0], [0, 0, 3.0], [0, 0, 5.0]]])
    text = Embedding(tokens, torch.tensor([[True, True, False], [True, True, True]]))
    projection = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        projection.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, -1.0]]))

    loss = alignment(latent, text, projection)

    # (1, 0, 0) with (1, 1, 0), and (0, 0, -2) with (0, 0, 3).
    assert float(loss.detach()) == pytest.approx(((1 - 1 / math.sqrt(2)) + 2) / 2, abs=1e-6)


def test_the_gradient_of_alignment_reaches_latent_text_and_projection() -> None:
    latent, tokens = torch.randn(3, 4, 2, 2, requires_grad=True), torch.randn(3, 5, 6, requires_grad=True)
    projection = ProjectionBuilder(width_in=4, width_out=6)()

    loss = alignment(latent, Embedding(tokens, torch.ones(3, 5, dtype=torch.bool)), projection)
    torch.autograd.backward(loss)

    assert latent.grad is not None
    assert tokens.grad is not None
    assert latent.grad.abs().sum() > 0
    assert tokens.grad.abs().sum() > 0
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in projection.parameters())


@every_path
def test_losses_and_estimates_are_finite_in_bfloat16(path: Path) -> None:
    x_0, noise = torch.randn(2, 4, 2, 3, 3, dtype=torch.bfloat16)
    t = path.on_grid(torch.tensor([0.0011, 0.3, 0.7, 1.0]))

    x_t, target = path.noisy(x_0, noise, t), path.target(x_0, noise, t)

    assert x_t.dtype == target.dtype == path.latent(target, x_t, t).dtype == torch.bfloat16
    assert LOSSES[path.predicts](min_snr_gamma=5.0)(target.float() + 1, target.float(), t, path).isfinite()
    assert path.latent(target, x_t, t).isfinite().all()


def test_a_gamma_of_zero_is_rejected() -> None:
    with pytest.raises(ValueError, match="min_snr_gamma"):
        Epsilon(min_snr_gamma=0.0)


def test_the_default_path_is_rectified_and_predicts_the_velocity() -> None:
    assert PathBuilder()() == RectifiedPath("velocity")


def test_the_mean_of_a_caption_without_tokens_is_zero() -> None:
    tokens, mask = torch.ones(2, 3, 4), torch.tensor([[True, True, False], [False, False, False]])

    mean = mean_token(tokens, mask)

    assert mean.tolist() == [[1.0] * 4, [0.0] * 4]
