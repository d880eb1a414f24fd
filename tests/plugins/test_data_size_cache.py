"""A picture of a large folder is looked at once, and again only where it has changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fluxflow_data.folder import size_cache
from fluxflow_data.folder.dataset import Folder
from fluxflow_data.images import loading
from fluxflow_registry import DataError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLUXFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(size_cache, "WORTH_KEEPING", 3)
    return tmp_path / "home"


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that are looked at."""
    names: list[str] = []

    def noted(paths: Sequence[Path], whole: bool) -> Any:
        names.extend(path.name for path in paths)
        return loading.surveyed(paths, whole)

    monkeypatch.setattr(size_cache, "surveyed", noted)
    return names


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (10 + number, 20)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("caption")
    return folder


def sizes(folder: Path, **options: Any) -> list[list[int]]:
    found: list[list[int]] = Folder(path=str(folder), damaged_at_most=0.5, **options)().sizes().tolist()
    return found


ALL = [[10 + number, 20] for number in range(5)]


def test_a_second_opening_looks_at_no_picture_and_knows_as_much(looked: list[str], pictures: Path) -> None:
    first = sizes(pictures)
    seen = list(looked)
    looked.clear()

    second = sizes(pictures)

    assert first == second == ALL
    assert seen == [f"{number}.png" for number in range(5)]
    assert looked == []


def test_only_what_has_changed_or_is_new_or_was_damaged_is_looked_at(looked: list[str], pictures: Path) -> None:
    (pictures / "3.png").write_bytes(b"damaged")
    sizes(pictures)
    looked.clear()
    Image.new("RGB", (77, 20)).save(pictures / "1.png")
    os.utime(pictures / "2.png", (1, 1))
    Image.new("RGB", (9, 9)).save(pictures / "9.png")
    (pictures / "9.txt").write_text("caption")

    found = sizes(pictures)

    assert looked == ["1.png", "2.png", "3.png", "9.png"]
    assert found == [[10, 20], [77, 20], [12, 20], [14, 20], [9, 9]]


def test_damage_is_told_each_time(pictures: Path) -> None:
    (pictures / "3.png").write_bytes(b"damaged")

    for _ in range(2):
        with pytest.raises(DataError, match=r"3\.png  is not a picture"):
            Folder(path=str(pictures))()


def test_pictures_whose_first_bytes_were_read_are_not_taken_for_verified(looked: list[str], pictures: Path) -> None:
    sizes(pictures, verify=False)
    looked.clear()

    sizes(pictures, verify=True)

    assert len(looked) == 5


@pytest.mark.parametrize("how", ["cut", "flipped", "in the way"])
def test_what_is_kept_and_damaged_is_as_good_as_nothing(
    how: str, looked: list[str], pictures: Path, home: Path
) -> None:
    sizes(pictures)
    looked.clear()
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

    assert sizes(pictures) == ALL
    assert len(looked) == 5


def test_of_a_small_folder_nothing_is_kept(pictures: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_cache, "WORTH_KEEPING", 1000)

    sizes(pictures)

    assert not home.exists()
