"""A pipe, a device or a file without an end is reported wherever a file of a dataset is read; nothing waits for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fluxflow_data import files
from fluxflow_data.folder import size_cache
from fluxflow_data.folder.dataset import Folder
from fluxflow_data.shards.dataset import WebDataset
from fluxflow_registry import DataError, Problem, SampleError

from .shard_files import captions_of, open_shards, sample, write_shard, write_tar


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)  # the path of a socket is short


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


def huge(path: Path) -> None:
    path.write_bytes(b"")
    os.truncate(path, 1 << 40)  # takes no space


NOT_REGULAR = "it is not a regular file"
SPECIAL: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a pipe": (os.mkfifo, NOT_REGULAR),
    "a link to a pipe": (lambda path: path.symlink_to(pipe(path)), NOT_REGULAR),
    "a link to /dev/zero": (lambda path: path.symlink_to("/dev/zero"), NOT_REGULAR),
    "a link to /dev/stdin": (lambda path: path.symlink_to("/dev/tty"), NOT_REGULAR),
    "a socket": (bind, NOT_REGULAR),
    "an endless file": (huge, "it has more than "),
}
EVERY = pytest.mark.parametrize("special", SPECIAL)


def pipe(path: Path) -> Path:
    target = path.with_name(f".{path.name}")
    os.mkfifo(target)
    return target


def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"about {name}")
    return folder


def replace(path: Path, special: str) -> str:
    """Put a special file in place of another; returns the words about it."""
    path.unlink()
    create, words = SPECIAL[special]
    create(path)
    return words


def problem_of(error: DataError) -> Problem:
    (problem,) = error.problems
    return problem


@EVERY
@pytest.mark.parametrize("large", [False, True], ids=["few images", "kept sizes"])
def test_in_place_of_an_image(special: str, large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_cache, "WORTH_KEEPING", 1 if large else 1000)
    folder = images(tmp_path)
    words = replace(folder / "a.png", special)

    with pytest.raises(DataError) as caught:
        Folder(path=str(folder), image_size=8)()

    assert problem_of(caught.value).message.startswith(f"cannot read image `a.png`: {words}")
    assert len(Folder(path=str(folder), image_size=8, damaged_at_most=0.5)()) == 1


@EVERY
def test_in_place_of_an_image_whose_header_alone_is_read(special: str, tmp_path: Path) -> None:
    folder = images(tmp_path)
    words = replace(folder / "a.png", special)

    with pytest.raises(DataError) as caught:
        Folder(path=str(folder), image_size=8, verify=False)()

    expected = (
        "image `a.png` is not an image" if special == "an endless file" else f"cannot read image `a.png`: {words}"
    )
    assert problem_of(caught.value).message.startswith(expected)


@EVERY
def test_in_place_of_an_image_after_opening(special: str, tmp_path: Path) -> None:
    folder = images(tmp_path)
    source = Folder(path=str(folder), image_size=8)()
    words = replace(folder / "a.png", special)

    with pytest.raises(SampleError) as caught:
        source.batch([0, 1], 0)

    assert problem_of(caught.value).message.startswith(f"cannot read image `a.png`: {words}")


@EVERY
def test_in_place_of_a_caption(special: str, tmp_path: Path) -> None:
    folder = images(tmp_path)
    words = replace(folder / "a.txt", special)

    with pytest.raises(DataError) as caught:
        Folder(path=str(folder), image_size=8)()

    assert problem_of(caught.value).message.startswith(f"cannot read the caption of image `a.png`: {words}")


@EVERY
@pytest.mark.parametrize("suffix", ["tsv", "csv", "json", "jsonl"])
def test_in_place_of_a_captions_file(special: str, suffix: str, tmp_path: Path) -> None:
    folder, table = images(tmp_path), tmp_path / f"captions.{suffix}"
    table.touch()
    words = replace(table, special)

    with pytest.raises(DataError) as caught:
        Folder(path=str(folder), captions=str(table), image_size=8)()

    assert problem_of(caught.value).message.startswith(f"cannot read captions file `captions.{suffix}`: {words}")


@EVERY
@pytest.mark.parametrize("written", ["{}/a.tar", "{}/*.tar", "{}/{{a,b}}.tar"])
def test_in_place_of_a_shard(special: str, written: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "b.tar", [1])
    (tmp_path / "a.tar").touch()
    replace(tmp_path / "a.tar", special)

    with pytest.raises(DataError) as caught:
        open_shards(written.format(tmp_path))

    endless = "is damaged: 1,099,511,627,776 bytes follow the block of zeros at byte 0 that ends it"
    expected = endless if special == "an endless file" else "is not a file: shards are tar files"
    assert problem_of(caught.value).message == f"shard `a.tar` {expected}"


@pytest.mark.parametrize("special", [each for each in SPECIAL if each != "an endless file"])
def test_in_place_of_a_shard_after_opening(special: str, tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", range(2))
    source = open_shards(path)
    replace(path, special)

    with pytest.raises(DataError, match=r"shard `a\.tar` (has changed since|cannot be read)"):
        source.batch([0], 0)


@EVERY
def test_in_place_of_the_names_of_classes(special: str, tmp_path: Path) -> None:
    path, names = write_shard(tmp_path / "a.tar", range(2)), tmp_path / "names.txt"
    names.touch()
    words = replace(names, special)

    with pytest.raises(DataError) as caught:
        open_shards(path, class_names=str(names))

    assert problem_of(caught.value).message.startswith(f"class names file `names.txt` cannot be read: {words}")


@EVERY
def test_in_place_of_a_kept_index(special: str, tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", range(2))
    open_shards(path)
    (kept,) = (tmp_path / "home").rglob("*.index")
    replace(kept, special)

    assert captions_of(open_shards(path)) == ["image 0", "image 1"]


@pytest.mark.parametrize(("part", "limit"), [("png", "IMAGE_BYTES"), ("txt", "CAPTION_BYTES")])
def test_a_member_of_a_shard_has_the_limits_of_a_file(
    part: str, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"fluxflow_data.shards.dataset.{limit}", 300)
    path = write_tar(tmp_path / "a.tar", {**sample(0), **sample(1), f"0001.{part}": b"x" * 301})
    source = open_shards(path)

    with pytest.raises(SampleError) as caught:
        source.batch([0, 1], 0)

    what = "the image of sample `0001`" if part == "png" else "member `txt` of sample `0001`"
    assert problem_of(caught.value).message == f"cannot read {what}: it has more than 300 bytes"


def test_a_file_that_grows_while_it_is_read_has_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 9)
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result([0o100000, 0, 0, 0, 0, 0, 1, 0, 0, 0]))

    with pytest.raises(OSError, match="it has more than 8 bytes"):
        files.read_limited(path, 8)


def test_a_link_to_a_missing_file_is_called_one_wherever_it_is(tmp_path: Path) -> None:
    folder = images(tmp_path)
    links = [folder / "a.png", folder / "b.txt", *(tmp_path / name for name in ("t.tsv", "s.tar", "names", "f"))]
    for link in links:
        link.unlink(missing_ok=True)
        link.symlink_to("/nowhere")
    write_shard(tmp_path / "ok.tar", range(2))
    is_link = "is a link to `/nowhere`, which does not exist"

    def messages(opening: Callable[[], Any]) -> list[str]:
        with pytest.raises(DataError) as caught:
            opening()
        return [problem.message for problem in caught.value.problems]

    assert sorted(messages(Folder(path=str(folder)))) == [
        f"image `a.png` {is_link}",
        f"the caption of image `b.png` {is_link}",
    ]
    assert messages(Folder(path=str(folder), captions=str(links[2]))) == [f"captions file `t.tsv` {is_link}"]
    assert messages(Folder(path=str(links[5]))) == [f"folder `f` {is_link}"]
    assert messages(WebDataset(shards=str(links[3]))) == [f"shard `s.tar` {is_link}"]
    named = WebDataset(shards=str(tmp_path / "ok.tar"), class_names=str(links[4]))
    assert messages(named) == [f"class names file `names` {is_link}"]
