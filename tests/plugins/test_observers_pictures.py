"""Contact sheets show the requested values in the requested steps, and never overwrite each other."""

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
from PIL import Image

from fluxflow_observers.images import image_batch
from fluxflow_observers.pictures import Pictures
from fluxflow_registry import Choices, Draw, Ending, FluxflowError, Position, to_pixels
from fluxflow_registry.engine.images import GAP, LINE
from fluxflow_registry.errors import RecipeError
from fluxflow_registry.plan.steps import RecipePlan

from ..recipes import TINY

Notify = Callable[..., None]

PROMPTS = ["a red circle", "a blue square"]


def end(notify: Notify, run: Any, epochs: int = 2, step: int = 0) -> None:
    """End the epochs of a step, and the step."""
    facts = run.steps[step]
    for epoch in range(1, epochs + 1):
        place = Position(step, epoch, 0, epoch * facts.batches, epoch * facts.batches)
        notify("epoch_ended", run, step=facts, position=place, summaries={})
    notify("step_ended", run, step=facts, position=place, ending=Ending("finished"))


def files(folder: Path) -> list[str]:
    """The files of a run, the hash in their names replaced."""
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*.*") if p.is_file()]
    return sorted(name if "_" not in name.rsplit("/", 1)[-1] else _without_hash(name) for name in names)


def _without_hash(name: str) -> str:
    head, _, tail = name.partition("-")
    return f"{head[:-6]}HASH-{tail}" if name.startswith("samples/") else name


@pytest.fixture
def sampling(run: Any) -> Any:
    """A run that reconstructs white images as black ones."""
    run.samples = {"image": torch.ones(20, 3, 32, 32), "caption": [f"sample {index}" for index in range(20)]}
    run.values = {"reconstruction": torch.full((4, 3, 32, 32), -1.0), "generated_image": torch.zeros(2, 3, 32, 32)}
    return run


def test_a_value_is_shown_below_the_values_beside_it_with_captions_under_both(
    notifier: Callable[..., Notify], sampling: Any
) -> None:
    observer = Pictures(value="reconstruction", beside=["image"], dataset="held_out", count=4, columns=2)
    notify = notifier(observer)

    end(notify, sampling)

    assert sampling.requests == [("held_out", 4), (["reconstruction"], ["caption", "image"])]
    assert files(sampling.folder) == [
        "samples/vae_warmup_001_002_HASH-reconstruction.png",
        "vae_warmup-reconstruction.png",
    ]
    sheet = np.asarray(Image.open(sampling.folder / "vae_warmup-reconstruction.png"))
    height = 2 * (96 + GAP) + LINE
    assert sheet.shape == (GAP + 2 * (height + GAP), GAP + 2 * (96 + GAP), 3)
    for top in (GAP, GAP + height + GAP):
        assert (sheet[top : top + 96, GAP : GAP + 96] == 255).all()
        assert (sheet[top + 96 + GAP : top + 2 * 96 + GAP, GAP : GAP + 96] == 0).all()
        assert (sheet[top + 2 * (96 + GAP) : top + height] < 128).any(), "a caption is written there"


def test_prompts_are_generated_from_their_captions_alone(notifier: Callable[..., Notify], sampling: Any) -> None:
    observer = Pictures(value="generated_image", prompts=PROMPTS, labels=False)
    notify = notifier(observer)

    end(notify, sampling, step=1)

    assert observer.draws() == [Draw(values=("generated_image",), dataset=None, fields=("caption",))]
    assert sampling.requests == [(["generated_image"], ["caption"])]
    with Image.open(sampling.folder / "flow-generated_image.png") as sheet:
        assert sheet.size == (GAP + 2 * (96 + GAP), GAP + 96 + GAP)


def test_a_dataset_is_declared_with_the_values_and_fields_to_show() -> None:
    observer = Pictures(value="reconstruction", beside=["image"], dataset="held_out")

    assert observer.draws() == [Draw(values=("reconstruction", "image"), dataset="held_out", fields=())]


def test_a_field_that_the_samples_hold_is_not_computed(notifier: Callable[..., Notify], sampling: Any) -> None:
    notify = notifier(Pictures(value="image", dataset="held_out"))

    end(notify, sampling)

    assert sampling.requests == [("held_out", 16)]


def test_sheets_are_written_every_few_epochs_and_the_last_is_computed_once(
    notifier: Callable[..., Notify], sampling: Any
) -> None:
    notify = notifier(Pictures(value="generated_image", prompts=PROMPTS, every=2))

    end(notify, sampling, epochs=4)

    assert len(sampling.requests) == 2
    assert files(sampling.folder) == [
        "samples/vae_warmup_001_002_HASH-generated_image.png",
        "samples/vae_warmup_001_004_HASH-generated_image.png",
        "vae_warmup-generated_image.png",
    ]


def test_only_the_named_steps_write_sheets(notifier: Callable[..., Notify], sampling: Any) -> None:
    notify = notifier(Pictures(value="generated_image", prompts=PROMPTS, steps=["flow"], every=1))

    end(notify, sampling, step=0)
    end(notify, sampling, epochs=1, step=1)

    assert files(sampling.folder) == ["flow-generated_image.png", "samples/flow_002_001_HASH-generated_image.png"]


def test_two_observers_of_one_value_keep_their_files_apart(notifier: Callable[..., Notify], sampling: Any) -> None:
    observers = [Pictures(value="generated_image", prompts=prompts) for prompts in (PROMPTS, PROMPTS[::-1])]
    named = Pictures(value="generated_image", prompts=PROMPTS, name="generated-again")

    for _ in range(2):  # as in a run that resumes from a checkpoint before the end of its step
        end(notifier(*observers, named), sampling)

    assert len(list((sampling.folder / "samples").iterdir())) == 3
    latest = sorted(p.name for p in sampling.folder.glob("*.png"))
    assert len(latest) == 3
    assert latest[0] == "vae_warmup-generated-again.png"
    assert latest[1].startswith("vae_warmup-generated_image-")
    assert latest[2] == "vae_warmup-generated_image.png"


def test_a_file_that_somebody_else_wrote_is_left_alone(notifier: Callable[..., Notify], sampling: Any) -> None:
    foreign = sampling.folder / "vae_warmup-generated_image.png"
    foreign.write_bytes(b"mine")

    end(notifier(Pictures(value="generated_image", prompts=PROMPTS)), sampling)

    assert foreign.read_bytes() == b"mine"
    assert len(list(sampling.folder.glob("vae_warmup-generated_image-*.png"))) == 1


def test_named_steps_are_declared_with_the_values_to_show() -> None:
    observer = Pictures(value="generated_image", prompts=PROMPTS, steps=["flow", "vae"])

    assert [draw.steps for draw in observer.draws()] == [("flow", "vae")]


def test_a_step_that_does_not_exist_is_rejected_with_the_recipe(prove: Callable[..., RecipePlan]) -> None:
    text = TINY + "observers: {sheets: {type: pictures, value: reconstruction, dataset: shapes, steps: [vea]}}\n"

    with pytest.raises(RecipeError) as caught:
        prove(text)

    (problem,) = caught.value.problems
    assert problem.message == "observer `sheets` draws in step `vea`, but the recipe has no such step"
    assert str(problem.where).endswith(f":{text.count(chr(10))}:{text.splitlines()[-1].index('vea') + 1}")
    assert problem.choices == Choices("vae", ("vae",))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            torch.zeros(2, 8, 4, 4),
            r"cannot show `latent`: an image batch has the shape \[B, 1 or 3, H, W\], not a tensor \[2, 8, 4, 4\]",
        ),
        (torch.tensor(1.0), r"not a tensor \[\]"),
        (["a"], "not a list"),
    ],
)
def test_a_value_that_is_not_an_image_batch_is_rejected(value: Any, words: str) -> None:
    with pytest.raises(FluxflowError, match=words):
        image_batch("latent", value, "pictures")


@given(st.floats(-3, 3), st.sampled_from([1, 3]))
def test_shades_from_minus_one_to_one_become_bytes_and_stay_in_range(shade: float, channels: int) -> None:
    pixels = to_pixels(torch.full((channels, 2, 2), shade))

    assert pixels.shape == (2, 2, 3)
    assert np.abs(pixels / 127.5 - 1 - np.clip(shade, -1, 1)).max() <= 1 / 255 + 1e-6


def test_a_batch_of_images_becomes_bytes_at_once_before_it_leaves_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    images, moved, cpu = torch.linspace(-1.5, 1.5, 2 * 5 * 3 * 4 * 6).view(2, 5, 3, 4, 6), [], torch.Tensor.cpu

    def record(tensor: torch.Tensor) -> torch.Tensor:
        moved.append((tensor.dtype, tensor.shape))
        return cpu(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", record)
    pixels = to_pixels(images)

    assert moved == [(torch.uint8, images.shape)]
    assert pixels.shape == (2, 5, 4, 6, 3)
    assert np.array_equal(pixels[1, 2], to_pixels(images[1, 2]))


def test_a_nan_pixel_is_black() -> None:
    pixels = to_pixels(torch.full((3, 2, 2), float("nan"), dtype=torch.bfloat16))

    assert not pixels.any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"value": "image"}, "exactly one of `dataset` and `prompts` is required"),
        ({"value": "image", "dataset": "a", "prompts": ["b"]}, "exactly one of `dataset` and `prompts` is required"),
        ({"value": "", "dataset": "a"}, "value"),
        ({"value": "image", "prompts": [""]}, "prompts"),
        ({"value": "image", "dataset": "a", "count": 0}, "count"),
        ({"value": "image", "dataset": "a", "columns": 0}, "columns"),
        ({"value": "image", "dataset": "a", "every": 0}, "every"),
        ({"value": "image", "dataset": "a", "name": "../out"}, "name"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Pictures(**options)


def test_the_hash_identifies_the_options(notifier: Callable[..., Notify], sampling: Any) -> None:
    one = Pictures(value="generated_image", prompts=PROMPTS)
    same, other = evolve(one), evolve(one, columns=1)

    for observer in (one, same, other):
        end(notifier(observer), sampling, epochs=1)

    assert len(list((sampling.folder / "samples").iterdir())) == 2
