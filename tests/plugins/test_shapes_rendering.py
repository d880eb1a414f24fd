"""The shapes dataset draws what it says, always the same, whatever is drawn next to it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fluxflow_shapes.dataset import Shapes
from fluxflow_shapes.rendering import coverage, hashed, uniform
from fluxflow_shapes.vocabulary import (
    BACKGROUNDS,
    COLOURS,
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
    colour=st.sampled_from(list(COLOURS)),
    background=st.sampled_from(list(BACKGROUNDS)),
    size=st.sampled_from(list(SIZES)),
    place=st.sampled_from(list(PLACES)),
)
numbers = st.integers(0, 2**40)


@given(st.lists(numbers, min_size=1, max_size=12), st.integers(0, 2**63), st.data())
def test_a_picture_does_not_depend_on_the_batch_that_it_is_drawn_in(
    indices: list[int], seed: int, data: st.DataObject
) -> None:
    source = Shapes(seed=seed, split="all", centre_unsaid=0.5)()
    position = data.draw(st.integers(0, len(indices) - 1))

    together = source.batch(indices, seed=0)
    alone = source.batch([indices[position]], seed=1)

    assert torch.equal(together["image"][position], alone["image"][0])
    assert together["caption"][position] == alone["caption"][0]


@given(attributes, st.booleans())
def test_a_caption_is_read_back_as_it_was_said(said: Attributes, say_centre: bool) -> None:
    caption = caption_of(said, say_centre)

    read = parse("  " + caption.upper().replace(" ", "  "))

    assert read == said


def test_a_prompt_without_a_place_means_the_centre() -> None:
    prompt = "a small red circle on a white background"

    read = parse(prompt)

    assert read == Attributes("circle", "red", "white", "small", place="in the centre")


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("a small crimson circle on a white background", "names the colour 'crimson'; there are"),
        ("a small red circle on a white background, above", "names the place 'above'"),
        ("a picture", "is not of the form"),
    ],
)
def test_a_caption_outside_the_grammar_is_refused_with_the_words_there_are(caption: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(caption)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_split_shows_its_own_pairs_of_shape_and_colour_only(split: Split) -> None:
    captions = Shapes(split=split)().batch(range(4000), seed=0)["caption"]

    shown = {(said.shape, said.colour) for said in map(parse, captions)}

    everything = {(one.shape, one.colour) for one in combinations("all")}
    assert shown == (HELD_OUT if split == "held_out" else everything - HELD_OUT)


def test_every_shape_and_every_colour_is_still_seen_in_training() -> None:
    seen = combinations("train")

    assert {one.shape for one in seen} == set(SHAPES)
    assert {one.colour for one in seen} == set(COLOURS)
    assert len(seen) + len(combinations("held_out")) == 6 * 8 * 6 * 2 * 5


@pytest.mark.parametrize("image_size", [16, 32, 50, 64])
def test_pictures_have_the_size_that_was_asked_for_and_lie_in_range(image_size: int) -> None:
    dataset = Shapes(image_size=image_size)

    image = dataset().batch(range(64), seed=0)["image"]

    assert image.shape == (64, *(dataset.fields()["image"].shape or ()))
    assert image.dtype == torch.float32
    assert image.min() >= -1
    assert image.max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_drawn_large_and_averaged_is_the_shape_drawn_small(shape: str) -> None:
    centre, radius = torch.tensor([[0.45, 0.55]]), torch.tensor([0.25])

    fine = coverage(shape, centre, radius, 256)
    coarse = coverage(shape, centre, radius, 32)

    averaged = torch.nn.functional.avg_pool2d(fine, 8)
    assert (averaged - coarse).abs().max() < 0.35
    assert (averaged - coarse).abs().mean() < 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_lies_inside_the_picture_wherever_it_is_put(shape: str) -> None:
    centre = torch.tensor(list(PLACES.values()))
    radius = torch.full((len(PLACES),), max(SIZES.values()))

    mask = coverage(shape, centre, radius, 64)

    assert mask[:, [0, -1]].sum() == 0
    assert mask[:, :, [0, -1]].sum() == 0
    assert (mask.flatten(1).sum(dim=1) > 50).all()


def test_pictures_of_one_caption_differ() -> None:
    batch = Shapes(length=20_000)().batch(range(20_000), seed=0)
    caption = batch["caption"][0]

    same = [number for number, other in enumerate(batch["caption"]) if other == caption]

    assert len(same) > 2
    assert not torch.equal(batch["image"][same[0]], batch["image"][same[1]])


def test_the_share_of_centred_pictures_without_a_place_is_what_was_asked_for() -> None:
    captions = Shapes(centre_unsaid=0.25)().batch(range(8000), seed=0)["caption"]

    centred = [caption for caption in captions if parse(caption).place == "in the centre"]
    unsaid = [caption for caption in centred if caption.endswith("background")]

    assert abs(len(centred) / 8000 - 0.2) < 0.02
    assert abs(len(unsaid) / len(centred) - 0.25) < 0.04


@given(st.integers(0, 2**64 - 1), st.integers(0, 6))
def test_random_numbers_are_uniform_and_streams_are_independent(seed: int, stream: int) -> None:
    index = torch.arange(4096)

    drawn = uniform(seed, index, stream)
    other = uniform(seed, index, stream + 1)

    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.03
    assert abs(drawn.var() - 1 / 12) < 0.01
    assert abs(torch.corrcoef(torch.stack([drawn, other]))[0, 1]) < 0.1
    assert len(set(hashed(seed, index, stream).tolist())) == len(index)
