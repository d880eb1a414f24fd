"""Pictures show what was asked for, where it was asked for, and never overwrite each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from fluxflow_observers.grid import GAP, LINE, LINES, Cell, enlarged, grid, wrapped
from fluxflow_observers.pictures import Pictures, pixels_of
from fluxflow_registry import Draw, Ending, FluxflowError, Position
from fluxflow_registry.errors import RecipeError
from fluxflow_registry.plan.steps import RecipePlan

from ..recipes import TINY

Tell = Callable[..., None]

PROMPTS = ["a red circle", "a blue square"]


def end(tell: Tell, run: Any, epochs: int = 2, step: int = 0) -> None:
    """Let a step's epochs and the step itself end."""
    facts = run.steps[step]
    for epoch in range(1, epochs + 1):
        place = Position(step, epoch, 0, epoch * facts.batches, epoch * facts.batches)
        tell("epoch_ended", run, step=facts, position=place, summaries={})
    tell("step_ended", run, step=facts, position=place, ending=Ending("over"))


def files(folder: Path) -> list[str]:
    """The files of a run, the hash in their names replaced."""
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*.*") if p.is_file()]
    return sorted(name if "_" not in name.rsplit("/", 1)[-1] else _without_hash(name) for name in names)


def _without_hash(name: str) -> str:
    head, _, tail = name.partition("-")
    return f"{head[:-6]}HASH-{tail}" if name.startswith("samples/") else name


@pytest.fixture
def drawing(run: Any) -> Any:
    """A run that reconstructs white pictures as black ones."""
    run.samples = {"image": torch.ones(20, 3, 32, 32), "caption": [f"sample {index}" for index in range(20)]}
    run.values = {"reconstruction": torch.full((4, 3, 32, 32), -1.0), "generated_image": torch.zeros(2, 3, 32, 32)}
    return run


def test_a_value_is_drawn_below_what_stands_beside_it_with_captions_under_both(
    told: Callable[..., Tell], drawing: Any
) -> None:
    observer = Pictures(value="reconstruction", beside=["image"], dataset="held_out", count=4, columns=2)
    tell = told(observer)

    end(tell, drawing)

    assert drawing.asked == [("held_out", 4), (["reconstruction"], ["caption", "image"])]
    assert files(drawing.folder) == [
        "samples/vae_warmup_001_002_HASH-reconstruction.png",
        "vae_warmup-reconstruction.png",
    ]
    sheet = np.asarray(Image.open(drawing.folder / "vae_warmup-reconstruction.png"))
    height = 2 * (96 + GAP) + LINE
    assert sheet.shape == (GAP + 2 * (height + GAP), GAP + 2 * (96 + GAP), 3)
    for top in (GAP, GAP + height + GAP):
        assert (sheet[top : top + 96, GAP : GAP + 96] == 255).all()
        assert (sheet[top + 96 + GAP : top + 2 * 96 + GAP, GAP : GAP + 96] == 0).all()
        assert (sheet[top + 2 * (96 + GAP) : top + height] < 128).any(), "a caption is written there"


def test_prompts_are_drawn_from_their_captions_alone(told: Callable[..., Tell], drawing: Any) -> None:
    observer = Pictures(value="generated_image", prompts=PROMPTS, labels=False)
    tell = told(observer)

    end(tell, drawing, step=1)

    assert observer.draws() == [Draw(values=("generated_image",), dataset=None, fields=("caption",))]
    assert drawing.asked == [(["generated_image"], ["caption"])]
    with Image.open(drawing.folder / "flow-generated_image.png") as sheet:
        assert sheet.size == (GAP + 2 * (96 + GAP), GAP + 96 + GAP)


def test_a_dataset_is_declared_with_the_values_and_fields_that_are_drawn() -> None:
    observer = Pictures(value="reconstruction", beside=["image"], dataset="held_out")

    assert observer.draws() == [Draw(values=("reconstruction", "image"), dataset="held_out", fields=())]


def test_a_field_that_the_samples_hold_is_not_computed(told: Callable[..., Tell], drawing: Any) -> None:
    tell = told(Pictures(value="image", dataset="held_out"))

    end(tell, drawing)

    assert drawing.asked == [("held_out", 16)]


def test_pictures_come_every_few_epochs_and_the_last_is_drawn_once(told: Callable[..., Tell], drawing: Any) -> None:
    tell = told(Pictures(value="generated_image", prompts=PROMPTS, every=2))

    end(tell, drawing, epochs=4)

    assert len(drawing.asked) == 2
    assert files(drawing.folder) == [
        "samples/vae_warmup_001_002_HASH-generated_image.png",
        "samples/vae_warmup_001_004_HASH-generated_image.png",
        "vae_warmup-generated_image.png",
    ]


def test_only_the_named_steps_are_drawn(told: Callable[..., Tell], drawing: Any) -> None:
    tell = told(Pictures(value="generated_image", prompts=PROMPTS, steps=["flow"], every=1))

    end(tell, drawing, step=0)
    end(tell, drawing, epochs=1, step=1)

    assert files(drawing.folder) == ["flow-generated_image.png", "samples/flow_002_001_HASH-generated_image.png"]


def test_two_observers_of_one_value_keep_their_files_apart(told: Callable[..., Tell], drawing: Any) -> None:
    observers = [Pictures(value="generated_image", prompts=prompts) for prompts in (PROMPTS, PROMPTS[::-1])]
    named = Pictures(value="generated_image", prompts=PROMPTS, name="generated-again")

    for _ in range(2):  # as a run does that goes on from the checkpoint before its step's end
        end(told(*observers, named), drawing)

    assert len(list((drawing.folder / "samples").iterdir())) == 3
    latest = sorted(p.name for p in drawing.folder.glob("*.png"))
    assert len(latest) == 3
    assert latest[0] == "vae_warmup-generated-again.png"
    assert latest[1].startswith("vae_warmup-generated_image-")
    assert latest[2] == "vae_warmup-generated_image.png"


def test_a_picture_of_someone_else_is_left_alone(told: Callable[..., Tell], drawing: Any) -> None:
    foreign = drawing.folder / "vae_warmup-generated_image.png"
    foreign.write_bytes(b"mine")

    end(told(Pictures(value="generated_image", prompts=PROMPTS)), drawing)

    assert foreign.read_bytes() == b"mine"
    assert len(list(drawing.folder.glob("vae_warmup-generated_image-*.png"))) == 1


def test_steps_that_are_named_are_declared_with_what_is_drawn() -> None:
    observer = Pictures(value="generated_image", prompts=PROMPTS, steps=["flow", "vae"])

    assert [draw.steps for draw in observer.draws()] == [("flow", "vae")]


def test_a_step_that_is_not_there_is_refused_with_the_recipe(prove: Callable[..., RecipePlan]) -> None:
    text = TINY + "observers: {drawing: {type: pictures, value: reconstruction, dataset: shapes, steps: [vea]}}\n"

    with pytest.raises(RecipeError) as caught:
        prove(text)

    (problem,) = caught.value.problems
    assert problem.message == "observer `drawing` draws in step `vea`, but the recipe has no such step"
    assert str(problem.where).endswith(f":{text.count(chr(10))}:{text.splitlines()[-1].index('vea') + 1}")
    assert problem.notes == (("nearest", "vae"), ("steps", "vae"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            torch.zeros(2, 8, 4, 4),
            r"cannot show `latent`: pictures are \[B, 3 or 1, H, W\], this is a tensor \[2, 8, 4, 4\]",
        ),
        (torch.tensor(1.0), r"this is a tensor \[\]"),
        (["a"], "this is a list"),
    ],
)
def test_what_is_no_picture_is_refused(value: Any, words: str) -> None:
    with pytest.raises(FluxflowError, match=words):
        pixels_of("latent", value)


@given(st.floats(-3, 3), st.sampled_from([1, 3]))
def test_shades_go_from_minus_one_to_one_and_stay_in_range(shade: float, channels: int) -> None:
    (pixels,) = pixels_of("image", torch.full((1, channels, 2, 2), shade))

    assert pixels.shape == (2, 2, 3)
    assert np.abs(pixels / 127.5 - 1 - np.clip(shade, -1, 1)).max() <= 1 / 255 + 1e-6


def test_a_pixel_that_is_not_a_number_is_black() -> None:
    (pixels,) = pixels_of("image", torch.full((1, 3, 2, 2), float("nan"), dtype=torch.bfloat16))

    assert not pixels.any()


@given(st.integers(1, 200), st.integers(1, 200))
def test_small_pictures_are_enlarged_by_whole_pixels(width: int, height: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)

    shown = np.asarray(enlarged(pixels))

    factor = shown.shape[0] // height
    assert min(shown.shape[:2]) >= 96 or factor * min(width, height) >= 96
    assert factor == 1 or (factor - 1) * min(width, height) < 96
    assert np.array_equal(shown, pixels.repeat(factor, 0).repeat(factor, 1))


@given(st.text(max_size=300), st.integers(40, 300))
def test_a_caption_stays_within_its_picture(text: str, width: int) -> None:
    font = ImageFont.load_default(11)

    lines = wrapped(text, width, font)

    assert len(lines) <= LINES
    assert all(font.getlength(line) <= width for line in lines)


def test_a_caption_that_is_too_long_ends_in_dots() -> None:
    font = ImageFont.load_default(11)

    assert wrapped("word " * 100, 96, font)[-1].endswith("...")
    assert wrapped("short", 96, font) == ["short"]
    assert wrapped("", 96, font) == []


@given(st.integers(1, 9), st.integers(1, 12))
def test_a_grid_holds_every_picture(samples: int, columns: int) -> None:
    shades = [np.full((96, 96, 3), 20 * index, dtype=np.uint8) for index in range(samples)]

    sheet = np.asarray(grid([Cell([shade]) for shade in shades], columns))

    across = min(samples, columns)
    for index in range(samples):
        y, x = (GAP + (96 + GAP) * place for place in divmod(index, across))
        assert (sheet[y : y + 96, x : x + 96] == 20 * index).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"value": "image"}, "give either a `dataset` or `prompts`"),
        ({"value": "image", "dataset": "a", "prompts": ["b"]}, "give either a `dataset` or `prompts`"),
        ({"value": "", "dataset": "a"}, "value"),
        ({"value": "image", "prompts": [""]}, "prompts"),
        ({"value": "image", "dataset": "a", "count": 0}, "count"),
        ({"value": "image", "dataset": "a", "columns": 0}, "columns"),
        ({"value": "image", "dataset": "a", "every": 0}, "every"),
        ({"value": "image", "dataset": "a", "name": "../out"}, "name"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Pictures(**options)


def test_the_hash_stands_for_what_is_drawn(told: Callable[..., Tell], drawing: Any) -> None:
    one = Pictures(value="generated_image", prompts=PROMPTS)
    same, other = evolve(one), evolve(one, columns=1)

    for observer in (one, same, other):
        end(told(observer), drawing, epochs=1)

    assert len(list((drawing.folder / "samples").iterdir())) == 2
