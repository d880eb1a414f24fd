"""What a plugin says of a file that is no recipe, through the hook for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fluxflow_registry import hookimpl
from fluxflow_registry.cli import main
from fluxflow_registry.errors import PluginError, Problem
from fluxflow_registry.registry.discovery import from_modules
from fluxflow_registry.registry.registry import Registry

from .conftest import Answer

Call = Callable[..., Answer]


def knows(recognize: Callable[..., Problem | None]) -> SimpleNamespace:
    """A plugin that knows files."""
    return SimpleNamespace(fluxflow_recognize_file=hookimpl(recognize))


def recognized(path: str, content: Any, arguments: Any, trains: bool) -> Problem | None:
    if "pipeline" not in content:
        return None
    return Problem(f"a file of mine, {content['pipeline']} {arguments.device} {trains}", path)


def fails(path: str, content: Any, arguments: Any, trains: bool) -> Problem | None:
    raise ValueError("no such luck")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Callable[[Registry], None]:
    """Let the command load a registry."""
    return lambda made: monkeypatch.setattr(main, "load_plugins", lambda files: made)


@pytest.mark.parametrize(("flags", "trains"), [(["--check"], False), ([], True)])
def test_a_plugin_recognizes_a_file_by_its_content_and_the_command_line(
    call: Call, registry: Any, tmp_path: Path, flags: list[str], trains: bool
) -> None:
    registry(from_modules({"other": knows(lambda path, content, arguments, trains: None), "mine": knows(recognized)}))
    (tmp_path / "mine.yaml").write_text("pipeline: 3")

    answer = call("mine.yaml", "--device", "cpu", *flags)

    assert (answer.code, answer.err) == (2, f"mine.yaml  a file of mine, 3 cpu {trains}\n")


@pytest.mark.parametrize("text", ["other: 3", "[pipeline]", "pipeline: [", ""])
def test_a_file_that_no_plugin_knows_keeps_the_errors_of_a_recipe(
    call: Call, registry: Any, tmp_path: Path, text: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text)

    registry(from_modules({"mine": knows(recognized)}))
    with_it = call("mine.yaml")
    registry(from_modules({}))
    without = call("mine.yaml")

    assert with_it == without
    assert "a file of mine" not in with_it.err


def test_a_plugin_that_fails_at_it_is_named(call: Call, registry: Any, tmp_path: Path) -> None:
    registry(from_modules({"mine": knows(fails)}))
    (tmp_path / "mine.yaml").write_text("pipeline: 3")

    err = call("mine.yaml").err

    message = "plugin `mine` failed to identify a file that is not a recipe: ValueError: no such luck"
    assert err == f"mine.yaml  {message}\n"


def test_the_hook_must_take_every_argument() -> None:
    @hookimpl
    def short(path: str) -> Problem | None:
        return None

    with pytest.raises(PluginError, match=r"is called with \(path, content, arguments, trains\)"):
        from_modules({"mine": SimpleNamespace(fluxflow_recognize_file=short)})
