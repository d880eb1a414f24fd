"""Problems with files name the option of the recipe that refers to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxflow_registry.check.checker import check
from fluxflow_registry.engine.data.opening import option_of
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
