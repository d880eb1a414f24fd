"""Every unusual image of a scraped folder is read, or reported and left out; none ends a run."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from PIL.PngImagePlugin import PngInfo

from fluxflow_data.folder.dataset import Folder
from fluxflow_data.folder.samples import SUFFIXES
from fluxflow_data.images import FORMATS, crop_image, upright_size
from fluxflow_data.shards.dataset import WebDataset
from fluxflow_data.sizes import Size
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
    ]
    assert source.notes[-1] == "skipped 1 image of the folder that `captions.tsv` does not name"


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


LARGE = 3 << 20


def many_texts(info: PngInfo) -> None:
    for number in range(9):
        info.add_text(str(number), "x" * 1000)


TEXTS: dict[str, Callable[[PngInfo], None]] = {
    "a long text": lambda info: info.add_text("workflow", "x" * LARGE),
    "a long compressed text": lambda info: info.add_text("workflow", "x" * LARGE, zip=True),
    "a long international text": lambda info: info.add_itxt("workflow", "é" * LARGE, zip=True),
    "a long text after the pixels": lambda info: info.add(
        b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * LARGE), after_idat=True
    ),
    "many texts": many_texts,
    "a long color profile": lambda info: info.add(b"iCCP", b"big\0\0" + zlib.compress(b"x" * LARGE)),
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["folder", "folder, headers only", "webdataset"])
def test_texts_in_a_png_never_matter(kind: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 5000)  # 64 MiB take longer
    image, info = Image.radial_gradient("L").resize((40, 30)).convert("RGB"), PngInfo()
    TEXTS[text](info)
    files = {"a.png": encoded(image, "PNG", pnginfo=info)}

    if kind == "webdataset":
        shards = str(write_tar(tmp_path / "a.tar", members(files)))
        source: Any = WebDataset(shards=shards, image_size=8, bucket_multiple=2)()
    else:
        place = str(folder(tmp_path, files))
        source = Folder(path=place, image_size=8, bucket_multiple=2, verify=kind == "folder")()

    assert source.sizes().tolist() == [[40, 30]]
    height, width = source.batch([0], 0)["image"].shape[-2:]
    pixels = crop_image(encoded(image, "PNG"), Size(width, height))
    assert np.array_equal(crop_image(files["a.png"], Size(width, height)), pixels)


def sun_raster(image: Image.Image) -> bytes:
    """A file of a format that Pillow reads and does not write."""
    data = image.convert("L").tobytes()
    return struct.pack(">8I", 0x59A66A95, *image.size, 8, len(data), 1, 0, 0) + data


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_image_is_read_whatever_its_suffix(suffix: str, tmp_path: Path) -> None:
    image = Image.radial_gradient("L").resize((40, 30)).convert("1" if suffix == ".pbm" else "RGB")
    form = Image.registered_extensions()[suffix]
    content = sun_raster(image) if form == "SUN" else encoded(image, form)
    place = folder(tmp_path, {f"a{suffix}": content, f"b{suffix.upper()}": content})

    source = Folder(path=str(place), image_size=8)()

    assert [Path(source.name(index)).name for index in range(2)] == [f"a{suffix}", f"b{suffix.upper()}"]
    assert source.sizes().tolist() == [[40, 30]] * 2
    assert source.notes == []


def test_the_suffixes_are_those_of_the_formats_that_are_read() -> None:
    known = {suffix for suffix, form in Image.registered_extensions().items() if form in {*FORMATS, "MPO"}}

    assert known - set(SUFFIXES) == {".pfm"}, "its pixels have no known range"
    assert set(SUFFIXES) <= known


@pytest.mark.parametrize("captions", [None, "table.tsv"])
def test_files_that_are_not_read_are_counted_by_suffix(captions: str | None, tmp_path: Path) -> None:
    place = folder(tmp_path, many(2))
    for name in ("a.heic", "b.HEIC", "c.psd", "README", "0000.json", ".hidden.heic"):
        (place / name).write_bytes(b"x")
    (place / "table.tsv").write_text("".join(f"{name}\tcaption\n" for name in many(2)))

    source = Folder(path=str(place), captions=captions and str(place / captions), image_size=8)()

    texts, table = ("2 .txt, ", "") if captions else ("", "1 .tsv, ")
    assert source.notes == [
        f"ignored {7 if captions else 6} files whose names are not those of images: "
        f"2 .heic, {texts}1 .json, 1 .psd, {table}1 without a suffix"
    ]


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "PNG by XMP"])
def test_the_orientation_of_every_format_is_undone_in_the_pixels_and_in_the_size(form: str, number: int) -> None:
    image = Image.new("RGB", (40, 20), "blue")
    image.paste((255, 0, 0), (0, 0, 20, 10))
    undo: dict[int, Image.Transpose] = dict(
        zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2), strict=True)  # type: ignore[arg-type]
    )
    upright = image if number == 1 else image.transpose(undo[number])
    if form == "PNG by XMP":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", f'<x tiff:Orientation="{number}"/>')
        content = encoded(image, "PNG", pnginfo=info)
    else:
        exif = Image.Exif()
        exif[0x0112] = number
        content = encoded(image, form, exif=exif)

    pixels = crop_image(content, Size(*upright.size))

    assert upright_size(content) == upright_size(io.BytesIO(content)) == upright.size
    assert np.abs(pixels.astype(int) - np.asarray(upright)).mean() < 8
