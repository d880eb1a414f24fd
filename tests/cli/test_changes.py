"""A run that goes on is told what is not as it was when it began."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fluxflow_registry.cli.plugins_of_run import changes
from fluxflow_registry.engine.run.folder import ENVIRONMENT

FACTS: dict[str, Any] = {
    "torch": "2.15.0",
    "device": "cpu",
    "threads": 2,
    "plugins": [{"name": "mine", "source": "aa"}, {"name": "ours", "source": "bb"}],
}


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ({}, []),
        ({"torch": "2.14.1"}, ["torch has changed from 2.14.1 to 2.15.0, so results may differ in their last bits"]),
        ({"threads": 1}, ["threads has changed from 1 to 2, so results may differ in their last bits"]),
        ({"plugins": [{"name": "mine", "source": "cc"}]}, ["plugin `mine` has changed"]),
        (
            {"device": "cuda\x1b[1m"},
            ["device has changed from cuda\\x1b[1m to cpu, so results may differ in their last bits"],
        ),
    ],
)
def test_what_has_changed_is_named(tmp_path: Path, before: dict[str, Any], told: list[str]) -> None:
    (tmp_path / ENVIRONMENT).write_text(json.dumps({**FACTS, **before}))

    assert changes(tmp_path, FACTS) == told


@pytest.mark.parametrize("content", ["", "[]", "3", "{", '{"plugins": 3}', '{"torch": "2.15.0"}'])
def test_an_environment_that_cannot_be_read_tells_of_no_change(tmp_path: Path, content: str) -> None:
    (tmp_path / ENVIRONMENT).write_text(content)

    assert changes(tmp_path, FACTS) == []
    assert changes(tmp_path / "nowhere", FACTS) == []
