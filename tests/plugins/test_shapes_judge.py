"""The judge reads what an image shows, and noise or other captions do not mislead it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxflow_shapes.dataset import Shapes
from fluxflow_shapes.judge import ShapesJudge, read_image
from fluxflow_shapes.vocabulary import SHAPES


@pytest.mark.parametrize("image_size", [32, 48, 64])
def test_every_rendered_image_shows_its_caption(image_size: int) -> None:
    batch = Shapes(image_size=image_size, split="all")().batch(range(512), seed=0)

    judged = ShapesJudge()(batch["image"], batch["caption"])

    assert {name: float(share) for name, share in judged.items() if name != "match"} == {
        "colour": 1.0,
        "background": 1.0,
        "place": 1.0,
        "shape": 1.0,
        "size": 1.0,
        "everything": 1.0,
    }
    assert judged["match"] > 0.97


def test_shuffled_captions_are_right_by_chance_alone() -> None:
    batch = Shapes(split="all")().batch(range(512), seed=0)

    judged = ShapesJudge()(batch["image"], batch["caption"][1:] + batch["caption"][:1])

    chance = {"colour": 1 / 8, "background": 1 / 6, "place": 1 / 5, "shape": 1 / 6, "size": 1 / 2}
    for name, expected in chance.items():
        assert abs(float(judged[name]) - expected) < 0.08, name
    assert judged["everything"] < 0.02


@settings(max_examples=5)
@given(st.integers(0, 2**32), st.floats(0.0, 0.05))
def test_a_little_noise_does_not_change_what_is_read(seed: int, strength: float) -> None:
    image = Shapes(seed=seed, split="all")().batch(range(128), seed=0)["image"]
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))

    read, disturbed = read_image(image), read_image(image + strength * noise)

    for before, after in zip(read[:5], disturbed[:5], strict=True):
        assert (before == after).float().mean() > 0.98


@pytest.mark.parametrize("kind", ["noise", "plain", "blurred"])
def test_an_image_without_a_clean_shape_is_wrong(kind: str) -> None:
    batch = Shapes(split="all")().batch(range(128), seed=0)
    image = {
        "noise": torch.rand(128, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1,
        "plain": batch["image"][:, :, :1, :1].expand(-1, -1, 32, 32),
        "blurred": torch.nn.functional.avg_pool2d(batch["image"], 11, 1, 5),
    }[kind]

    judged = ShapesJudge()(image, batch["caption"])

    assert judged["everything"] < 0.05


def test_a_caption_without_a_place_means_the_center() -> None:
    batch = Shapes(centre_unsaid=0.0)().batch(range(128), seed=0)
    centered = sum("centre" in caption for caption in batch["caption"]) / 128

    judged = ShapesJudge()(batch["image"], [c.split(",")[0] for c in batch["caption"]])

    assert judged["place"] == centered
    assert judged["shape"] == 1


def test_a_caption_outside_the_grammar_is_always_wrong() -> None:
    image = Shapes()().batch(range(8), seed=0)["image"]

    judged = ShapesJudge()(image, [""] * 8)

    assert {float(judged[name]) for name in ("colour", "shape", "place", "everything")} == {0.0}


def test_the_judge_runs_without_data_on_the_meta_device() -> None:
    caption = Shapes()().batch(range(4), seed=0)["caption"]

    judged = ShapesJudge()(torch.empty(4, 3, 32, 32, device="meta"), caption)

    assert all(share.shape == () for share in judged.values())


def test_a_reading_has_the_index_of_the_shape() -> None:
    batch = Shapes(split="all")().batch(range(64), seed=0)

    read = read_image(batch["image"])

    words = [SHAPES[number] for number in read.shape.tolist()]
    assert all(word in caption for word, caption in zip(words, batch["caption"], strict=True))
