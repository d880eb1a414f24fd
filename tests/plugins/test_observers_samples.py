"""Samples have FluxFlow's file names, show the value of their suffix, and survive a stop to the last byte."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fluxflow_observers.images import context_images
from fluxflow_observers.samples import Samples, read_image
from fluxflow_registry import DataError, FluxflowError, Position
from fluxflow_registry.check.checker import check
from fluxflow_registry.engine.run.observers import ObservedRun
from fluxflow_registry.errors import RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.registry import Registry

from ..engine.conftest import StopAfter, start

Checker = Callable[..., RecipePlan]

RECIPE = """
recipe: 1
name: small
models:
  compressor: {type: compressor, latent_channels: 4, width: 8}
  expander: {type: expander, latent_channels: 4, width: 8}
  text_encoder: {type: text_transformer, width: 16, depth: 1, heads: 2, table_size: 32}
  flow_processor: {type: flow_transformer, latent_channels: 4, width: 16, depth: 1, heads: 2, text_width: 16}
datasets:
  shapes: {type: shapes, image_size: 16, length: 24}
sampler: {type: euler, steps: 2}
values:
  mean_latent: {type: latent, sample: false}
  mean_image: {type: reconstruction, with: {latent: mean_latent}}
observers:
  console: false
  jsonl: false
  report: false
  graphs: false
  samples:
    dataset: shapes
    count: 2
    images: [IMAGE]
    prompts: [a red circle]
    sizes: [16, [24, 16]]
    every_batches: 4
    reconstruction_mean: mean_image
    context: mean_latent
    without_context: null
    prior: null
defaults: {dataset: shapes, batch_size: 4, checkpoint_every: 4}
steps:
  vae:
    epochs: 2
    updates:
      vae:
        trains: [compressor, expander]
        losses: {l1: {}}
        optimizer: {type: AdamW, lr: 1.0e-2}
  flow:
    epochs: 1
    updates:
      flow:
        trains: [flow_processor, text_encoder]
        losses: {velocity: {}}
        optimizer: {type: AdamW, lr: 1.0e-2}
"""


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    """An image file."""
    return half_red(tmp_path / "half.png")


def half_red(path: Path) -> Path:
    """Write an image that is red on its left and blue on its right."""
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[:, :40, 0] = pixels[:, 40:, 2] = 255
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def recipe(prove: Checker, image_file: Path) -> RecipePlan:
    """The recipe, with one observer."""
    torch.set_num_threads(1)
    return prove(RECIPE.replace("IMAGE", str(image_file)))


@pytest.fixture(scope="module")
def whole(everything: Registry, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An uninterrupted run, in the folder of the image file that it reconstructs."""
    root = tmp_path_factory.mktemp("whole")
    half_red(root / "half.png")
    (root / "r.yaml").write_text(RECIPE.replace("IMAGE", str(root / "half.png")))
    return start(check(root / "r.yaml", everything), root / "runs").run


def files(folder: Path) -> dict[str, bytes]:
    """All samples of a run."""
    return {path.name: path.read_bytes() for path in sorted((folder / "samples").iterdir())}


def pixels(content: bytes) -> Any:
    from io import BytesIO

    with Image.open(BytesIO(content)) as image:
        return np.asarray(image).astype(int)


def test_samples_have_the_names_of_fluxflow_and_change_as_training_goes_on(whole: Any) -> None:
    found = files(whole.folder.path)

    places = {re.sub(r"[0-9a-f]{6}(?=[-_][a-z])", "HASH", name) for name in found}
    suffixes = ("-ctx", "-nr_o", "-original", "_ns_i", "_ns_o")
    assert places == {
        *(f"vae_001_00{e}{b}_HASH{s}.webp" for e in (1, 2) for b in ("", "_00004") for s in suffixes),
        *(f"flow_002_001{b}_HASH-generated.webp" for b in ("", "_00004")),
    }
    at_end = [name for name in found if name.startswith("vae_001_002_") and len(name.split("_")[3]) != 5]
    assert len([name for name in at_end if name.endswith("_ns_o.webp")]) == 4, "two samples, one file at two sizes"
    for name in at_end:
        before = found[name.replace("_002_", "_001_", 1)]
        assert (found[name] == before) == name.endswith(("-original.webp", "_ns_i.webp")), name


def test_each_suffix_shows_its_own_value(whole: Any) -> None:
    batch = ObservedRun(whole).peek("shapes", 2)
    computed = ObservedRun(whole).draw(["mean_image", "reconstruction"], batch)

    found = files(whole.folder.path)
    names = sorted({name.rsplit("_", 1)[-1][:6] for name in found if name.endswith("-original.webp")})
    shown = {name[12:]: pixels(content) for name, content in found.items() if name.startswith("vae_001_002_")}

    def closest(image: torch.Tensor, suffix: str) -> int:
        bytes_ = ((image.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
        same_size = [shown[f"{h}{suffix}.webp"] for h in names if shown[f"{h}{suffix}.webp"].shape[1] == 16]
        return min(int(np.abs(other - bytes_).max()) for other in same_size)

    for index in range(2):
        assert closest(batch["image"][index], "-original") == 0
        assert closest(batch["image"][index], "_ns_i") == 0
        assert closest(computed["mean_image"][index], "-nr_o") <= 1
        assert closest(computed["reconstruction"][index], "_ns_o") <= 1


@pytest.mark.parametrize(("batches", "accumulate"), [(2, 1), (4, 3), (10, 3)])
def test_a_run_that_is_stopped_and_resumed_has_the_same_files_to_the_last_byte(
    recipe: RecipePlan, prove: Checker, tmp_path: Path, batches: int, accumulate: int
) -> None:
    text = Path(recipe.recipe.path).read_text()
    settings = (f"defaults.accumulate={accumulate}", "defaults.checkpoint_every=1000")
    whole = start(prove(text, *settings), tmp_path / "whole").run

    start(prove(text, *settings), tmp_path / "cut", [StopAfter("batch_ended", batches)])
    again = start(prove(text, *settings), tmp_path / "cut").run

    assert files(again.folder.path) == files(whole.folder.path)


def test_sampling_that_is_interrupted_within_an_epoch_is_repeated_when_the_run_resumes(
    recipe: RecipePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = start(recipe, tmp_path / "whole").run
    calls, draw = [], ObservedRun.draw

    def stop_at_second_call(run: ObservedRun, values: Any, batch: Any) -> Any:
        calls.extend([values] if run.engine.live else [])  # calls before training try each size
        if len(calls) == 2:  # in the middle of the first samples
            run.engine.stopping = "SIGTERM"
        return draw(run, values, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ObservedRun, "draw", stop_at_second_call)
        stopped = start(recipe, tmp_path / "cut")
    left = files(stopped.run.folder.path)

    again = start(recipe, tmp_path / "cut").run

    assert stopped.stopped == Position(0, 0, 4, 4, 4)
    assert 0 < len(left) < len([name for name in files(whole.folder.path) if name.startswith("vae_001_001_00004")])
    assert files(again.folder.path) == files(whole.folder.path)


def test_each_file_has_a_description_of_its_input(whole: Any) -> None:
    found = set()
    for path in (whole.folder.path / "samples").glob("flow*"):
        with Image.open(path) as image:
            found.add((image.getexif()[270], image.size))

    assert found == {("prompt 'a red circle' at 16x16", (16, 16)), ("prompt 'a red circle' at 24x16", (24, 16))}


def test_sampling_does_not_change_training(whole: Any, prove: Checker, tmp_path: Path) -> None:
    silent = start(prove(RECIPE, "observers.samples=false"), tmp_path).run

    for name, model in whole.models.items():
        for key, value in model.state_dict().items():
            assert torch.equal(value, silent.models[name].state_dict()[key]), f"{name}.{key}"


def test_a_recipe_without_a_flow_still_writes_reconstructions(prove: Checker, image_file: Path, tmp_path: Path) -> None:
    text = RECIPE.replace("IMAGE", str(image_file))
    text = text[: text.index("  flow:\n")].replace("  flow_processor:", "  another:")

    run = start(prove(text), tmp_path / "runs").run

    assert {name.rsplit("_", 1)[0][:7] for name in files(run.folder.path)} == {"vae_001"}
    assert not [name for name in files(run.folder.path) if "generated" in name]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("observers.samples.context=mean_latnet", "observer `samples` requests `mean_latnet`, but nothing provides it"),
        ("observers.samples.dataset=shaeps", "`shaeps` is not a dataset of the recipe"),
        ("observers.samples.steps=[vea]", "draws in step `vea`, but the recipe has no such step"),
        ("observers.samples.sizes=[big]", "sizes"),
        ("observers.samples.sizes=[]", "`images` requires `sizes`"),
        ("observers.samples.count=0", "count"),
        ("observers.samples.quality=101", "quality"),
    ],
)
def test_samples_that_cannot_be_computed_are_rejected_with_the_recipe(
    prove: Checker, image_file: Path, setting: str, words: str
) -> None:
    with pytest.raises(RecipeError, match=re.escape(words)):
        prove(RECIPE.replace("IMAGE", str(image_file)), setting)


@pytest.mark.parametrize(
    "create",
    [
        lambda path: path.write_text("not an image"),
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.mkdir(),
        lambda path: None,
    ],
    ids=["text", "a pipe", "a device", "a folder", "nothing"],
)
def test_a_file_that_is_not_an_image_is_reported_before_training(
    create: Callable[[Path], Any], notifier: Callable[..., Any], run: Any, tmp_path: Path
) -> None:
    create(tmp_path / "no.png")
    notify = notifier(Samples(images=[str(tmp_path / "no.png")], sizes=[16]))

    with pytest.raises(DataError, match=r"no\.png  observer `samples` cannot read image `.*no\.png`"):
        notify("run_started", run, position=Position(), resumed=False)


@pytest.mark.parametrize("option", ["prompts", "images"])
def test_a_size_that_the_models_reject_is_reported_before_training(
    prove: Checker, image_file: Path, tmp_path: Path, option: str
) -> None:
    kept = {"prompts": "[a red circle]", "images": f"[{image_file}]"}
    removed = [f"observers.samples.{other}=[]" for other in kept if other != option]
    text = RECIPE.replace("IMAGE", str(image_file))
    checked = prove(text, "observers.samples.sizes=[16, 33]", *removed)

    with pytest.raises(FluxflowError, match=r"observer `samples` cannot compute .* at 33x33: "):
        start(checked, tmp_path / "out")

    assert not list((tmp_path / "out").rglob("checkpoints/0*"))


def test_a_recipe_without_models_for_any_sample_gets_a_warning(notifier: Callable[..., Any], run: Any) -> None:
    notifier(Samples(prompts=["a circle"]))("run_started", run, position=Position(), resumed=False)

    assert run.warnings == ["observer `samples` writes nothing: the recipe has no models for any of its values"]


def test_an_image_file_is_center_cropped_to_the_size(image_file: Path) -> None:
    found = read_image(str(image_file), 20, 20)

    assert found.shape == (3, 20, 20)
    assert torch.allclose(found[:, 10, 2], torch.tensor([1.0, -1.0, -1.0]), atol=0.01)
    assert torch.allclose(found[:, 10, 17], torch.tensor([-1.0, -1.0, 1.0]), atol=0.01)


def test_a_context_is_shown_by_its_principal_directions() -> None:
    across = torch.linspace(-1, 1, 8).expand(8, 8)
    context = torch.zeros(1, 6, 8, 8)
    context[0, 4], context[0, 1], context[0, 2] = 9 * across, 3 * across.T, 5.0

    shown = context_images(context, 16, 16)

    assert shown.shape == (1, 3, 16, 16)
    assert torch.allclose(shown[0, 0, ::2, ::2], across, atol=1e-5), "red is the strongest direction"
    assert torch.allclose(shown[0, 1, ::2, ::2], across.T, atol=1e-5)
    assert (shown[0, 2] == 0).all(), "nothing is left for blue"


def test_a_context_of_few_channels_is_shown_as_it_is_and_a_constant_one_is_gray() -> None:
    across = torch.linspace(2, 4, 4).expand(4, 4)

    shown = context_images(torch.stack([across, torch.full((4, 4), 7.0)])[None], 4, 4)

    assert torch.allclose(shown[0, 0], across - 3)
    assert (shown[0, 1:] == 0).all()


def test_a_context_of_another_shape_is_rejected() -> None:
    with pytest.raises(
        FluxflowError,
        match=r"cannot show `context`: an image batch has the shape \[B, C, H, W\], not a tensor \[2, 3\]",
    ):
        context_images(torch.zeros(2, 3), 4, 4)


@pytest.mark.parametrize("options", [{}, {"images": ["a.png"]}])
def test_options_without_inputs_or_sizes_are_rejected(options: Any) -> None:
    with pytest.raises(ValueError, match=r"at least one of `dataset`, `images`|`images` requires `sizes`"):
        Samples(**options)
