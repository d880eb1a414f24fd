"""`--plugin file.py`: a plugin that is a file, and nothing more."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from textwrap import dedent

import pytest

from fluxflow_registry.cli.plugins_of_run import source_digest
from fluxflow_registry.errors import PluginError
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.files import sources_of

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
    line = ":1" if problem.code == "broken-plugin" else ""
    assert str(problem.where) == f"{path}{line}"


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
    assert done.stderr == "bad.py:1  plugin `bad` cannot be imported: ModuleNotFoundError: No module named 'nowhere'\n"


@pytest.fixture
def alone() -> Iterator[None]:
    """No plugin file of another test is known."""
    before, modules = sys.meta_path[:], set(sys.modules)
    yield
    sys.meta_path[:] = before
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in ("helpers", "deeper") or name.startswith("fluxflow_file_"):
            del sys.modules[name]


USING = """
{top}
from fluxflow_registry import hookimpl


def mine(reconstruction, image):
    {inside}
    return scaled(reconstruction, image)


@hookimpl
def fluxflow_register_losses(register):
    register("mine", mine)
"""

HELPERS = "def scaled(a, b):\n    return '{name}'\n"


@pytest.mark.parametrize(
    ("top", "inside", "files"),
    [
        ("from helpers import scaled", "", {"helpers.py": HELPERS}),
        ("import helpers", "scaled = helpers.scaled", {"helpers.py": HELPERS}),
        ("", "from helpers import scaled", {"helpers.py": HELPERS}),
        ("from .helpers import scaled", "", {"helpers.py": HELPERS}),
        ("from . import helpers", "scaled = helpers.scaled", {"helpers.py": HELPERS}),
        ("from helpers import scaled", "", {"helpers/__init__.py": HELPERS}),
        ("from helpers.inner import scaled", "", {"helpers/__init__.py": "", "helpers/inner.py": HELPERS}),
        ("from helpers.inner import scaled", "", {"helpers/inner.py": HELPERS}),
        ("from helpers import scaled", "", {"helpers.py": "from deeper import scaled", "deeper.py": HELPERS}),
        ("from .helpers import scaled", "", {"helpers.py": "from .deeper import scaled", "deeper.py": HELPERS}),
    ],
)
@pytest.mark.usefixtures("alone")
def test_a_plugin_file_imports_the_modules_beside_it(
    tmp_path: Path, top: str, inside: str, files: dict[str, str]
) -> None:
    write(tmp_path / "sub", {"mine.py": USING.format(top=top, inside=inside or "pass"), **files})

    registry = load([], [tmp_path / "sub" / "mine.py"])

    assert registry.components["loss"]["mine"].factory(1, 2) == "sub"


def write(folder: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source.replace("'{name}'", repr(folder.name)))


@pytest.mark.parametrize("name", ["json", "torch", "attrs", "mine"])
@pytest.mark.usefixtures("alone")
def test_a_file_beside_a_plugin_takes_the_place_of_no_installed_module(tmp_path: Path, name: str) -> None:
    before = importlib.util.find_spec(name)
    write(tmp_path, {"mine.py": USING.format(top="from helpers import scaled", inside="pass"), "helpers.py": HELPERS})
    if name != "mine":
        (tmp_path / f"{name}.py").write_text("raise AssertionError('imported')")

    load([], [tmp_path / "mine.py"])

    after = importlib.util.find_spec(name)
    assert (after and after.origin) == (before and before.origin)


@pytest.mark.usefixtures("alone")
def test_a_folder_of_data_beside_a_plugin_is_not_a_module(tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "run.log").touch()
    write(tmp_path, {"mine.py": USING.format(top="from helpers import scaled", inside="pass"), "helpers.py": HELPERS})

    load([], [tmp_path / "mine.py"])

    assert importlib.util.find_spec("wandb") is None


@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize(
    ("top", "inside"), [("from helpers import scaled", "pass"), ("", "from helpers import scaled")]
)
@pytest.mark.usefixtures("alone")
def test_two_plugin_files_with_different_modules_of_one_name_are_an_error_and_never_exchanged(
    tmp_path: Path, top: str, inside: str, chain: bool
) -> None:
    own = {"helpers.py": "from deeper import scaled" if chain else HELPERS} | ({"deeper.py": HELPERS} if chain else {})
    for folder in ("a", "b"):
        write(tmp_path / folder, {"mine.py": USING.format(top=top, inside=inside), **own})

    with pytest.raises(PluginError) as caught:
        load([], [tmp_path / "a" / "mine.py", tmp_path / "b" / "mine.py"])

    (problem,) = caught.value.problems
    assert str(problem.where) == str(tmp_path / "b" / "mine.py")
    assert problem.subject in ("helpers", "deeper")
    assert problem.message == (
        f"plugin file `mine.py` imports `{problem.subject}`, but another plugin file has a module of that name"
    )
    assert dict(problem.notes)["see also"] == str(tmp_path / "a" / f"{problem.subject}.py")
    assert dict(problem.notes)["instead"] == f"from . import {problem.subject}"


@pytest.mark.usefixtures("alone")
def test_two_plugin_files_with_different_modules_of_one_name_may_import_them_relatively(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        source = USING.format(top="from .helpers import scaled", inside="pass").replace('"mine"', f'"{folder}"')
        write(tmp_path / folder, {"mine.py": source, "helpers.py": HELPERS})

    registry = load([], [tmp_path / "a" / "mine.py", tmp_path / "b" / "mine.py"])

    assert [registry.components["loss"][name].factory(1, 2) for name in ("a", "b")] == ["a", "b"]


@pytest.mark.usefixtures("alone")
def test_two_plugin_files_in_one_folder_share_a_module(tmp_path: Path) -> None:
    source = USING.format(top="from helpers import scaled", inside="pass")
    write(tmp_path, {f"{n}.py": source.replace('"mine"', f'"{n}"') for n in ("a", "b")} | {"helpers.py": HELPERS})

    registry = load([], [tmp_path / "a.py", tmp_path / "b.py"])

    assert set(registry.components["loss"]) == {"a", "b"}


@pytest.mark.usefixtures("alone")
def test_a_failure_in_a_module_beside_a_plugin_is_reported_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, {"mine.py": USING.format(top="import helpers", inside="pass"), "helpers.py": "\n\n1 / 0\n"})

    with pytest.raises(PluginError) as caught:
        load([], [tmp_path / "mine.py"])

    assert str(caught.value) == (
        f"{tmp_path}/helpers.py:3  plugin `mine` cannot be imported: ZeroDivisionError: division by zero"
    )


@pytest.mark.parametrize("top", ["from helpers import scaled", "from .helpers import scaled", "from . import helpers"])
@pytest.mark.usefixtures("alone")
def test_the_modules_beside_a_plugin_belong_to_its_sources(tmp_path: Path, top: str) -> None:
    own = {"helpers.py": "import deeper", "deeper.py": HELPERS, "unrelated.py": HELPERS}
    write(tmp_path, {"mine.py": USING.format(top=top, inside="pass"), **own})
    path = tmp_path / "mine.py"

    before = source_digest(str(path))
    (tmp_path / "unrelated.py").write_text("changed")
    unrelated = source_digest(str(path))
    (tmp_path / "deeper.py").write_text("changed = True")

    assert sources_of(path) == [path, tmp_path / "deeper.py", tmp_path / "helpers.py"]
    assert before == unrelated != source_digest(str(path))
