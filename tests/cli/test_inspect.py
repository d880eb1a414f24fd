"""`--inspect-data` tells what is in each dataset before anything is trained, and shows its first pictures."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fluxflow_registry import Problem, SampleError
from fluxflow_registry.cli import inspect_data
from fluxflow_registry.cli.inspect_data import SIDE
from fluxflow_registry.engine.data.order import epoch_order
from fluxflow_registry.engine.data.survey import step_use, survey
from fluxflow_registry.engine.images import GAP

from ..recipes import TINY
from .conftest import Answer

Call = Callable[..., Answer]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe with a folder of three shapes of pictures, some damaged, and a dataset that only measures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(20):
        size = (32, 32) if number < 9 else (24, 48) if number < 18 else (96, 32)
        Image.new("RGB", size, (255, 0, 0) if number % 2 else (0, 0, 255)).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text("the same" if number in (3, 4, 5) else f"picture number {number}")
    (folder / "07.txt").write_text("a caption that is the longest by far")
    (folder / "empty.png").write_bytes(b"")
    (folder / "empty.txt").write_text("caption")
    cut = (folder / "12.png").read_bytes()
    (folder / "12.png").write_bytes(cut[:-30])
    dataset = (
        "{type: folder, path: pictures, image_size: 32, bucket_multiple: 8, reduced_min_sizes: [16], verify: false, "
        "damaged_at_most: 0.5, batch_size: 4}\n  held: {type: shapes, length: 50}"
    )
    text = TINY.replace("{type: shapes}", dataset)
    measured = "    evaluate: {seen: {dataset: held, metrics: {psnr: {}}}}\n"
    path = tmp_path / "r.yaml"
    path.write_text(text + measured)
    return path


def test_counts_buckets_captions_order_and_damage_are_reported(call: Call, recipe: Path) -> None:
    reported = call(recipe, "--inspect-data")

    assert reported.code == 0
    out = " ".join(reported.out.split())
    assert "dataset shapes (folder): 20 samples, and 1 left out" in out
    assert "float32 [3, 32, 32] or [3, 40, 24], [3, 24, 40], " in out
    assert "stored as 32 x 32 to 96 x 32, median 24 x 48" in out
    assert "bucket 24 x 40 9 samples bucket 32 x 32 9 samples bucket 40 x 24 2 samples" in out
    assert "step vae 4 batches of 4 in an epoch, each in 2 sizes" in out
    assert "per bucket 24 x 40: 2, 32 x 32: 2, 40 x 24: 0" in out
    assert "buckets with fewer than 4 samples are never trained on: 40 x 24 (2)" in out
    assert "36 at most (sample pictures/07.png) 3 of 19 occur more than once, such as 3 times `the same` " in out
    assert "1 left out (damaged or without a caption): pictures/empty.png image `empty.png` is empty" in out
    assert "1 sample cannot be read and will be replaced by others: pictures/12.png image `12.png` is damaged: " in out
    assert "dataset held (shapes): 50 samples field" in out
    assert "step vae evaluation seen uses 50 of 50 samples" in out


def test_the_reported_order_is_the_order_that_is_trained_on(call: Call, recipe: Path, prove: Any) -> None:

    reported = json.loads(call(recipe, "--inspect-data", "--json").out)

    from fluxflow_registry.engine.data.opening import open_sources

    source = open_sources(prove(recipe.read_bytes()), fill_batches=False)["shapes"]
    order = epoch_order(source, 4, (0, "vae", "shapes", 0)).tolist()
    assert reported["shapes"]["uses"][0]["first"] == [source.name(index) for index in order[:8]]  # type: ignore[attr-defined]


def test_sizes_of_the_same_area_are_told_apart(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "phone"
    folder.mkdir()
    for name in "abc":
        image = Image.effect_noise((60, 44), 64)
        exif = image.getexif()
        exif[0x0112] = 6 if name == "b" else 1  # the second one is a portrait
        image.save(folder / f"{name}.jpg", exif=exif)
    text = TINY.replace("{type: shapes}", "{type: folder, path: phone, uncaptioned: true, batch_size: 2}")
    (tmp_path / "r.yaml").write_text(text)

    out = call("r.yaml", "--inspect-data").out

    assert "stored as 44 x 60 to 60 x 44, median 60 x 44" in " ".join(out.split())


def test_json_has_every_number(call: Call, recipe: Path) -> None:
    reported = call(recipe, "--inspect-data", "--json", "--output", "out")

    found = json.loads(reported.out)
    assert found["shapes"]["survey"]["buckets"] == {"24 x 40": 9, "32 x 32": 9, "40 x 24": 2}
    assert found["shapes"]["survey"]["stored"]["largest"] == [96, 32]
    assert found["shapes"]["survey"]["texts"]["caption"]["repeated"] == 3
    assert [p["path"] for p in found["shapes"]["survey"]["damaged"]] == ["pictures/12.png"]
    assert found["held"]["uses"] == []
    assert found["held"]["measured"] == [{"step": "vae", "evaluation": "seen", "samples": 50}]
    assert found["held"]["sheet"] == "out/inspect-tiny/held.png"


def test_the_sheet_shows_what_training_sees_first(call: Call, recipe: Path, tmp_path: Path) -> None:
    call(recipe, "--inspect-data")
    first = json.loads(call(recipe, "--inspect-data", "--json").out)["shapes"]["uses"][0]["first"]
    first = [name for name in first if not name.endswith("12.png")]

    sheet = Image.open(tmp_path / "runs" / "inspect-tiny" / "shapes.png").convert("RGB")

    for place, name in enumerate(first):
        colour = (255, 0, 0) if int(Path(name).stem) % 2 else (0, 0, 255)
        assert sheet.getpixel((GAP + place * (SIDE + GAP) + SIDE // 2, GAP + SIDE - 20)) == colour


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_where_no_sheet_can_be_written_everything_else_is_reported(
    number: int, call: Call, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(inspect_data, "write_file", fail)

    answer = call(recipe, "--inspect-data")
    found = json.loads(call(recipe, "--inspect-data", "--json").out)

    assert answer.code == 0
    failure = f"cannot write the contact sheet: {os.strerror(number)}"
    assert f"{failure}; choose another folder with --output\n" in answer.err
    assert "contact sheet:" not in answer.out
    assert "dataset held (shapes): 50 samples" in answer.out
    assert {each["sheet"] for each in found.values()} == {None}


def test_a_file_in_the_place_of_the_folder_of_sheets_is_reported_before_anything_is_read(
    call: Call, recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("")

    answer = call(recipe, "--inspect-data", "--output", tmp_path / "out")

    assert answer.code == 2
    assert "`out` is not a folder, but files are written into it" in answer.err
    assert "reading" not in answer.err


def test_fewer_samples_are_read_on_request(call: Call, recipe: Path) -> None:
    reported = call(recipe, "--inspect-data", "--samples", "5")
    unused = call(recipe, "--inspect-data", "--samples", "5", "--set", "steps.vae.evaluate.seen=false")
    large = call(recipe, "--inspect-data", "--samples", "5", "--set", "steps.vae.batch_size=64")
    none = call(recipe, "--inspect-data", "--samples", "0")

    assert (
        "    5 of 20 samples, evenly spaced, were checked: all can be read; set --samples to check more\n"
        in reported.out
    )
    assert "no step or evaluation uses it" in unused.out.split("dataset held")[1]
    assert "too few samples for a batch of 64, so training will not start" in large.out
    assert (none.code, none.err) == (2, "--samples  `--samples` must be at least 1, got 0\n")


def test_a_dataset_that_cannot_be_opened_is_an_error_with_its_place(call: Call, recipe: Path) -> None:
    reported = call(recipe, "--inspect-data", "--set", "datasets.shapes.path=./nowhere")

    assert reported.code == 2
    asked = "requested by  dataset `shapes` (--set datasets.shapes.path=./nowhere)"
    assert reported.err == f"nowhere  folder `nowhere` does not exist\n    {asked}\n"


@pytest.mark.parametrize(
    ("verify", "damaged", "reported"),
    [
        ("true", ["cut", "empty", "text"], "all others can be read"),
        ("false", ["cut", "empty", "text"], "all others can be read"),
        ("false", ["cut"], "all others can be read"),
        ("true", [], "all samples can be read"),
    ],
)
def test_beside_damage_no_report_claims_that_all_samples_can_be_read(
    verify: str, damaged: list[str], reported: str, call: Call, recipe: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "four"
    folder.mkdir()
    for name in "abcd":
        Image.effect_noise((32, 32), 64).save(folder / f"{name}.png")
    whole = (folder / "a.png").read_bytes()
    for name in damaged:
        (folder / f"{name}.png").write_bytes({"cut": whole[:300], "empty": b"", "text": b"some text"}[name])
    dataset = f"{{type: folder, path: four, uncaptioned: true, damaged_at_most: 0.5, verify: {verify}}}"

    out = call(recipe, "--inspect-data", "--set", f"datasets.shapes={dataset}", "--set", "steps.vae.batch_size=2").out

    first = out.split("\n\n")[0].splitlines()
    assert first[-2] == f"    {reported}"
    assert sum(line.startswith("        four/") for line in first) == len(damaged)
    assert "    caption        empty in every sample" in first


@pytest.mark.parametrize(
    ("samples", "head", "tail"),
    [
        ("9", "3 samples cannot be read:", "none can be read"),
        (
            "2",
            "2 samples cannot be read and will be replaced by others:",
            "2 of 3 samples, evenly spaced, were checked: none can be read; set --samples to check more",
        ),
    ],
)
def test_where_all_samples_are_damaged_no_report_claims_that_others_can_be_read(
    samples: str, head: str, tail: str, call: Call, recipe: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    folder.mkdir()
    for name in "abc":
        Image.effect_noise((32, 32), 64).save(folder / f"{name}.png")
        (folder / f"{name}.png").write_bytes((folder / f"{name}.png").read_bytes()[:300])
    dataset = "datasets.shapes={type: folder, path: cut, uncaptioned: true, damaged_at_most: 0.9, verify: false}"

    reported = call(recipe, "--inspect-data", "--samples", samples, "--set", dataset, "--set", "steps.vae.batch_size=2")

    first = reported.out.split("\n\n")[0].splitlines()
    assert f"    {head}" in first
    assert first[-1] == f"    {tail}"


@pytest.mark.parametrize("command", ["--inspect-data", "--check"])
def test_problems_of_files_of_two_datasets_are_reported_once_and_name_both(
    command: str, call: Call, recipe: Path
) -> None:
    text = recipe.read_text().replace("  held: {", "  more: {type: folder, path: pictures}\n  held: {", 1)
    recipe.write_text(text)

    reported = call(recipe, command, "--set", "datasets.shapes.damaged_at_most=0")

    lines = reported.err.split("\n\n")
    assert reported.code == 2
    assert [line.splitlines()[0].split(":")[0] for line in lines] == [
        "pictures/empty.png  image `empty.png` is empty (0 bytes)",
        "pictures/12.png  image `12.png` is damaged",
        "2 problems",
    ]
    assert lines[0].splitlines()[-2:] == [
        f"    requested by  dataset `shapes` ({recipe}:7:32)",
        f"                  dataset `more` ({recipe}:8:30)",
    ]
    assert lines[1].splitlines()[-1] == f"    requested by  dataset `more` ({recipe}:8:30)"


def test_of_a_thousand_problems_the_first_of_each_kind_are_shown_and_the_others_counted(
    call: Call, recipe: Path, tmp_path: Path
) -> None:
    for path in tmp_path.glob("pictures/*.txt"):
        path.unlink()
    (tmp_path / "pictures" / "empty.txt").write_text("caption")

    reported = call(recipe, "--check")
    found = json.loads(call(recipe, "--check", "--json").out)["problems"]

    heads = [paragraph.splitlines() for paragraph in reported.err.split("\n\n")]
    assert [head[0] for head in heads[:-1]] == [
        *(f"pictures/{number:02}.png  image `{number:02}.png` has no caption" for number in range(9)),
        "pictures/empty.png  image `empty.png` is empty (0 bytes)",
    ]
    assert heads[-1] == ["21 problems; --json also prints the 11 that are not shown:", "    11  missing-caption"]
    assert [place["path"] for place in found] == [
        *(f"pictures/{number:02}.png" for number in range(20)),
        "pictures/empty.png",
    ]
    assert reported.err.count("requested by") == 1
    notes = [{note["label"]: note["text"] for note in place["notes"]} for place in found]
    assert all(each["requested by"].startswith("dataset `shapes` (") for each in notes)


def test_a_note_that_belongs_to_one_problem_stands_under_each_that_has_it(
    call: Call, recipe: Path, tmp_path: Path
) -> None:
    lines = ["0.png\ta", "no tab", "no tab", "1.pngg\td", "1.pnggg\te"]
    (tmp_path / "captions.txt").write_text("\n".join(lines))
    (tmp_path / "two").mkdir()
    for name in "01":
        Image.effect_noise((32, 32), 64).save(tmp_path / "two" / f"{name}.png")
    dataset = "datasets.shapes={type: folder, path: two, captions: captions.txt}"

    reported = call(recipe, "--check", "--set", dataset, "--set", "steps.vae.batch_size=2")

    words = " ".join(reported.err.split())
    assert (words.count("received no tab"), words.count("nearest 1.png")) == (2, 2)
    assert (words.count("requested by"), words.count("hint set `damaged_at_most")) == (1, 1)


class Plain:
    """The least that is a source: numbers and no picture; one cannot be read."""

    def __len__(self) -> int:
        return 100

    def batch(self, indices: Sequence[int], seed: int) -> dict[str, Any]:
        if 50 in indices:
            raise SampleError({50: Problem("is damaged", "number 50")})
        return {"number": torch.tensor(list(indices)), "word": ["" if index == 3 else "x" * index for index in indices]}


def test_any_source_can_be_surveyed() -> None:
    found, used = survey(Plain(), 1000), step_use(Plain(), "step", "plain", 16, 2, 0)

    assert (found.samples, found.read, found.stored, found.buckets) == (100, 100, None, {})
    assert [str(problem) for problem in found.damaged] == ["number 50  is damaged"]
    assert (found.texts["word"].empty, found.texts["word"].longest, found.texts["word"].longest_name) == (2, 99, "99")
    assert (used.batches, used.filling.left_over) == (2, 4)
