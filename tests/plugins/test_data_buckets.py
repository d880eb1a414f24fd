"""Images of any shape are trained on in batches of one shape, and in smaller copies of them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fluxflow_data.folder.dataset import Folder
from fluxflow_data.image_dataset import ImageSource, smaller_copy
from fluxflow_data.images import crop_image, upright_size
from fluxflow_data.shards import sample_table
from fluxflow_data.shards.dataset import WebDataset
from fluxflow_data.sizes import Size, bucket_sizes, nearest_buckets, reduced_size
from fluxflow_registry.engine.data.batches import epoch_batches
from fluxflow_registry.engine.data.order import batches_per_epoch
from fluxflow_registry.errors import Place

from .shard_files import write_tar

#: Widths and heights of the images in the dataset.
SIZES = [(64, 64), (40, 120), (120, 40), (90, 60), (60, 90), (64, 60), (200, 40), (70, 64), (100, 70), (30, 45)]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXFLOW_HOME", str(tmp_path / "home"))


def encoded(width: int, height: int, form: str = "PNG", **save: Any) -> bytes:
    """An image whose left half is red and whose right half is blue."""
    image = Image.new("RGB", (width, height), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, width // 2, height))
    stream = io.BytesIO()
    image.save(stream, form, **save)
    return stream.getvalue()


def open_source(kind: str, tmp_path: Path, copies: int = 4, **options: Any) -> ImageSource:
    """A source of images of all sizes, each several times, from a folder or from a shard."""
    options = {"image_size": 64, "bucket_multiple": 16} | options
    members: dict[str, bytes] = {}
    for number, (width, height) in enumerate(SIZES * copies):
        members[f"{number:03}.png"] = encoded(width, height)
        members[f"{number:03}.txt"] = f"{width} x {height}".encode()
    if kind == "webdataset":
        return WebDataset(shards=str(write_tar(tmp_path / "a.tar", members)), **options)()
    (tmp_path / "images").mkdir()
    for name, data in members.items():
        (tmp_path / "images" / name).write_bytes(data)
    return Folder(path=str(tmp_path / "images"), **options)()


BOTH = pytest.mark.parametrize("kind", ["folder", "webdataset"])


@given(side=st.integers(1, 40), multiple=st.sampled_from([1, 8, 16, 32, 64]), longest=st.floats(1, 8))
def test_buckets_are_multiples_within_the_area_of_the_square_and_come_in_pairs(
    side: int, multiple: int, longest: float
) -> None:
    side *= multiple

    sizes = bucket_sizes(side, multiple, longest)

    assert Size(side, side) in sizes
    assert {Size(size.height, size.width) for size in sizes} == set(sizes)
    for size in sizes:
        assert size.width % multiple == size.height % multiple == 0
        assert size.width * size.height <= side * side
        assert max(size.width, size.height) <= longest * min(size.width, size.height)
    aspects = [size.width / size.height for size in sizes]
    assert aspects == sorted(set(aspects))


def test_the_buckets_of_a_known_resolution() -> None:
    assert list(map(str, bucket_sizes(256, 32, 2.0))) == [
        "192 x 320",
        "224 x 288",
        "256 x 256",
        "288 x 224",
        "320 x 192",
    ]
    assert bucket_sizes(100, None, 2.0) == (Size(100, 100),)


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1, max_size=20))
def test_an_image_goes_to_the_bucket_nearest_in_aspect(images: list[tuple[int, int]]) -> None:
    buckets = bucket_sizes(256, 32, 2.0)

    numbers = nearest_buckets(np.array(images), buckets)

    def distance(image: tuple[int, int], bucket: Size) -> float:
        return abs(math.log(image[0] / image[1]) - math.log(bucket.width / bucket.height))

    for image, number in zip(images, numbers, strict=True):
        assert distance(image, buckets[number]) <= min(distance(image, b) for b in buckets) + 1e-12


def test_an_image_of_unknown_size_goes_to_the_square() -> None:
    buckets = bucket_sizes(64, 16, 2.0)

    assert [str(buckets[number]) for number in nearest_buckets(np.array([[0, 0], [0, 9]]), buckets)] == ["64 x 64"] * 2


@BOTH
def test_every_batch_is_full_and_of_the_shape_nearest_to_its_images(kind: str, tmp_path: Path) -> None:
    source = open_source(kind, tmp_path)
    count = batches_per_epoch(source, "data", 4, None, Place("here"))

    batches = list(epoch_batches(source, 4, count, 0, 0, ("step", 0)))

    shapes = set()
    for batch in batches:
        image = batch.fields["image"]
        shapes.add((image.shape[3], image.shape[2]))
        assert len(image) == 4
        for caption in batch.fields["caption"]:
            width, height = map(int, caption.split(" x "))
            (number,) = nearest_buckets(np.array([[width, height]]), bucket_sizes(64, 16, 2.0))
            assert source.bucket_name(number) == f"{image.shape[3]} x {image.shape[2]}"
    assert shapes == {(48, 80), (64, 64), (80, 48)}
    assert len({index for batch in batches for index in batch.indices}) == 4 * count


@BOTH
def test_every_shape_that_a_batch_can_have_is_declared(kind: str, tmp_path: Path) -> None:
    source = open_source(kind, tmp_path, reduced_min_sizes=[32, 48])
    field = source.options.fields()["image"]

    count = batches_per_epoch(source, "data", 4, None, Place("here"))
    shown = [
        tuple(source.view(batch.fields, batch.view)["image"].shape[1:])
        for batch in epoch_batches(source, 4, count, 0, 0, ("step", 0))
    ]

    assert field.shape == (3, 64, 64)
    assert set(shown) == {field.shape, *field.also}
    assert [shown[place : place + 3][-1] in {(3, 64, 64), (3, 80, 48), (3, 48, 80)} for place in (0, 3, 6)] == [
        True
    ] * 3


def test_an_image_covers_its_bucket_and_the_rest_is_cropped_evenly() -> None:
    tall, wide = crop_image(encoded(100, 300), Size(48, 80)), crop_image(encoded(300, 100), Size(48, 80))

    for pixels in (tall, wide):
        assert pixels.shape == (80, 48, 3)
        assert pixels[:, :20, 0].min() > 250
        assert pixels[:, 28:, 2].min() > 250


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize(("orientation", "expected"), [(1, (30, 20)), (3, (30, 20)), (6, (20, 30)), (8, (20, 30))])
def test_the_size_in_a_header_is_that_of_the_upright_image(
    form: str, orientation: int, expected: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(30, 20, form, exif=exif)

    assert upright_size(content) == expected


@BOTH
def test_sizes_come_from_headers_without_decoding_an_image(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    source = open_source(kind, tmp_path, copies=1, **({"verify": False} if kind == "folder" else {}))

    assert source.sizes().tolist() == [list(size) for size in SIZES]


def test_the_headers_of_the_images_in_a_shard_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_source("webdataset", tmp_path, copies=1)
    measured: list[str] = []
    monkeypatch.setattr(sample_table, "measure", lambda path, _: measured.append(path))

    second = WebDataset(shards=str(tmp_path / "a.tar"), image_size=64, bucket_multiple=16)()

    assert measured == []
    assert second.sizes().tolist() == first.sizes().tolist() == [list(size) for size in SIZES]


def test_a_header_after_long_exif_is_found_and_a_file_that_is_not_an_image_has_no_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_table, "HEADER", 64)
    exif = Image.Exif()
    exif[0x010E] = "x" * 4000
    members = {"a.jpg": encoded(30, 20, "JPEG", exif=exif), "b.jpg": b"not an image", "c.jpg": b""}
    members |= {f"{key}.txt": b"caption" for key in "abc"}

    source = WebDataset(shards=str(write_tar(tmp_path / "a.tar", members)), image_size=64, bucket_multiple=16)()

    assert source.sizes().tolist() == [[30, 20], [0, 0], [0, 0]]


@BOTH
def test_without_buckets_all_are_squares_and_any_may_be_in_one_batch(kind: str, tmp_path: Path) -> None:
    source = open_source(kind, tmp_path, copies=1, bucket_multiple=None)

    image = source.batch(range(10), 0)["image"]

    assert source.buckets is None
    assert torch.as_tensor(image).shape == (10, 3, 64, 64)


def test_a_batch_of_samples_of_several_buckets_is_refused(tmp_path: Path) -> None:
    source = open_source("folder", tmp_path, copies=1)

    with pytest.raises(ValueError, match=r"a batch cannot mix samples of several buckets \(48 x 80, 64 x 64\)"):
        source.batch([0, 1], 0)


def test_copies_are_made_of_the_same_batch_and_the_last_view_is_the_batch_itself(tmp_path: Path) -> None:
    source = open_source("folder", tmp_path, copies=1, reduced_min_sizes=[48, 16])
    fields = source.batch([0], 0)

    shown = [source.view(fields, number) for number in range(source.views)]

    assert [tuple(view["image"].shape) for view in shown] == [(1, 3, 16, 16), (1, 3, 48, 48), (1, 3, 64, 64)]
    assert all(view["caption"] == fields["caption"] for view in shown)
    assert shown[-1]["image"] is fields["image"]
    for view in shown[:-1]:
        side = view["image"].shape[-1]
        assert view["image"][..., : side // 2 - 3].sub(torch.tensor([1.0, -1, -1]).view(3, 1, 1)).abs().max() < 0.1


def test_a_fine_pattern_is_averaged_in_a_copy() -> None:
    stripes = torch.where(torch.arange(64) % 4 == 0, 1.0, -1.0).expand(1, 3, 64, 64)

    copy = smaller_copy(stripes, Size(16, 16))

    assert (copy[..., 2:-2] + 0.5).abs().max() < 0.05
    assert torch.equal(copy, smaller_copy(torch.cat([stripes, stripes * 0.5]), Size(16, 16))[:1])


@given(
    size=st.sampled_from(bucket_sizes(512, 64, 2.0)),
    side=st.sampled_from([64, 128, 256, 448]),
    multiple=st.sampled_from([64]),
)
def test_a_copy_of_a_bucket_is_smaller_and_of_multiples_too(size: Size, side: int, multiple: int) -> None:
    copy = reduced_size(size, side, 512, multiple)

    assert copy.width % multiple == copy.height % multiple == 0
    assert copy.width <= size.width
    assert copy.height <= size.height
    assert reduced_size(Size(512, 512), side, 512, multiple) == Size(side, side)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bucket_multiple": 48}, r"`image_size` is 64, not a multiple of `bucket_multiple` \(48\)"),
        ({"bucket_multiple": 0}, "bucket_multiple"),
        ({"bucket_aspect": 0.5}, "bucket_aspect"),
        ({"reduced_min_sizes": [64]}, r"contains 64: use less than `image_size` \(64\)"),
        ({"reduced_min_sizes": [0]}, "contains 0: use less than"),
        ({"reduced_min_sizes": [32, 32]}, "contains a size twice"),
        (
            {"reduced_min_sizes": [24], "bucket_multiple": 16},
            r"contains 24, not a multiple of `bucket_multiple` \(16\)",
        ),
    ],
)
@pytest.mark.parametrize("kind", [Folder, WebDataset])
def test_options_that_do_not_fit_together_are_refused(
    kind: Callable[..., Any], options: dict[str, Any], words: str
) -> None:
    needed = {"path": "x"} if kind is Folder else {"shards": "x"}

    with pytest.raises(ValueError, match=words):
        kind(**needed, image_size=64, **options)
