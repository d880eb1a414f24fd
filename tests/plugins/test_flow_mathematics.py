"""The rectified flow: its path, its times, guidance, and the dropout of captions."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fluxflow_flow import values
from fluxflow_flow.generation import GeneratedImage, to_own_scale
from fluxflow_flow.paths import Path, RectifiedPath
from fluxflow_flow.samplers import Euler
from fluxflow_registry import DataError
from fluxflow_text.values import Prompt

RECTIFIED = RectifiedPath("velocity")


def solve(velocity: Any, noise: Tensor, path: Any, steps: int = 4) -> Tensor:
    """The recipe's sampler, as the engine provides it."""
    return Euler(steps=steps)(velocity, noise)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_path_goes_from_the_latent_to_noise_at_the_target_velocity() -> None:
    x_0 = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    x_1 = torch.randn(3, 2, 4, 4, dtype=torch.float64)

    def at(t: float) -> Tensor:
        return values.noisy_latent(x_0, x_1, torch.full((3,), t, dtype=torch.float64), RECTIFIED)

    slope = (at(0.5001) - at(0.4999)) / 0.0002

    assert torch.equal(at(0.0), x_0)
    assert torch.allclose(at(1.0), x_1)
    torch.testing.assert_close(slope, values.velocity_target(x_0, x_1, torch.rand(3), RECTIFIED), rtol=1e-6, atol=1e-8)


def test_the_clean_latent_has_unit_variance_if_the_compressor_has_measured_its_latents() -> None:
    mean = 3.0 * torch.randn(64, 4, 4, 4)
    compressor: Any = SimpleNamespace(latent_rms=mean.square().mean().sqrt())

    x_0 = values.clean_latent(SimpleNamespace(mean=mean), compressor)

    assert float(x_0.square().mean()) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(
    ("distribution", "mean", "std"), [("uniform", 0.5, 1 / math.sqrt(12)), ("logit_normal", 0.5, 0.208)]
)
def test_times_are_in_the_unit_interval_with_the_named_distribution(distribution: Any, mean: float, std: float) -> None:
    t = values.Time(distribution=distribution)(torch.zeros(20_000, 1, 1, 1), RECTIFIED, generator())

    assert 0 <= float(t.min()) <= float(t.max()) <= 1
    assert float(t.mean()) == pytest.approx(mean, abs=0.01)
    assert float(t.std()) == pytest.approx(std, abs=0.01)


def test_the_shift_of_a_compressor_is_subtracted_before_scaling_and_added_when_decoding() -> None:
    shifted: Any = SimpleNamespace(latent_rms=torch.tensor(2.0), latent_shift=torch.tensor(3.0))
    centered: Any = SimpleNamespace(latent_rms=torch.tensor(2.0))
    mean = torch.full((1, 1, 1, 1), 7.0)

    assert float(values.clean_latent(SimpleNamespace(mean=mean), shifted)) == 2.0
    assert float(values.clean_latent(SimpleNamespace(mean=mean), centered)) == 3.5
    assert float(to_own_scale(torch.full((1,), 2.0), shifted)) == 7.0
    assert float(to_own_scale(torch.full((1,), 3.5), centered)) == 7.0


class Embedding(NamedTuple):
    tokens: Tensor
    mask: Tensor


class Encoder(nn.Module):
    """Embeds a caption as its length."""

    def forward(self, captions: list[str]) -> Embedding:
        self.calls = [*getattr(self, "calls", []), list(captions)]
        tokens = torch.tensor([[[float(len(caption))]] for caption in captions])
        return Embedding(tokens, torch.ones(len(captions), 1, dtype=torch.bool))


class Field(nn.Module):
    """A velocity field that is the mean token everywhere."""

    latent_channels, patch = 2, 1

    def forward(self, x: Tensor, time: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        self.batches = [*getattr(self, "batches", []), len(x)]
        self.times = [*getattr(self, "times", []), float(time[0])]
        return tokens.mean(dim=1)[:, :, None, None].expand_as(x)


class Expander(nn.Module):
    downscale = 4

    def forward(self, latent: Tensor) -> Tensor:
        return latent


def generate(path: Path = RECTIFIED, shift: float = 0.0, **options: Any) -> tuple[Tensor, Field]:
    """The image for the caption `abc`, and the field that generated it."""
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


def test_guidance_extrapolates_from_the_empty_caption_through_the_caption() -> None:
    noise = torch.randn(1, 2, 2, 3, generator=generator())

    for guidance in (0.0, 1.0, 4.0, 7.5, 15.0):
        image, field = generate(guidance=guidance)
        # v_u = 0 for the empty caption, v_c = 3 for `abc`: v = guidance * 3.
        torch.testing.assert_close(image, ((noise - 3 * guidance) * 0.01).clamp(-1, 1), rtol=1e-4, atol=1e-6)
        # Both predictions are one batch; without guidance there is one prediction.
        assert field.batches == [1 if guidance == 1.0 else 2] * 4


def test_the_image_is_decoded_at_the_scale_and_shift_of_the_compressor() -> None:
    noise = torch.randn(1, 2, 2, 3, generator=generator())

    image, _ = generate(guidance=1.0, shift=0.25)

    torch.testing.assert_close(image, (noise - 3) * 0.01 + 0.25, rtol=1e-4, atol=1e-6)


def test_a_negative_prompt_replaces_the_empty_caption() -> None:
    noise = torch.randn(1, 2, 2, 3, generator=generator())

    image, _ = generate(guidance=2.0, negative_prompt="ab")

    torch.testing.assert_close(image, (noise - (2 + 2 * (3 - 2))) * 0.01, rtol=1e-4, atol=1e-6)


def test_sampling_goes_from_noise_at_time_one_towards_data_at_time_zero() -> None:
    _, field = generate(guidance=1.0)

    assert field.times == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_an_image_size_that_is_not_a_multiple_of_a_patch_is_rejected() -> None:
    with pytest.raises(DataError, match="image of 9 x 8 pixels cannot be generated: its sides must be multiples of 4"):
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
def test_captions_are_dropped_at_their_rate_and_otherwise_unchanged(dropout: float) -> None:
    captions = [f"caption {n}" for n in range(5000)]

    kept = Prompt(dropout=dropout)(captions, generator())

    dropped = sum(each == "" for each in kept)
    assert dropped / 5000 == pytest.approx(dropout, abs=0.015)
    assert all(each in ("", caption) for each, caption in zip(kept, captions, strict=True))
