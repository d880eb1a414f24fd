"""An image of a large folder is checked once, and again only where it has changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fluxflow_data import images as images_module
from fluxflow_data.folder import size_cache
from fluxflow_data.folder.dataset import Folder
from fluxflow_registry import DataError, Notice


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLUXFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(size_cache, "WORTH_KEEPING", 3)
    return tmp_path / "home"


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are checked."""
    names: list[str] = []

    def measure_images(paths: Sequence[Path], *others: Any) -> Any:
        names.extend(path.name for path in paths)
        return images_module.measure_images(paths, *others)

    monkeypatch.setattr(size_cache, "measure_images", measure_images)
    return names


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (10 + number, 20)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("caption")
    return folder


def sizes(folder: Path, **options: Any) -> list[list[int]]:
    sizes: list[list[int]] = Folder(path=str(folder), damaged_at_most=0.5, **options)().sizes().tolist()
    return sizes


ALL = [[10 + number, 20] for number in range(5)]


def test_a_second_opening_checks_no_image_and_has_the_same_sizes(checked: list[str], images: Path) -> None:
    first = sizes(images)
    seen = list(checked)
    checked.clear()

    second = sizes(images)

    assert first == second == ALL
    assert seen == [f"{number}.png" for number in range(5)]
    assert checked == []


def test_only_changed_new_and_damaged_images_are_checked_again(checked: list[str], images: Path) -> None:
    (images / "3.png").write_bytes(b"damaged")
    sizes(images)
    checked.clear()
    Image.new("RGB", (77, 20)).save(images / "1.png")
    os.utime(images / "2.png", (1, 1))
    Image.new("RGB", (9, 9)).save(images / "9.png")
    (images / "9.txt").write_text("caption")

    found = sizes(images)

    assert checked == ["1.png", "2.png", "3.png", "9.png"]
    assert found == [[10, 20], [77, 20], [12, 20], [14, 20], [9, 9]]


def test_damage_is_reported_each_time(images: Path) -> None:
    (images / "3.png").write_bytes(b"damaged")

    for _ in range(2):
        with pytest.raises(DataError, match=r"3\.png  image `3\.png` is not an image in a supported format"):
            Folder(path=str(images))()


def test_images_whose_headers_were_read_are_verified_later(checked: list[str], images: Path) -> None:
    sizes(images, verify=False)
    checked.clear()

    sizes(images, verify=True)

    assert len(checked) == 5


@pytest.mark.parametrize("how", ["cut", "flipped", "in the way"])
def test_a_damaged_cache_is_not_used(how: str, checked: list[str], images: Path, home: Path) -> None:
    sizes(images)
    checked.clear()
    (kept,) = home.rglob("*.survey")
    content = bytearray(kept.read_bytes())
    if how == "cut":
        kept.write_bytes(content[:-3])
    elif how == "flipped":
        content[-1] ^= 1
        kept.write_bytes(content)
    else:
        kept.unlink()
        (kept / "deep").mkdir(parents=True)

    with pytest.warns(Notice, match="cannot cache the index of the data in ") if how == "in the way" else nullcontext():
        assert sizes(images) == ALL
    assert len(checked) == 5


def test_the_sizes_of_a_small_folder_are_not_kept(images: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_cache, "WORTH_KEEPING", 1000)

    sizes(images)

    assert not home.exists()
