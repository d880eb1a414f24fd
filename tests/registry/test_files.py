"""`--plugin file.py`: a plugin that is a file, and nothing more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from textwrap import dedent

import pytest

from fluxflow_registry.errors import PluginError
from fluxflow_registry.registry.discovery import load

from ..synthetic import LOSS


def test_a_component_of_a_file_has_its_path_as_distribution(tmp_path: Path) -> None:
    path = tmp_path / "my_loss.py"
    path.write_text(dedent(LOSS.format(name="mine")).lstrip())

    registry = load([], [path])

    component = registry.components["loss"]["mine"]
    assert component.plugin.name == "my_loss"
    assert component.plugin.distribution == str(path)
    assert str(component.where).endswith("my_loss.py:4")
    assert component.doc == "Made up."


def test_two_files_of_the_same_name_keep_their_own_sources(tmp_path: Path) -> None:
    source = """
        from attrs import frozen
        from fluxflow_registry import hookimpl
        {gap}
        @frozen
        class Component:
            width: int = 1

            def __call__(self, image):
                pass

        @hookimpl
        def fluxflow_register_losses(register):
            register("{name}", Component)
    """
    for folder, gap in (("a", "\n"), ("b", "\n\n\n\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(dedent(source.format(name=folder, gap=gap)))

    registry = load([], [tmp_path / "a" / "same.py", tmp_path / "b" / "same.py"])

    wheres = [str(registry.components["loss"][name].where) for name in ("a", "b")]
    assert wheres[0].endswith("a/same.py:6")
    assert wheres[1].endswith("b/same.py:9")


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("p.py", "1 / 0", "plugin `p` cannot be imported: ZeroDivisionError: division by zero"),
        ("p.py", "raise SystemExit(1)", "plugin `p` cannot be imported: SystemExit: 1"),
        ("p.py", "def (", "plugin `p` cannot be imported: SyntaxError: invalid syntax (p.py, line 1)"),
        ("p.py", "", "plugin `p` has no hook"),
        ("p.txt", "", "plugin file `p.txt` is not a Python module: its name must end in .py"),
    ],
)
def test_a_bad_file_is_reported_with_its_path(tmp_path: Path, name: str, source: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(source)

    with pytest.raises(PluginError) as caught:
        load([], [path])

    (problem,) = caught.value.problems
    assert problem.message == message
    assert str(problem.where) == str(path)


def test_a_missing_file_is_reported_with_its_path(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.py", tmp_path):
        with pytest.raises(PluginError) as caught:
            load([], [path])

        assert str(caught.value) == f"{path}  plugin file `{path.name}` does not exist"


def test_the_command_loads_a_file_and_shows_where_its_component_is_from(
    command: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "my_loss.py").write_text(dedent(LOSS.format(name="mine")).lstrip())

    done = command("--plugin", "my_loss.py", "--describe", "mine")

    assert done.returncode == 0
    assert "loss `mine`" in done.stdout
    assert "from        my_loss, my_loss.py" in done.stdout
    assert "defined in  my_loss.py:4" in done.stdout


def test_what_a_plugin_prints_is_not_in_the_result(
    command: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "loud.py").write_text("print('hello')\n" + dedent(LOSS.format(name="mine")))

    done = command("--plugin", "loud.py", "--list-plugins", "--json")

    assert done.stderr == "hello\n"
    assert "mine" in {row["name"] for row in json.loads(done.stdout)["components"]}


def test_the_command_rejects_a_misspelled_member_with_its_line(
    command: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    source = dedent(LOSS.format(name="mine")).lstrip() + "\n\nmine.default_wieght = 2.0\n"
    (tmp_path / "mine.py").write_text(source)

    done = command("--plugin", "mine.py", "--list-plugins", "--json")

    (problem,) = json.loads(done.stdout)["problems"]
    assert done.returncode == 2
    assert (problem["code"], problem["subject"]) == ("misspelled-member", "default_wieght")
    assert problem["nearest"] == "default_weight"
    assert (problem["path"], problem["line"]) == ("mine.py", 4)


def test_the_command_rejects_a_file_that_fails(command: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import nowhere")

    done = command("--plugin", "bad.py", "--list-plugins")

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "bad.py  plugin `bad` cannot be imported: ModuleNotFoundError: No module named 'nowhere'\n"
