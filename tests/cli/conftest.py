"""The command in this very process, which is faster than starting one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from fluxflow_registry.cli.main import run

from .spoiling import spoiling

__all__ = ["spoiling"]


@frozen
class Answer:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Answer]:
    """Run `fluxflow-run` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: Any) -> Answer:
        with pytest.raises(SystemExit) as left:
            run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Answer(int(left.value.code or 0), out, err)

    return command
