"""Everything that is wrong with a folder is told at once, each in words that name the file."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from PIL import Image

from fluxflow_data.folder.dataset import Folder
from fluxflow_registry import DataError, SampleError


def told(folder: Path, **options: object) -> dict[str, str]:
    """What is said of each place, by its last part (`a.png`, `captions.txt:3`)."""
    with pytest.raises(DataError) as caught:
        Folder(path=str(folder), **options)()  # type: ignore[arg-type]
    return {str(p.where).rsplit("/", 1)[-1]: p.message for p in caught.value.problems}


def picture(path: Path, caption: str | None = "caption") -> Path:
    """A sound picture of noise, with a caption beside it."""
    noise = random.Random(path.name).randbytes(64 * 64 * 3)
    Image.frombytes("RGB", (64, 64), noise).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path


def test_a_missing_folder_and_a_missing_captions_file_are_told_together(tmp_path: Path) -> None:
    assert told(tmp_path / "nowhere", captions=str(tmp_path / "captions.txt")) == {
        "nowhere": "there is no such folder",
        "captions.txt": "there is no such captions file",
    }


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"PK")

    assert told(tmp_path / "data.zip") == {"data.zip": "is a file, where a folder of pictures is expected"}


def test_a_folder_without_pictures_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")

    with pytest.raises(DataError, match=r"there are no pictures in this folder\n +looked for  \*\.bmp, .*\*\.webp"):
        Folder(path=str(tmp_path))()


def test_every_bad_line_of_a_captions_file_is_told_with_its_number(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    picture(folder / "good.png", None)
    picture(folder / "forgotten.png", None)
    picture(tmp_path / "secret.png", None)
    lines = [
        b"good.png\tfine",
        b"",
        b"good.png no tab",
        b"\tno name",
        b"good2.png\t",
        b"goood.png\tmisspelt",
        b"../secret.png\tout",
        str(tmp_path / "secret.png").encode() + b"\tout",
        b"C:\\pictures\\a.png\tout",
        b"./good.png\tagain",
        b"good.png\t\xe9t\xe9",
    ]
    table = tmp_path / "captions.txt"
    table.write_bytes(b"\n".join(lines))

    with pytest.raises(DataError) as caught:
        Folder(path=str(folder), captions=str(table))()

    found = [(str(p.where).removeprefix(f"{tmp_path}/"), p.message) for p in caught.value.problems]
    assert found == [
        ("captions.txt:3", "there is no tab between name and caption"),
        ("captions.txt:4", "there is no name before the tab"),
        ("captions.txt:5", "the caption of `good2.png` is empty"),
        ("captions.txt:6", "there is no file `goood.png` in the folder"),
        ("captions.txt:7", "`../secret.png` leads out of the folder"),
        ("captions.txt:8", f"`{tmp_path}/secret.png` leads out of the folder"),
        ("captions.txt:9", "`C:\\pictures\\a.png` leads out of the folder"),
        ("captions.txt:10", "`./good.png` has a caption already"),
        ("captions.txt:11", "the line is not UTF-8, from byte 10 on"),
        ("pictures/forgotten.png", f"has no caption in {table}"),
    ]
    notes = {p.message: dict(p.notes) for p in caught.value.problems}
    assert notes["there is no file `goood.png` in the folder"] == {"nearest": "good.png"}
    assert notes["`./good.png` has a caption already"] == {"first": f"{table}:1"}
    assert notes["there is no tab between name and caption"] == {
        "line": "good.png no tab",
        "or else": "`damaged_at_most: 0.91` leaves out what is damaged, and names it: 10 of 11",
    }


def test_captions_beside_pictures_must_be_there_and_say_something_in_utf_8(tmp_path: Path) -> None:
    picture(tmp_path / "none.png", None)
    picture(tmp_path / "blank.png", " \n")
    picture(tmp_path / "latin.png").with_suffix(".txt").write_bytes("un été".encode("latin-1"))
    picture(tmp_path / "wide.png").with_suffix(".txt").write_bytes("caption".encode("utf-16"))

    assert told(tmp_path) == {
        "none.png": "has no caption",
        "blank.txt": "the caption is empty",
        "latin.txt": "is not UTF-8, from byte 4 on",
        "wide.txt": "is UTF-16; captions are read as UTF-8",
    }


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tif", "ppm"])
def test_a_truncated_picture_is_found_when_the_folder_is_opened(suffix: str, tmp_path: Path) -> None:
    path = picture(tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])

    message = told(tmp_path)[path.name]

    assert message.startswith("is damaged: ") or message == "is not a picture"


def test_a_flipped_bit_in_a_png_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)

    assert "damaged" in told(tmp_path)["a.png"]


@pytest.mark.parametrize("verify", [True, False])
def test_what_is_no_picture_at_all_is_found_by_its_first_bytes(verify: bool, tmp_path: Path) -> None:
    for name, content in (("empty", b""), ("text", b"<html>not found</html>")):
        (tmp_path / f"{name}.png").write_bytes(content)
        (tmp_path / f"{name}.txt").write_text("caption")
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "script.txt").write_text("caption")

    assert told(tmp_path, verify=verify) == {
        "empty.png": "is empty: 0 bytes",
        "text.png": "is not a picture",
        "script.png": "is not a picture",
    }


def test_without_verifying_a_damaged_picture_is_named_when_it_is_reached(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    gone = picture(tmp_path / "b.png")
    picture(tmp_path / "c.png")
    path.write_bytes(path.read_bytes()[:6000])
    source = Folder(path=str(tmp_path), verify=False)()
    gone.unlink()

    with pytest.raises(SampleError) as caught:
        source.batch([2, 1, 0], seed=0)

    first, second = caught.value.samples[0], caught.value.samples[1]
    assert len(caught.value.samples) == 2
    assert (source.name(0), source.name(1)) == (str(first.where), str(second.where))
    assert (str(first.where), str(second.where)) == (str(path), str(gone))
    assert first.message.startswith("is damaged: ")
    assert second.message == "is not there"


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("limit", [3000, 1000])
def test_a_decompression_bomb_is_an_error_in_plain_words(
    verify: bool, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)

    found = told(tmp_path, verify=verify)

    assert found == {"a.png": f"is too large: more than {limit:,} pixels; scale it down"}


def test_pixels_whose_range_is_not_known_are_refused(tmp_path: Path) -> None:
    for name, mode, value in (("float", "F", 0.5), ("long", "I", 70_000)):
        Image.new(mode, (4, 4), value).save(tmp_path / f"{name}.tif")
        (tmp_path / f"{name}.txt").write_text("caption")

    assert told(tmp_path) == {
        "float.tif": "holds floating-point pixels, whose range is not known; save it with 8 or 16 bits",
        "long.tif": "holds 32-bit pixels, whose range is not known; save it with 8 or 16 bits",
    }


def test_problems_of_captions_and_of_pictures_come_in_one_report(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", None)
    picture(tmp_path / "b.png").write_bytes(b"")

    assert told(tmp_path) == {"a.png": "has no caption", "b.png": "is empty: 0 bytes"}


def test_a_picture_with_which_two_things_are_wrong_is_one_picture(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", None).write_bytes(b"")
    picture(tmp_path / "b.png")
    picture(tmp_path / "c.png", None)

    with pytest.raises(DataError) as caught:
        Folder(path=str(tmp_path), damaged_at_most=0.6)()
    source = Folder(path=str(tmp_path), damaged_at_most=0.7)()

    first, second = caught.value.problems
    assert (first.message, dict(first.notes)["besides"]) == ("has no caption", "is empty: 0 bytes")
    assert dict(first.notes)["or else"].endswith("2 of 3")
    assert [problem.where for problem in source.left_out] == [first.where, second.where]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_of_strange_bytes_is_told_in_printable_characters(tmp_path: Path) -> None:
    import os

    with open(os.fsencode(tmp_path) + b"/\xff\x1b[31m.png", "wb"):
        pass

    assert all(where.isprintable() for where in told(tmp_path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": ""}, "path"),
        ({"path": "x", "captions": ""}, "captions"),
        ({"path": "x", "image_size": 0}, "image_size"),
        ({"path": "x", "flip": 1.5}, "flip"),
    ],
)
def test_options_out_of_bounds_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Folder(**options)  # type: ignore[arg-type]


def test_the_home_of_a_user_whom_there_is_not_is_a_folder_that_there_is_not() -> None:
    with pytest.raises(DataError) as caught:
        Folder("~no-such-user/pictures", captions="~no-such-user/captions.txt")()

    told = [str(problem) for problem in caught.value.problems]
    assert told[0] == "~no-such-user/pictures  there is no such folder"
    assert "~no-such-user/captions.txt" in told[1]
