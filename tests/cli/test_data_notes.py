"""What a dataset leaves out, or a step should know of it, is printed by `--check` as it is by training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ..plugins.shard_files import png, write_tar
from ..recipes import TINY
from ..small import FLOW, VAE_GAN
from .conftest import Answer

Call = Callable[..., Answer]

#: A recipe whose second step reads captions.
READING = VAE_GAN + FLOW.split("    evaluate:")[0]

EMPTY = "the captions of all samples are empty"


def folder(path: Path, captions: bool = True) -> Path:
    """A folder with three images, one damaged image and one file that is neither an image nor a caption."""
    path.mkdir()
    for name in "abc":
        Image.effect_noise((32, 32), 64).save(path / f"{name}.png")
        if captions:
            (path / f"{name}.txt").write_text(f"a picture called {name}")
    (path / "d.png").write_bytes(b"")
    (path / "readme.md").write_text("about")
    return path


def notes_of(answer: Answer, label: str) -> list[str]:
    return [line.split(": ", 1)[1] for line in answer.err.splitlines() if line.startswith(f"{label}: dataset `")]


@pytest.mark.parametrize("measured", [False, True], ids=["trained on", "measured on"])
def test_the_check_reports_all_that_training_reports_on_its_data(measured: bool, call: Call, tmp_path: Path) -> None:
    folder(tmp_path / "four")
    (tmp_path / "some.tsv").write_text("a.png\ta cat\nb.png\ta dog\n")
    mine = "{type: folder, path: four, image_size: 32, damaged_at_most: 0.5, batch_size: 2, uncaptioned: true}"
    named = "{type: folder, path: four, captions: some.tsv, image_size: 32, batch_size: 2}"
    text = TINY.replace(
        "shapes: {type: shapes}", f"shapes: {{type: shapes, length: 4}}\n  mine: {mine}\n  named: {named}"
    )
    used = "{one: {dataset: mine, metrics: {psnr: {}}}, two: {dataset: named, metrics: {psnr: {}}}}"
    steps = f"    evaluate: {used}\n" if measured else ""
    text = text if measured else text.replace("dataset: shapes", "dataset: mine")
    (tmp_path / "r.yaml").write_text(text + steps + "    batch_size: 2\n    epochs: 1\n")

    checked = call("r.yaml", "--check")
    found = json.loads(call("r.yaml", "--check", "--json").out)["notes"]
    trained = call("r.yaml")

    assert (checked.code, trained.code) == (0, 0)
    expected = [
        "dataset `mine`: ignored 1 file whose names are not those of images: 1 .md",
        "dataset `mine`: skipped 1 damaged sample",
    ]
    if measured:
        expected += [
            "dataset `named`: ignored 4 files whose names are not those of images: 3 .txt, 1 .md",
            "dataset `named`: skipped 2 images of the folder that `some.tsv` does not name",
        ]
    assert notes_of(checked, "note") == expected
    assert [note.splitlines()[0] for note in found] == expected
    assert notes_of(trained, "warning") == expected
    assert "image `d.png` is empty (0 bytes)" in checked.err


def test_the_check_reports_samples_that_fill_no_batch(call: Call, tmp_path: Path) -> None:
    folder(tmp_path / "four")
    text = TINY.replace("{type: shapes}", "{type: folder, path: four, damaged_at_most: 0.5, bucket_multiple: 8}")
    (tmp_path / "r.yaml").write_text(text + "    batch_size: 2\n")

    assert "note: dataset `shapes`: an epoch skips 1 of 3 samples" in call("r.yaml", "--check").err


@pytest.mark.parametrize("kind", ["folder", "webdataset"])
def test_a_step_that_reads_captions_of_which_all_are_empty_is_noted(kind: str, call: Call, tmp_path: Path) -> None:
    folder(tmp_path / "four", captions=False)
    write_tar(tmp_path / "a.tar", {f"{number}.png": png(number) for number in range(4)})
    files = {"folder": "path: four, damaged_at_most: 0.5", "webdataset": "shards: a.tar"}[kind]
    dataset = f"{{type: {kind}, {files}, uncaptioned: true, image_size: 16, batch_size: 2}}"
    (tmp_path / "small.yaml").write_text(READING)
    (tmp_path / "tiny.yaml").write_text(TINY)

    reads = call("small.yaml", "--check", "--set", f"datasets.shapes={dataset}", "--set", "defaults.batch_size=2")
    ignores = call("tiny.yaml", "--check", "--set", f"datasets.shapes={dataset}", "--set", "steps.vae.batch_size=2")

    assert (reads.code, ignores.code) == (0, 0)
    assert reads.err.count(f"note: dataset `shapes`: {EMPTY}\n") == 1
    assert EMPTY not in ignores.err


@pytest.mark.parametrize("kind", ["folder", "webdataset"])
def test_one_caption_is_enough_for_no_note(kind: str, call: Call, tmp_path: Path) -> None:
    folder(tmp_path / "four", captions=False)
    (tmp_path / "four" / "b.txt").write_text("the only one")
    write_tar(tmp_path / "a.tar", {f"{number}.png": png(number) for number in range(4)} | {"2.txt": b"the only one"})
    files = {"folder": "path: four, damaged_at_most: 0.5", "webdataset": "shards: a.tar"}[kind]
    dataset = f"{{type: {kind}, {files}, uncaptioned: true, image_size: 16, batch_size: 2}}"
    (tmp_path / "small.yaml").write_text(READING)

    answer = call("small.yaml", "--check", "--set", f"datasets.shapes={dataset}", "--set", "defaults.batch_size=2")

    assert answer.code == 0
    assert EMPTY not in answer.err
