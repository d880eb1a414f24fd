"""Laws of the tree: who imports whom, what is never called, what stands where."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "fluxflow_registry"
PLUGINS = ROOT / "plugins"
SOURCES = sorted([*CORE.rglob("*.py"), *PLUGINS.rglob("*.py")])

MODULES = {path.stem for path in CORE.iterdir()}

#: For each room of the framework, the rooms that it may import; each only from its left.
MAY_IMPORT: dict[str, set[str]] = {
    "redaction": set(),
    "errors": {"redaction"},
    "contracts": {"errors"},
    "hookspecs": {"errors", "contracts"},
    "lifecycle": {"contracts"},
    "registry": {"errors", "contracts", "hookspecs"},
    "recipe": {"redaction", "errors", "contracts", "registry"},
    "plan": {"redaction", "errors", "contracts", "registry", "recipe"},
    "state": {"errors"},
}
MAY_IMPORT["check"] = {*MAY_IMPORT["plan"], "plan"}
MAY_IMPORT["engine"] = {*MAY_IMPORT["check"], "check", "state", "hookspecs"}
MAY_IMPORT["cli"] = {*MAY_IMPORT["engine"], "engine", ""}
MAY_IMPORT["commands"] = {*MAY_IMPORT["cli"], "cli"}
MAY_IMPORT["testing"] = {*MAY_IMPORT["check"], "check", "engine", "hookspecs"}

#: What a plugin may import of the framework, whether it is ours or anybody's.
DOOR = {"fluxflow_registry", "fluxflow_registry.commands"}


def test_the_list_of_rooms_in_contributing_matches_the_tree() -> None:
    from tests.docs.rooms import listed, rooms  # it reads this module

    assert listed() == rooms(), "run `python -m tests.docs.rooms`, and read the difference"


def test_every_file_is_described_in_its_first_line() -> None:
    assert [path for path in SOURCES if not re.match(r'"""\S.+\.("""|$)', path.read_text().split("\n", 1)[0])] == []


#: Calls that execute or unpickle what a file says.
FORBIDDEN = {"eval", "exec", "torch.load", "torch.save", "pickle.load", "pickle.loads", "pickle.dump", "os.system"}


#: Modules that can turn bytes into code.
PICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def imports(path: Path) -> set[str]:
    """The modules that a file imports anywhere in it, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "fluxflow_registry":
            found |= {f"{node.module}.{alias.name}" for alias in node.names if alias.name in MODULES} or {node.module}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


def room(module: str) -> str:
    """The part of the framework that a module belongs to; empty for the package's face."""
    return module.split(".")[1] if "." in module else ""


def rooms() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(CORE.rglob("*.py")):
        relative = path.relative_to(CORE)
        name = relative.parts[0].removesuffix(".py")
        if name not in ("__init__", "__main__"):
            found.append((name, path))
    return found


@pytest.mark.parametrize(("name", "path"), rooms(), ids=lambda value: str(value).rsplit("fluxflow_registry/", 1)[-1])
def test_the_framework_imports_only_from_its_left(name: str, path: Path) -> None:
    mine = {room(m) for m in imports(path) if m.split(".")[0] == "fluxflow_registry"}

    assert mine - {name} <= MAY_IMPORT[name]


def test_the_framework_imports_no_plugin() -> None:
    plugins = {folder.name for folder in PLUGINS.iterdir()}

    for _, path in rooms():
        assert not {m.split(".")[0] for m in imports(path)} & plugins, path


def test_the_framework_names_no_command_of_a_plugin() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    theirs = [name for name, at in scripts.items() if not at.startswith("fluxflow_registry.")]

    assert "fluxflow-train" in theirs
    for path in CORE.rglob("*.py"):
        assert not [name for name in theirs if name in path.read_text()], path


@pytest.mark.parametrize("folder", sorted(p for p in PLUGINS.iterdir() if p.is_dir()), ids=lambda p: p.name)
def test_no_plugin_imports_another(folder: Path) -> None:
    others = {other.name for other in PLUGINS.iterdir()} - {folder.name}

    for path in folder.rglob("*.py"):
        assert not {m.split(".")[0] for m in imports(path)} & others, path


@pytest.mark.parametrize("folder", sorted(p for p in PLUGINS.iterdir() if p.is_dir()), ids=lambda p: p.name)
def test_a_plugin_imports_from_the_framework_only_what_is_public(folder: Path) -> None:
    for path in folder.rglob("*.py"):
        assert {m for m in imports(path) if m.split(".")[0] == "fluxflow_registry"} <= DOOR, path


@pytest.mark.parametrize("module", sorted(DOOR))
def test_the_public_modules_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; heavy = {{'torch', 'numpy', 'PIL'}} & set(sys.modules); assert not heavy, heavy"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_unpickled_evaluated_or_run_in_a_shell(path: Path) -> None:
    tree = ast.parse(path.read_text())

    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    keywords = {k.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for k in node.keywords}

    assert not calls & FORBIDDEN
    assert not keywords & {"shell", "allow_pickle"}
    assert not {m.split(".")[0] for m in imports(path)} & PICKLING


def test_folders_packages_and_entry_points_are_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    folders = {folder.name for folder in PLUGINS.iterdir() if (folder / "__init__.py").exists()}
    packages = {p.removeprefix("plugins/") for p in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    points = project["project"]["entry-points"]["fluxflow"]

    assert packages - {"fluxflow_registry"} == folders
    assert set(points.values()) == folders
    assert all(value == f"fluxflow_{name}" for name, value in points.items())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--list-plugins"],
        ["--list-plugins", "value"],
        ["--describe", "kl"],
        ["--schema"],
        ["recipes/vae_gan_flow.yaml", "--validate"],
        ["recipes/vae_gan_flow.yaml", "--explain"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_what_only_reads_does_not_import_torch(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from fluxflow_registry.cli.main import run\n"
        f"try: run({arguments!r})\n"
        "except SystemExit as left: assert not left.code, left.code\n"
        "heavy = {'torch', 'torchvision', 'lpips', 'matplotlib', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


MANY = 12
REASON = "# More than a dozen members: "


def members(cls: ast.ClassDef) -> tuple[set[str], set[str]]:
    """The public members of a class that it defines itself, and what its constructor sets."""
    fields = {
        node.target.id for node in cls.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    methods = [node for node in cls.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    set_ = {
        node.attr
        for method in methods
        if method.name in ("__init__", "__attrs_post_init__")
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }
    named = {method.name for method in methods} | fields | set_
    return {name for name in named if not name.startswith("_")}, fields | set_


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_class_with_more_than_a_dozen_members_or_attributes_says_why(path: Path) -> None:
    text = path.read_text()
    lines = text.splitlines()
    for cls in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)):
        first = min([cls.lineno, *(decorator.lineno for decorator in cls.decorator_list)])
        large = max(map(len, members(cls))) > MANY

        assert lines[first - 2].startswith(REASON) == large, f"{path}:{first}: class {cls.name}"
