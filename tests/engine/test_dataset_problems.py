"""Problems with files name the option of the recipe that refers to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fluxflow_registry import DataError
from fluxflow_registry.check.checker import check
from fluxflow_registry.engine.data.opening import open_sources, option_of
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.registry import Registry

from ..recipes import TINY


@pytest.mark.parametrize(
    ("options", "where", "option"),
    [
        ("split: train, holdout: 0.1, path: ./train", "train", "./train"),
        ("split: train, holdout: 0.1, path: ./train", "train/a.png", "./train"),
        ("split: train, holdout: 0.1, path: ./training", "training/a.png", "./training"),
        ("path: here, captions: ./here/captions.txt", "here/captions.txt:3", "./here/captions.txt"),
        ("path: here, captions: ./here/captions.txt", "here/a.png", "here,"),
        ("path: here/", "here/a.png", "here/"),
        ("split: train, holdout: 0.1, path: train", "train/a.png", "folder,"),
        ("path: here", "elsewhere", "folder,"),
        ("path: ./train", "training/a.png", "folder,"),
    ],
)
def test_a_problem_with_a_file_is_attributed_to_the_option_whose_path_contains_it(
    everything: Registry, tmp_path: Path, options: str, where: str, option: str
) -> None:
    text = TINY.replace("{type: shapes}", f"{{type: folder, {options}}}")
    path = tmp_path / "r.yaml"
    path.write_text(text)

    place = str(option_of(check(path, everything).datasets["shapes"], where))

    line, column = map(int, place.removeprefix(f"{path}:").split(":"))
    assert text.splitlines()[line - 1][column - 1 :].startswith(option)


def test_one_mistake_in_most_lines_of_a_captions_file_is_one_problem(
    tmp_path: Path, prove: Callable[..., RecipePlan]
) -> None:
    images, table = tmp_path / "images", tmp_path / "captions.txt"
    images.mkdir()
    for number in range(30):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(images / f"{number}.png")
    gaps = ["\t" if number % 10 == 0 else " " for number in range(30)]
    table.write_text("\n".join(f"{number}.png{gap}a caption" for number, gap in enumerate(gaps)))
    plan = prove(TINY, f"datasets.shapes={{type: folder, path: {images}, captions: {table}}}")

    with pytest.raises(DataError) as caught:
        open_sources(plan)

    (problem,) = caught.value.problems
    assert problem.message == "line 2 of `captions.txt` has no tab between name and caption"
    assert "the same on 26 other lines: 3, 4, 5, 6, 7, 8, 9, 10, ..." in str(problem)


def test_a_folder_without_any_caption_is_one_problem(tmp_path: Path, prove: Callable[..., RecipePlan]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(30):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(images / f"{number}.png")

    with pytest.raises(DataError) as caught:
        open_sources(prove(TINY, f"datasets.shapes={{type: folder, path: {images}}}"))

    (problem,) = caught.value.problems
    assert problem.message == "none of the 30 images in folder `images` has a caption"
    assert "add `a.txt` for `a.jpg` and so on, name a file in `captions`, or set `uncaptioned: true`" in str(problem)
