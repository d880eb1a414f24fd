"""Everything that is wrong with a folder is reported at once, and each problem names the file."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from PIL import Image

from fluxflow_data.folder.dataset import Folder
from fluxflow_data.shards.dataset import WebDataset
from fluxflow_registry import DataError, Place, Problem, SampleError


def problems_in(folder: Path, **options: object) -> dict[str, Problem]:
    """The problem with each file, by the last part of its location (`a.png`, `captions.txt:3`)."""
    with pytest.raises(DataError) as caught:
        Folder(path=str(folder), **options)()  # type: ignore[arg-type]
    return {str(problem.where).rsplit("/", 1)[-1]: problem for problem in caught.value.problems}


def messages(folder: Path, **options: object) -> dict[str, str]:
    """The message about each file."""
    return {file: problem.message for file, problem in problems_in(folder, **options).items()}


def save_image(path: Path, caption: str | None = "caption") -> Path:
    """Save an intact image of noise, with a caption beside it."""
    noise = random.Random(path.name).randbytes(64 * 64 * 3)
    Image.frombytes("RGB", (64, 64), noise).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path


def test_a_missing_folder_and_a_missing_captions_file_are_reported_together(tmp_path: Path) -> None:
    problems = problems_in(tmp_path / "nowhere", captions=str(tmp_path / "captions.txt"))

    assert {file: problem.message for file, problem in problems.items()} == {
        "nowhere": "folder `nowhere` does not exist",
        "captions.txt": "captions file `captions.txt` does not exist",
    }
    assert {problem.code for problem in problems.values()} == {"missing-file"}


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"PK")

    assert messages(tmp_path / "data.zip") == {
        "data.zip": "cannot read the images of `data.zip`: it is a file, not a folder"
    }


def test_a_folder_without_images_is_reported_with_the_supported_suffixes(tmp_path: Path) -> None:
    for name in ("notes.txt", "1.HEIC", "2.heic"):
        (tmp_path / name).write_text("not an image")

    (problem,) = problems_in(tmp_path).values()

    assert (problem.code, problem.message) == ("empty-dataset", f"folder `{tmp_path.name}` contains no images")
    assert dict(problem.notes)["hint"].startswith("add images whose names end in .apng, .avif, ")
    assert dict(problem.notes)["status"] == "ignored 3 files whose names are not those of images: 2 .heic, 1 .txt"


def test_every_bad_line_of_a_captions_file_is_reported_with_its_number(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    save_image(folder / "good.png", None)
    save_image(folder / "forgotten.png", None)
    save_image(tmp_path / "secret.png", None)
    lines = [
        b"good.png\tfine",
        b"",
        b"good.png no tab",
        b"\tno name",
        b"good2.png\t",
        b"goood.png\tmisspelled",
        b"../secret.png\tout",
        str(tmp_path / "secret.png").encode() + b"\tout",
        b"C:\\images\\a.png\tout",
        b"./good.png\tagain",
        b"good.png\t\xe9t\xe9",
    ]
    table = tmp_path / "captions.txt"
    table.write_bytes(b"\n".join(lines))

    with pytest.raises(DataError) as caught:
        Folder(path=str(folder), captions=str(table))()

    problems = {p.where: p for p in caught.value.problems}
    assert [(str(p.where).removeprefix(f"{tmp_path}/"), p.code, p.message) for p in problems.values()] == [
        ("captions.txt:3", "malformed-line", "line 3 of `captions.txt` has no tab between name and caption"),
        ("captions.txt:4", "malformed-line", "line 4 of `captions.txt` has no image name before the tab"),
        ("captions.txt:5", "missing-caption", "the caption of image `good2.png` is empty"),
        ("captions.txt:6", "missing-file", "image `goood.png` does not exist in the folder"),
        ("captions.txt:7", "malformed-line", "image `../secret.png` is outside the folder"),
        ("captions.txt:8", "malformed-line", f"image `{tmp_path}/secret.png` is outside the folder"),
        ("captions.txt:9", "malformed-line", "image `C:\\images\\a.png` is outside the folder"),
        ("captions.txt:11", "malformed-line", "line 11 of `captions.txt` is not UTF-8 (first invalid byte: 10)"),
    ]
    missing = problems[Place(str(table), 6)]
    assert (missing.subject, missing.nearest) == ("goood.png", "good.png")
    assert dict(problems[Place(str(table), 3)].notes) == {
        "received": "good.png no tab",
        "hint": "set `damaged_at_most: 0.8` to leave out the damaged images (8 of 10)",
    }


def test_captions_beside_images_must_exist_and_be_utf_8_with_words(tmp_path: Path) -> None:
    save_image(tmp_path / "none.png", None)
    save_image(tmp_path / "blank.png", " \n")
    save_image(tmp_path / "latin.png").with_suffix(".txt").write_bytes("un été".encode("latin-1"))
    save_image(tmp_path / "wide.png").with_suffix(".txt").write_bytes("caption".encode("utf-16"))

    problems = problems_in(tmp_path)

    assert {file: (problem.code, problem.subject, problem.message) for file, problem in problems.items()} == {
        "none.png": ("missing-caption", "none.png", "image `none.png` has no caption"),
        "blank.txt": ("missing-caption", "blank.png", "the caption of image `blank.png` is empty"),
        "latin.txt": (
            "unreadable-file",
            "latin.png",
            "the caption of image `latin.png` is not UTF-8 (first invalid byte: 4)",
        ),
        "wide.txt": ("unreadable-file", "wide.png", "the caption of image `wide.png` is UTF-16: save it as UTF-8"),
    }


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tif", "ppm"])
def test_a_truncated_image_is_found_when_the_folder_is_opened(suffix: str, tmp_path: Path) -> None:
    path = save_image(tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])

    problem = problems_in(tmp_path)[path.name]

    assert (problem.code, problem.subject) == ("damaged-sample", path.name)
    assert problem.message.startswith(f"image `{path.name}` is ")


def test_a_flipped_bit_in_a_png_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)

    assert messages(tmp_path)["a.png"].startswith("image `a.png` is damaged: ")


@pytest.mark.parametrize("verify", [True, False])
def test_a_file_that_is_not_an_image_is_found_by_its_first_bytes(verify: bool, tmp_path: Path) -> None:
    for name, content in (("empty", b""), ("text", b"<html>not found</html>")):
        (tmp_path / f"{name}.png").write_bytes(content)
        (tmp_path / f"{name}.txt").write_text("caption")
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "script.txt").write_text("caption")

    assert messages(tmp_path, verify=verify) == {
        "empty.png": "image `empty.png` is empty (0 bytes)",
        "text.png": "image `text.png` is not an image in a supported format",
        "script.png": "image `script.png` is not an image in a supported format",
    }


def test_without_verification_a_damaged_image_is_reported_when_it_is_read(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png")
    gone = save_image(tmp_path / "b.png")
    save_image(tmp_path / "c.png")
    path.write_bytes(path.read_bytes()[:6000])
    source = Folder(path=str(tmp_path), verify=False)()
    gone.unlink()

    with pytest.raises(SampleError) as caught:
        source.batch([2, 1, 0], seed=0)

    first, second = caught.value.samples[0], caught.value.samples[1]
    assert len(caught.value.samples) == 2
    assert (source.name(0), source.name(1)) == (str(first.where), str(second.where))
    assert (str(first.where), str(second.where)) == (str(path), str(gone))
    assert first.message.startswith("image `a.png` is damaged: ")
    assert (second.code, second.message) == ("missing-file", "image `b.png` no longer exists")


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("limit", [3000, 1000])
def test_a_decompression_bomb_is_reported_with_the_limit(
    verify: bool, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)

    (problem,) = problems_in(tmp_path, verify=verify).values()

    assert (problem.code, problem.message) == (
        "unsupported-image",
        f"image `a.png` is too large: more than {limit:,} pixels",
    )
    assert dict(problem.notes)["hint"] == "scale it down"


def test_pixels_of_unknown_range_are_refused(tmp_path: Path) -> None:
    for name, mode, value in (("float", "F", 0.5), ("long", "I", 70_000)):
        Image.new(mode, (4, 4), value).save(tmp_path / f"{name}.tif")
        (tmp_path / f"{name}.txt").write_text("caption")

    problems = problems_in(tmp_path)

    assert {file: problem.message for file, problem in problems.items()} == {
        "float.tif": "image `float.tif` has floating-point pixels, whose range is unknown",
        "long.tif": "image `long.tif` has 32-bit pixels, whose range is unknown",
    }
    assert {problem.code for problem in problems.values()} == {"unsupported-image"}
    assert ("hint", "save it with 8 or 16 bits per channel") in problems["long.tif"].notes


def test_problems_with_captions_and_with_images_are_in_one_report(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", None)
    save_image(tmp_path / "b.png").write_bytes(b"")

    assert messages(tmp_path) == {
        "a.png": "image `a.png` has no caption",
        "b.png": "image `b.png` is empty (0 bytes)",
    }


def test_two_problems_with_one_image_are_reported_as_one(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", None).write_bytes(b"")
    save_image(tmp_path / "b.png")
    save_image(tmp_path / "c.png", None)

    with pytest.raises(DataError) as caught:
        Folder(path=str(tmp_path), damaged_at_most=0.6)()
    source = Folder(path=str(tmp_path), damaged_at_most=0.7)()

    first, second = caught.value.problems
    assert first.message == "image `a.png` has no caption"
    assert ("see also", f"{first.where}  image `a.png` is empty (0 bytes)") in first.notes
    assert first.notes[-1] == ("hint", "set `damaged_at_most: 0.67` to leave out the damaged images (2 of 3)")
    assert [problem.where for problem in source.left_out] == [first.where, second.where]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_utf_8_is_reported_in_printable_characters(tmp_path: Path) -> None:
    import os

    with open(os.fsencode(tmp_path) + b"/\xff\x1b[31m.png", "wb"):
        pass

    (problem,) = problems_in(tmp_path).values()
    assert "".join(str(problem).splitlines()).isprintable()
    assert r"image `\xff\x1b[31m.png` has no caption" in str(problem)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": ""}, "path"),
        ({"path": "x", "captions": ""}, "captions"),
        ({"path": "x", "image_size": 0}, "image_size"),
        ({"path": "x", "flip": 1.5}, "flip"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Folder(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b", "a" * 5000], ids=["NUL", "surrogate", "long"])
def test_a_path_that_no_file_can_have_is_reported(name: str, tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", None)

    with pytest.raises(DataError) as folder:
        Folder(path=name)()
    with pytest.raises(DataError) as captions:
        Folder(path=str(tmp_path), captions=name)()
    with pytest.raises(DataError) as classes:
        WebDataset(shards="a" * 5000, class_names=name)()

    assert [str(problem.where) for problem in folder.value.problems] == [name]
    assert [str(problem.where) for problem in captions.value.problems] == [name]
    assert [str(problem.where) for problem in classes.value.problems] == [name, "a" * 5000]


def test_the_home_of_an_unknown_user_is_reported_as_a_missing_folder() -> None:
    with pytest.raises(DataError) as caught:
        Folder("~no-such-user/images", captions="~no-such-user/captions.txt")()

    assert list(map(str, caught.value.problems)) == [
        "~no-such-user/images  folder `images` does not exist",
        "~no-such-user/captions.txt  captions file `captions.txt` does not exist",
    ]
