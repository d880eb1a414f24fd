"""The folder dataset decodes every kind of image to what a viewer shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fluxflow_data.folder.dataset import Folder, FolderSource
from fluxflow_data.image_dataset import flip_chance
from fluxflow_data.images import crop_image
from fluxflow_data.sizes import Size
from fluxflow_registry import DataError

WHITE, RED, BLUE = (255, 255, 255), (255, 0, 0), (0, 0, 255)


def images(source: FolderSource, indices: Sequence[int], seed: int = 0) -> torch.Tensor:
    """The images of a batch."""
    image = source.batch(indices, seed)["image"]
    assert isinstance(image, torch.Tensor)
    return image


def corners(image: torch.Tensor) -> list[tuple[int, ...]]:
    """The colors of the upper left, upper right and lower left pixels, of 255."""
    eight = ((image + 1) * 127.5).round().int()
    return [tuple(eight[:, y, x].tolist()) for y, x in ((0, 0), (0, -1), (-1, 0))]


def test_a_batch_holds_squares_in_minus_one_to_one_and_captions(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), "black").save(tmp_path / "b.png")
    Image.new("RGB", (20, 40), "white").save(tmp_path / "a.PNG")
    (tmp_path / "a.txt").write_text("  all\n white \n")
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfall black")

    dataset = Folder(path=str(tmp_path), image_size=16, caption_prefix="a photo")
    source = dataset()
    image = images(source, [1, 0])

    assert len(source) == 2
    assert image.shape == (2, *(dataset.fields()["image"].shape or ()))
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    assert image.amin(dim=(1, 2, 3)).tolist() == [-1.0, 1.0]
    assert image.amax(dim=(1, 2, 3)).tolist() == [-1.0, 1.0]
    assert source.batch([1, 0], seed=0)["caption"] == ["a photo. all black", "a photo. all white"]


def test_images_need_no_captions_where_the_recipe_allows_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (20, 20), "black").save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("all black")

    with pytest.raises(
        DataError, match=r"(?s)image `b.png` has no caption.*`uncaptioned: true` if no captions are needed"
    ):
        Folder(path=str(tmp_path))()
    plain = Folder(path=str(tmp_path), uncaptioned=True)()
    prefixed = Folder(path=str(tmp_path), uncaptioned=True, caption_prefix="a photo")()

    assert plain.batch([0, 1], 0)["caption"] == ["all black", ""]
    assert prefixed.batch([0, 1], 0)["caption"] == ["a photo. all black", "a photo"]


def test_a_captions_file_excludes_uncaptioned_images() -> None:
    with pytest.raises(ValueError, match="`uncaptioned` is true, but `captions` names a file: remove one of them"):
        Folder(path="x", captions="x.txt", uncaptioned=True)


def test_captions_come_from_one_file_of_lines_with_a_tab(tmp_path: Path) -> None:
    (tmp_path / "images" / "inner").mkdir(parents=True)
    for name in ("one.png", "inner/two.png", "inner/café.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    (tmp_path / "images" / ".thumbnail.png").write_bytes(b"hidden")
    table = tmp_path / "captions.txt"
    table.write_bytes("one.png\tfirst\r\n\n  \n./inner/two.png \t second\tpart \ninner/cafe\u0301.png\tthird".encode())

    source = Folder(path=str(tmp_path / "images"), captions=str(table), image_size=8)()

    assert source.batch(range(3), seed=0)["caption"] == ["third", "second part", "first"]


def gradient(width: int, height: int) -> Image.Image:
    """Red in the upper left quarter, blue elsewhere."""
    image = Image.new("RGB", (width, height), BLUE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    return image


def save_orientation(number: int) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = number
        upright = gradient(32, 32)
        stored = {1: upright, 3: upright.rotate(180), 6: upright.rotate(90), 8: upright.rotate(270)}[number]
        stored.save(path.with_suffix(".png"), exif=exif)

    return save


def save_rgba(path: Path) -> None:
    image = Image.new("RGBA", (32, 32), (0, 255, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 16, 16))
    image.save(path.with_suffix(".png"))


def save_palette(path: Path) -> None:
    image = Image.new("P", (32, 32), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.paste(0, (0, 0, 16, 16))
    image.save(path.with_suffix(".png"), transparency=bytes([255, 0]))


def save_color_key(path: Path) -> None:
    image = Image.new("RGB", (32, 32), (1, 2, 3))
    image.paste(RED, (0, 0, 16, 16))
    image.save(path.with_suffix(".png"), transparency=(1, 2, 3))


def save_animation(path: Path, suffix: str) -> None:
    frames = [gradient(32, 32), Image.new("RGB", (32, 32), "green")]
    frames[0].save(path.with_suffix(suffix), save_all=True, append_images=frames[1:], lossless=True)


KINDS: dict[str, tuple[Callable[[Path], object], list[tuple[int, ...]]]] = {
    "upright": (save_orientation(1), [RED, BLUE, BLUE]),
    "upside down": (save_orientation(3), [RED, BLUE, BLUE]),
    "on its left side": (save_orientation(6), [RED, BLUE, BLUE]),
    "on its right side": (save_orientation(8), [RED, BLUE, BLUE]),
    "with alpha": (save_rgba, [RED, WHITE, WHITE]),
    "palette with alpha": (save_palette, [RED, WHITE, WHITE]),
    "color key": (save_color_key, [RED, WHITE, WHITE]),
    "animated GIF": (lambda path: save_animation(path, ".gif"), [RED, BLUE, BLUE]),
    "animated WebP": (lambda path: save_animation(path, ".webp"), [RED, BLUE, BLUE]),
    "one bit": (lambda path: Image.new("1", (32, 32), 1).save(path.with_suffix(".png")), [WHITE] * 3),
    "gray": (lambda path: Image.new("L", (9, 9), 100).save(path.with_suffix(".png")), [(100, 100, 100)] * 3),
    "gray with alpha": (lambda path: Image.new("LA", (9, 9), (7, 0)).save(path.with_suffix(".png")), [WHITE] * 3),
    "one pixel": (lambda path: Image.new("RGB", (1, 1), RED).save(path.with_suffix(".bmp")), [RED] * 3),
    "very wide": (lambda path: Image.new("RGB", (30_000, 1), RED).save(path.with_suffix(".png")), [RED] * 3),
    "TIFF": (lambda path: gradient(32, 32).save(path.with_suffix(".tif")), [RED, BLUE, BLUE]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_decoded_to_what_a_viewer_shows(kind: str, tmp_path: Path) -> None:
    save, expected = KINDS[kind]
    save(tmp_path / "a.any")
    (tmp_path / "a.txt").write_text("caption")

    source = Folder(path=str(tmp_path), image_size=32)()

    assert corners(images(source, [0])[0]) == expected


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bits_are_scaled_and_not_clipped(suffix: str, tmp_path: Path) -> None:
    levels = np.array([0, 257, 32_896, 65_535], dtype=np.uint16).reshape(2, 2)
    Image.fromarray(levels).save(tmp_path / f"a{suffix}")
    (tmp_path / "a.txt").write_text("caption")

    pixels = crop_image((tmp_path / f"a{suffix}").read_bytes(), Size(2, 2))
    source = Folder(path=str(tmp_path), image_size=2)()

    assert pixels[..., 0].tolist() == [[0, 1], [128, 255]]
    assert images(source, [0]).shape == (1, 3, 2, 2)


def test_a_cmyk_ink_darkens(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)

    pixels = crop_image((tmp_path / "a.jpg").read_bytes(), Size(8, 8))

    assert np.abs(pixels.astype(int) - RED).max() <= 3


def test_an_image_with_unreadable_exif_is_read(tmp_path: Path) -> None:
    gradient(32, 32).save(tmp_path / "a.png", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f")
    (tmp_path / "a.txt").write_text("caption")

    source = Folder(path=str(tmp_path), image_size=32)()

    assert corners(images(source, [0])[0]) == [RED, BLUE, BLUE]


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.tuples(*[st.integers(0, 255)] * 3))
def test_one_color_stays_that_color_at_any_size(
    width: int, height: int, size: int, color: tuple[int, int, int]
) -> None:
    from io import BytesIO

    stream = BytesIO()
    Image.new("RGB", (width, height), color).save(stream, "PNG")

    pixels = crop_image(stream.getvalue(), Size(size, size))

    assert pixels.shape == (size, size, 3)
    assert np.array_equal(np.unique(pixels.reshape(-1, 3), axis=0), [color])


def test_the_short_side_is_resized_before_the_center_is_cropped(tmp_path: Path) -> None:
    image = Image.new("RGB", (300, 100), BLUE)
    image.paste(RED, (100, 0, 200, 100))
    image.save(tmp_path / "a.png")

    pixels = crop_image((tmp_path / "a.png").read_bytes(), Size(10, 10))
    whole = np.asarray(image.resize((30, 10), Image.Resampling.LANCZOS))[:, 10:20]

    assert np.array_equal(pixels, whole)


def test_a_fine_pattern_is_averaged_when_it_is_scaled_down(tmp_path: Path) -> None:
    board = (np.indices((512, 512)).sum(axis=0) % 2 * 255).astype(np.uint8)
    for suffix in ("png", "jpg"):
        Image.fromarray(board).convert("RGB").save(tmp_path / f"a.{suffix}")

        pixels = crop_image((tmp_path / f"a.{suffix}").read_bytes(), Size(16, 16))

        assert np.abs(pixels[1:-1, 1:-1].astype(int) - 127).max() <= 4


def test_a_large_jpeg_is_as_good_when_it_is_decoded_at_a_smaller_scale(tmp_path: Path) -> None:
    image = Image.radial_gradient("L").resize((1024, 1024)).convert("RGB")
    image.save(tmp_path / "a.jpg", quality=95)
    image.save(tmp_path / "a.png")

    fast = crop_image((tmp_path / "a.jpg").read_bytes(), Size(32, 32)).astype(int)
    exact = crop_image((tmp_path / "a.png").read_bytes(), Size(32, 32)).astype(int)

    assert np.abs(fast - exact).max() <= 4


@given(st.integers(0, 2**63), st.integers(0, 2**40), st.integers(0, 2**40))
def test_the_flip_chance_of_a_sample_depends_on_seed_and_index(seed: int, index: int, other: int) -> None:
    assert 0.0 <= flip_chance(seed, index) < 1.0
    assert flip_chance(seed, index) == flip_chance(seed, index)
    assert (flip_chance(seed, index) == flip_chance(seed, other)) == (index == other)


def test_flip_chances_are_uniform() -> None:
    chances = np.array([flip_chance(7, index) for index in range(4000)])

    assert np.histogram(chances, bins=8, range=(0, 1))[0] == pytest.approx(500, abs=100)


def test_a_flip_depends_on_seed_and_index_and_not_on_the_batch(tmp_path: Path) -> None:
    for index in range(12):
        gradient(16, 16).save(tmp_path / f"{index:02}.png")
        (tmp_path / f"{index:02}.txt").write_text("caption")
    source = Folder(path=str(tmp_path), image_size=16, flip=0.5)()

    together = images(source, range(12), seed=3)
    alone = [images(source, [index], seed=3) for index in range(12)]
    later = images(source, range(12), seed=4)

    assert all(torch.equal(together[index], single[0]) for index, single in enumerate(alone))
    flipped = [corners(image) == [BLUE, RED, BLUE] for image in together]
    assert flipped == [flip_chance(3, index) < 0.5 for index in range(12)]
    assert not torch.equal(together, later)


@pytest.mark.parametrize(("flip", "expected"), [(0.0, [RED, BLUE, BLUE]), (1.0, [BLUE, RED, BLUE])])
def test_a_certain_flip_always_happens_and_an_impossible_one_never(
    flip: float, expected: list[tuple[int, ...]], tmp_path: Path
) -> None:
    gradient(16, 16).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("caption")
    source = Folder(path=str(tmp_path), image_size=16, flip=flip)()

    for seed in range(8):
        assert corners(images(source, [0], seed)[0]) == expected


def test_a_comment_in_an_image_changes_nothing(tmp_path: Path) -> None:
    note = PngInfo()
    note.add_text("comment", "x" * 1000, zip=True)
    gradient(16, 16).save(tmp_path / "a.png", pnginfo=note)

    pixels = crop_image((tmp_path / "a.png").read_bytes(), Size(16, 16))

    assert np.array_equal(pixels, np.asarray(gradient(16, 16)))
