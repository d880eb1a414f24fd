"""The rectified flow: its path, its times, its solvers, guidance, and captions that are dropped."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fluxflow_flow import values
from fluxflow_flow.generation import GeneratedImage
from fluxflow_flow.paths import Path, RectifiedPath
from fluxflow_flow.samplers import Euler
from fluxflow_flow.scale import decodable
from fluxflow_registry import DataError
from fluxflow_text.values import Prompt

RECTIFIED = RectifiedPath("velocity")


def solve(velocity: Any, noise: Tensor, path: Any, steps: int = 4) -> Tensor:
    """The recipe's sampler, as the engine gives it."""
    return Euler(steps=steps)(velocity, noise)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_path_begins_at_the_latent_ends_at_noise_and_moves_at_the_target_velocity() -> None:
    x_0 = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    x_1 = torch.randn(3, 2, 4, 4, dtype=torch.float64)

    def at(t: float) -> Tensor:
        return values.noisy_latent(x_0, x_1, torch.full((3,), t, dtype=torch.float64), RECTIFIED)

    slope = (at(0.5001) - at(0.4999)) / 0.0002

    assert torch.equal(at(0.0), x_0)
    assert torch.allclose(at(1.0), x_1)
    torch.testing.assert_close(slope, values.velocity_target(x_0, x_1, torch.rand(3), RECTIFIED), rtol=1e-6, atol=1e-8)


def test_the_clean_latent_has_unit_size_when_the_compressor_has_measured_its_latents() -> None:
    mean = 3.0 * torch.randn(64, 4, 4, 4)
    compressor: Any = SimpleNamespace(latent_rms=mean.square().mean().sqrt())

    x_0 = values.clean_latent(SimpleNamespace(mean=mean), compressor)

    assert float(x_0.square().mean()) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(
    ("distribution", "mean", "std"), [("uniform", 0.5, 1 / math.sqrt(12)), ("logit_normal", 0.5, 0.208)]
)
def test_times_lie_in_the_unit_interval_and_are_distributed_as_named(
    distribution: Any, mean: float, std: float
) -> None:
    t = values.Time(distribution=distribution)(torch.zeros(20_000, 1, 1, 1), RECTIFIED, generator())

    assert 0 <= float(t.min()) <= float(t.max()) <= 1
    assert float(t.mean()) == pytest.approx(mean, abs=0.01)
    assert float(t.std()) == pytest.approx(std, abs=0.01)


def test_a_shift_of_the_compressor_is_taken_off_before_the_scale_and_put_back_after_it() -> None:
    shifted: Any = SimpleNamespace(latent_rms=torch.tensor(2.0), latent_shift=torch.tensor(3.0))
    centred: Any = SimpleNamespace(latent_rms=torch.tensor(2.0))
    mean = torch.full((1, 1, 1, 1), 7.0)

    assert float(values.clean_latent(SimpleNamespace(mean=mean), shifted)) == 2.0
    assert float(values.clean_latent(SimpleNamespace(mean=mean), centred)) == 3.5
    assert float(decodable(torch.full((1,), 2.0), shifted)) == 7.0
    assert float(decodable(torch.full((1,), 3.5), centred)) == 7.0


class Embedding(NamedTuple):
    tokens: Tensor
    mask: Tensor


class Encoder(nn.Module):
    """Embeds a text as its length."""

    def forward(self, captions: list[str]) -> Embedding:
        self.calls = [*getattr(self, "calls", []), list(captions)]
        tokens = torch.tensor([[[float(len(text))]] for text in captions])
        return Embedding(tokens, torch.ones(len(captions), 1, dtype=torch.bool))


class Field(nn.Module):
    """A velocity that is the mean token, wherever it is asked for."""

    latent_channels, patch = 2, 1

    def forward(self, x: Tensor, time: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        self.batches = [*getattr(self, "batches", []), len(x)]
        self.times = [*getattr(self, "times", []), float(time[0])]
        return tokens.mean(dim=1)[:, :, None, None].expand_as(x)


class Expander(nn.Module):
    downscale = 4

    def forward(self, latent: Tensor) -> Tensor:
        return latent


def drawn(path: Path = RECTIFIED, shift: float = 0.0, **options: Any) -> tuple[Tensor, Field]:
    """What is drawn for the caption `abc`, and the field that was asked."""
    field = Field()
    image = GeneratedImage(**options)(
        ["abc"],
        (8, 12),
        Encoder(),
        field,
        SimpleNamespace(latent_rms=torch.tensor(0.01), latent_shift=torch.tensor(shift)),
        Expander(),
        path,
        solve,
        generator(),
    )
    return image, field


def test_guidance_leads_from_the_empty_text_through_the_caption() -> None:
    noise = torch.randn(1, 2, 2, 3, generator=generator())

    for guidance in (0.0, 1.0, 4.0, 7.5, 15.0):
        image, field = drawn(guidance=guidance)
        # v_u = 0 for the empty text, v_c = 3 for `abc`: v = guidance * 3.
        torch.testing.assert_close(image, ((noise - 3 * guidance) * 0.01).clamp(-1, 1), rtol=1e-4, atol=1e-6)
        # Both halves are one batch; without guidance there is one half.
        assert field.batches == [1 if guidance == 1.0 else 2] * 4


def test_the_picture_is_decoded_from_the_latents_own_scale_and_shift() -> None:
    noise = torch.randn(1, 2, 2, 3, generator=generator())

    image, _ = drawn(guidance=1.0, shift=0.25)

    torch.testing.assert_close(image, (noise - 3) * 0.01 + 0.25, rtol=1e-4, atol=1e-6)


def test_a_negative_prompt_takes_the_place_of_the_empty_text() -> None:
    noise = torch.randn(1, 2, 2, 3, generator=generator())

    image, _ = drawn(guidance=2.0, negative_prompt="ab")

    torch.testing.assert_close(image, (noise - (2 + 2 * (3 - 2))) * 0.01, rtol=1e-4, atol=1e-6)


def test_times_in_sampling_run_from_noise_at_one_towards_data_at_zero() -> None:
    _, field = drawn(guidance=1.0)

    assert field.times == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_a_size_that_is_no_whole_number_of_patches_is_refused() -> None:
    with pytest.raises(DataError, match="a picture of 9 x 8 pixels cannot be drawn: its sides are multiples of 4"):
        GeneratedImage()(
            ["a"],
            (8, 9),
            Encoder(),
            Field(),
            SimpleNamespace(latent_rms=torch.ones(())),
            Expander(),
            RECTIFIED,
            solve,
            generator(),
        )


@pytest.mark.parametrize("dropout", [0.0, 0.1, 1.0])
def test_captions_are_emptied_at_their_rate_and_the_others_stay(dropout: float) -> None:
    captions = [f"caption {n}" for n in range(5000)]

    kept = Prompt(dropout=dropout)(captions, generator())

    emptied = sum(text == "" for text in kept)
    assert emptied / 5000 == pytest.approx(dropout, abs=0.015)
    assert all(text in ("", caption) for text, caption in zip(kept, captions, strict=True))
