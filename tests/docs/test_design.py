"""`docs/design.md`: imports follow the table."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .story import REPOSITORY

FRAMEWORK = REPOSITORY / "fluxflow_registry"
PLUGINS = sorted(path.parent for path in (REPOSITORY / "plugins").glob("*/__init__.py"))
ROWS = re.findall(
    r"^\| `(\w+)` \|(.*)\|$",
    (REPOSITORY / "docs" / "design.md").read_text().partition("| module | imports |")[2],
    flags=re.MULTILINE,
)


def imported(file: Path) -> Iterator[str]:
    """Yield the modules that a file imports, at its top, in functions and for type checkers."""
    package = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def files_of(module: str) -> list[Path]:
    folder = FRAMEWORK / module
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [FRAMEWORK / f"{module}.py"]


def test_the_table_has_a_row_for_every_module_of_the_framework() -> None:
    modules = {path.stem for path in FRAMEWORK.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}

    assert {module for module, _ in ROWS} == modules - {"__init__", "__main__"}


@pytest.mark.parametrize(("module", "allowed"), ROWS)
def test_a_module_imports_nothing_that_is_not_in_its_row(module: str, allowed: str) -> None:
    known = {name for name, _ in ROWS}
    names = known if "all" in allowed else {module, *re.findall(r"`(\w+)`", allowed)}

    found = {
        name.split(".")[1]
        for file in files_of(module)
        for name in imported(file)
        if name.startswith("fluxflow_registry.") and name.split(".")[1] in known
    }

    assert found <= names


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_no_plugin_imports_another(plugin: Path) -> None:
    others = {other.name for other in PLUGINS} - {plugin.name}

    for file in plugin.rglob("*.py"):
        assert not {name.split(".")[0] for name in imported(file)} & others, file


def test_the_framework_imports_no_plugin() -> None:
    plugins = {plugin.name for plugin in PLUGINS}

    for file in FRAMEWORK.rglob("*.py"):
        assert not {name.split(".")[0] for name in imported(file)} & plugins, file


def test_loading_every_plugin_and_checking_a_recipe_does_not_import_torch() -> None:
    program = (
        "import sys\n"
        "from fluxflow_registry.check.checker import check\n"
        "from fluxflow_registry.registry.discovery import load\n"
        f"check({str(REPOSITORY / 'recipes' / 'vae_gan_flow.yaml')!r}, load())\n"
        "assert 'torch' not in sys.modules\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
