"""Every unusual image of a scraped folder is read, or reported and left out; none ends a run."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fluxflow_data.folder.dataset import Folder
from fluxflow_data.shards.dataset import WebDataset
from fluxflow_registry import DataError, SampleError
from fluxflow_registry.plan.steps import RecipePlan

from ..engine.conftest import start
from ..engine.test_resume import Listener
from ..small import VAE_GAN
from .shard_files import write_tar

Checker = Callable[..., RecipePlan]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXFLOW_HOME", str(tmp_path / "home"))


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def unusual() -> dict[str, bytes]:
    """Images that are read, by file name."""
    color = Image.radial_gradient("L").resize((40, 30)).convert("RGB")
    gray16 = Image.fromarray((np.arange(1200).reshape(30, 40) * 50).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [color.convert("P"), color.rotate(90).convert("P")]
    return {
        "plain.jpg": encoded(color, "JPEG"),
        "rgba.png": encoded(color.convert("RGBA"), "PNG"),
        "gray.jpg": encoded(color.convert("L"), "JPEG"),
        "palette.png": encoded(color.convert("P"), "PNG"),
        "sixteen.png": encoded(gray16, "PNG"),
        "cmyk.jpg": encoded(color.convert("CMYK"), "JPEG"),
        "turned.jpg": encoded(color, "JPEG", exif=exif),
        "webp.webp": encoded(color, "WEBP"),
        "moving.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "pixel.png": encoded(Image.new("RGB", (1, 1), "red"), "PNG"),
        "wide.png": encoded(Image.new("RGB", (10_000, 12), "red"), "PNG"),
        "misnamed.png": encoded(color, "JPEG"),
    }


def broken() -> dict[str, tuple[bytes, str]]:
    """Files that are not intact images, by name, and the start of the message about each."""
    whole = encoded(Image.effect_noise((64, 64), 90), "PNG")
    return {
        "empty.png": (b"", "is empty (0 bytes)"),
        "text.png": (b"<html>404 not found</html>", "is not an image in a supported format"),
        "cut.png": (whole[: len(whole) // 2], "is damaged: "),
    }


def members(files: dict[str, bytes]) -> dict[str, bytes]:
    captions = {f"{Path(name).stem}.txt": b"a caption" for name in files}
    return {**files, **captions}


def folder(tmp_path: Path, files: dict[str, bytes]) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for name, data in members(files).items():
        (images / name).write_bytes(data)
    return images


@pytest.mark.parametrize("multiple", [None, 8])
@pytest.mark.parametrize("kind", ["folder", "webdataset"])
def test_every_unusual_image_is_read(kind: str, multiple: int | None, tmp_path: Path) -> None:
    options: dict[str, Any] = {"image_size": 32, "bucket_multiple": multiple, "bucket_aspect": 4.0}
    if kind == "folder":
        source: Any = Folder(path=str(folder(tmp_path, unusual())), **options)()
    else:
        keys = "jpg;png;webp;gif"
        shards = str(write_tar(tmp_path / "a.tar", members(unusual())))
        source = WebDataset(shards=shards, image_key=keys, **options)()

    images = {source.name(index): torch.as_tensor(source.batch([index], 0)["image"]) for index in range(len(source))}

    assert len(images) == len(unusual())
    for name, image in images.items():
        assert torch.isfinite(image).all(), name
        assert image.shape[-1] * image.shape[-2] <= 32 * 32
    if multiple:
        by_stem = {Path(name.replace(":", "/")).stem: tuple(image.shape[-2:]) for name, image in images.items()}
        assert by_stem["turned"][0] > by_stem["turned"][1], "EXIF rotates it upright"
        assert by_stem["plain"][0] < by_stem["plain"][1]
        assert by_stem["wide"] == (16, 64)


def many(count: int) -> dict[str, bytes]:
    """So many intact images that three broken ones are few."""
    return {
        f"{number:04}.png": encoded(Image.new("RGB", (8, 8), (number % 256, 0, 0)), "PNG") for number in range(count)
    }


def test_a_few_damaged_images_of_many_are_reported_and_left_out(tmp_path: Path) -> None:
    files = many(300) | {name: data for name, (data, _) in broken().items()}
    place = folder(tmp_path, files)

    source = Folder(path=str(place), image_size=8)()

    assert len(source) == 300
    messages = {str(problem.subject): problem.message for problem in source.left_out}
    assert messages.keys() == broken().keys()
    assert all(messages[name].startswith(f"image `{name}` {words}") for name, (_, words) in broken().items())
    assert torch.as_tensor(source.batch(range(300), 0)["image"]).shape[0] == 300


def test_bad_lines_of_a_long_captions_file_are_left_out_with_their_numbers(tmp_path: Path) -> None:
    place = folder(tmp_path, many(200))
    lines = [f"{name}\tcaption of {name}" for name in many(200)]
    lines[17] = "0017.png has no tab"
    (tmp_path / "captions.tsv").write_text("\n".join(lines))

    source = Folder(path=str(place), captions=str(tmp_path / "captions.tsv"), image_size=8, damaged_at_most=0.02)()

    assert len(source) == 199
    assert [(Path(str(p.where)).name, p.message) for p in source.left_out] == [
        ("captions.tsv:18", "line 18 of `captions.tsv` has no tab between name and caption"),
        ("0017.png", f"image `0017.png` has no caption in `{tmp_path}/captions.tsv`"),
    ]


def test_too_many_damaged_images_are_refused_with_a_hint_on_how_to_leave_them_out(tmp_path: Path) -> None:
    files = many(97) | {name: data for name, (data, _) in broken().items()}
    place = folder(tmp_path, files)

    with pytest.raises(DataError) as caught:
        Folder(path=str(place), image_size=8)()
    accepted = Folder(path=str(place), image_size=8, damaged_at_most=0.03)()

    assert len(caught.value.problems) == 3
    assert "set `damaged_at_most: 0.03` to leave out the damaged images (3 of 100)" in str(caught.value)
    assert len(accepted) == 97


def test_a_folder_without_an_intact_image_is_refused_whatever_share_may_be_damaged(tmp_path: Path) -> None:
    place = folder(tmp_path, {name: data for name, (data, _) in broken().items()})

    with pytest.raises(DataError, match=r"is empty \(0 bytes\)"):
        Folder(path=str(place), damaged_at_most=1.0)()


def test_a_damaged_image_in_a_shard_is_reported_when_it_is_read(tmp_path: Path) -> None:
    files = {name: data for name, (data, _) in broken().items()} | many(1)
    source = WebDataset(shards=str(write_tar(tmp_path / "a.tar", members(files))), image_size=8, bucket_multiple=8)()

    with pytest.raises(SampleError) as caught:
        source.batch(range(4), 0)

    messages = {problem.subject: problem.message for problem in caught.value.problems}
    keys = {Path(name).stem: words for name, (_, words) in broken().items()}
    assert messages.keys() == keys.keys()
    assert all(messages[key].startswith(f"the image of sample `{key}` {words}") for key, words in keys.items())


def test_a_run_trains_without_the_damaged_images_and_reports_them(prove: Checker, tmp_path: Path) -> None:
    place = folder(tmp_path, many(12) | {name: data for name, (data, _) in broken().items()})
    dataset = f"datasets.shapes={{type: folder, path: '{place}', image_size: 16, damaged_at_most: 0.5}}"
    warnings: list[str] = []

    done = start(
        prove(VAE_GAN, dataset, "steps.vae_gan.epochs=1", "observers={console: false}"),
        tmp_path / "runs",
        [Listener(warnings)],
    )

    assert done.stopped is None
    assert len(warnings) == 1
    assert warnings[0].startswith("dataset `shapes`: skipped 3 damaged samples\n")
    assert all(name in warnings[0] for name in broken())
