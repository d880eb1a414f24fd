"""The shapes dataset renders what its captions describe, always the same, whatever else is in the batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fluxflow_shapes.dataset import Shapes
from fluxflow_shapes.rendering import coverage, hashed, uniform
from fluxflow_shapes.vocabulary import (
    BACKGROUNDS,
    COLORS,
    HELD_OUT,
    PLACES,
    SHAPES,
    SIZES,
    Attributes,
    Split,
    caption_of,
    combinations,
    parse,
)

attributes = st.builds(
    Attributes,
    shape=st.sampled_from(SHAPES),
    color=st.sampled_from(list(COLORS)),
    background=st.sampled_from(list(BACKGROUNDS)),
    size=st.sampled_from(list(SIZES)),
    place=st.sampled_from(list(PLACES)),
)
numbers = st.integers(0, 2**40)


@given(st.lists(numbers, min_size=1, max_size=12), st.integers(0, 2**63), st.data())
def test_an_image_does_not_depend_on_its_batch(indices: list[int], seed: int, data: st.DataObject) -> None:
    source = Shapes(seed=seed, split="all", centre_unsaid=0.5)()
    position = data.draw(st.integers(0, len(indices) - 1))

    together = source.batch(indices, seed=0)
    alone = source.batch([indices[position]], seed=1)

    assert torch.equal(together["image"][position], alone["image"][0])
    assert together["caption"][position] == alone["caption"][0]


@given(attributes, st.booleans())
def test_a_parsed_caption_has_the_attributes_that_it_was_written_from(written: Attributes, name_center: bool) -> None:
    caption = caption_of(written, name_center)

    read = parse("  " + caption.upper().replace(" ", "  "))

    assert read == written


def test_a_prompt_without_a_place_means_the_center() -> None:
    prompt = "a small red circle on a white background"

    read = parse(prompt)

    assert read == Attributes("circle", "red", "white", "small", place="in the centre")


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("a small crimson circle on a white background", "has the unknown color 'crimson': use one of red, orange"),
        ("a small red circle on a white background, above", "has the unknown place 'above'"),
        ("an image", "does not have the form"),
    ],
)
def test_a_caption_outside_the_grammar_is_refused_with_the_valid_words(caption: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(caption)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_split_shows_only_its_own_pairs_of_shape_and_color(split: Split) -> None:
    captions = Shapes(split=split)().batch(range(4000), seed=0)["caption"]

    shown = {(one.shape, one.color) for one in map(parse, captions)}

    everything = {(one.shape, one.color) for one in combinations("all")}
    assert shown == (HELD_OUT if split == "held_out" else everything - HELD_OUT)


def test_every_shape_and_every_color_is_seen_in_training() -> None:
    seen = combinations("train")

    assert {one.shape for one in seen} == set(SHAPES)
    assert {one.color for one in seen} == set(COLORS)
    assert len(seen) + len(combinations("held_out")) == 6 * 8 * 6 * 2 * 5


@pytest.mark.parametrize("image_size", [16, 32, 50, 64])
def test_images_have_the_requested_size_and_are_in_range(image_size: int) -> None:
    dataset = Shapes(image_size=image_size)

    image = dataset().batch(range(64), seed=0)["image"]

    assert image.shape == (64, *(dataset.fields()["image"].shape or ()))
    assert image.dtype == torch.float32
    assert image.min() >= -1
    assert image.max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_a_large_rendering_averaged_down_is_the_small_rendering(shape: str) -> None:
    center, radius = torch.tensor([[0.45, 0.55]]), torch.tensor([0.25])

    fine = coverage(shape, center, radius, 256)
    coarse = coverage(shape, center, radius, 32)

    averaged = torch.nn.functional.avg_pool2d(fine, 8)
    assert (averaged - coarse).abs().max() < 0.35
    assert (averaged - coarse).abs().mean() < 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_inside_the_image_at_every_place(shape: str) -> None:
    center = torch.tensor(list(PLACES.values()))
    radius = torch.full((len(PLACES),), max(SIZES.values()))

    mask = coverage(shape, center, radius, 64)

    assert mask[:, [0, -1]].sum() == 0
    assert mask[:, :, [0, -1]].sum() == 0
    assert (mask.flatten(1).sum(dim=1) > 50).all()


def test_images_with_one_caption_differ() -> None:
    batch = Shapes(length=20_000)().batch(range(20_000), seed=0)
    caption = batch["caption"][0]

    same = [number for number, other in enumerate(batch["caption"]) if other == caption]

    assert len(same) > 2
    assert not torch.equal(batch["image"][same[0]], batch["image"][same[1]])


def test_the_share_of_centered_shapes_without_a_place_is_the_option() -> None:
    captions = Shapes(centre_unsaid=0.25)().batch(range(8000), seed=0)["caption"]

    centered = [caption for caption in captions if parse(caption).place == "in the centre"]
    unnamed = [caption for caption in centered if caption.endswith("background")]

    assert abs(len(centered) / 8000 - 0.2) < 0.02
    assert abs(len(unnamed) / len(centered) - 0.25) < 0.04


@given(st.integers(0, 2**64 - 1), st.integers(0, 6))
def test_random_numbers_are_uniform_and_streams_are_independent(seed: int, stream: int) -> None:
    index = torch.arange(4096)

    numbers = uniform(seed, index, stream)
    other = uniform(seed, index, stream + 1)

    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.03
    assert abs(numbers.var() - 1 / 12) < 0.01
    assert abs(torch.corrcoef(torch.stack([numbers, other]))[0, 1]) < 0.1
    assert len(set(hashed(seed, index, stream).tolist())) == len(index)
