"""Plugins that are files: how Python finds their modules, and the modules beside them."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from attrs import frozen

from fluxflow_registry.errors import PluginError


@frozen
class PluginFile:
    """A finder of Python's import system for the module of one file, and for those beside it.

    Python asks it last: a file beside a plugin never takes the place of an installed module.
    """

    name: str
    path: str

    @classmethod
    def of(cls, path: Path) -> PluginFile:
        """The finder of a file. The path is part of the module's name, because two files may have the same one."""
        full = path.resolve()
        stem = re.sub(r"\W", "_", path.stem)
        digest = blake2b(str(full).encode(errors="surrogateescape")).hexdigest()[:8]
        return cls(f"fluxflow_file_{stem}_{digest}", str(full))

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module itself, whose relative imports are found beside it; or a module beside it."""
        folder = str(Path(self.path).parent)
        if name == self.name:
            return spec_from_file_location(name, self.path, submodule_search_locations=[folder])
        spec = PathFinder.find_spec(name, [folder], target) if path is None else None
        if spec is None or spec.origin == self.path:  # `wandb.py` imports the library, not itself
            return None
        if spec.loader is None and not any(Path(folder, name).glob("*.py")):  # a folder of data is not a package
            return None
        return spec


def plugin_files() -> list[PluginFile]:
    """The files that this process has loaded."""
    return [finder for finder in sys.meta_path if isinstance(finder, PluginFile)]


def find_files(files: Iterable[PluginFile]) -> None:
    """Let Python find the modules of these files, as where they were loaded."""
    sys.meta_path.extend(file for file in files if file not in sys.meta_path)


def load_file(path: Path) -> ModuleType | None:
    """The module of a file, executed again; None if it is not a Python module.

    Raises PluginError where a module beside it has the name of one that is beside another file: an import can only mean
    one of them.
    """
    file = PluginFile.of(path)
    spec = file.find_spec(file.name)
    if spec is None or spec.loader is None:
        return None
    others = [other for other in plugin_files() if Path(other.path).parent != path.resolve().parent]
    for name in (name for name in _beside(file) if not name.startswith(".")):
        owner = next(filter(None, (other.find_spec(name) for other in others)), None)
        if owner is not None:
            message = f"plugin file `{path.name}` imports `{name}`, but another plugin file has a module of that name"
            notes = [("see also", str(owner.origin)), ("instead", f"from . import {name}")]
            raise PluginError(message, str(path), notes, code="duplicate-name", subject=name)
    find_files([file])
    module = module_from_spec(spec)
    sys.modules[file.name] = module  # where attrs and inspect look up annotations and sources
    spec.loader.exec_module(module)
    return module


def sources_of(path: Path) -> list[Path]:
    """The file of a plugin and the modules beside it on which its code depends."""
    file = PluginFile.of(path)
    return [path, *sorted(Path(origin) for origin in set(_beside(file).values()) if origin is not None)]


def _beside(file: PluginFile) -> dict[str, str | None]:
    """The modules beside a file that it imports, wherever in its code, and those that these import, with their files.

    The name of one that is imported relatively begins with a dot: no other file can take its place.
    """
    found: dict[str, str | None] = {}
    paths = [file.path]
    while paths:
        for name in sorted(_imports(paths.pop()) - found.keys()):
            spec = file.find_spec(name.removeprefix("."))
            if spec is not None and (name.startswith(".") or not _found_elsewhere(name)):
                found[name] = spec.origin
                paths += [spec.origin] if spec.origin else []
    return found


def _imports(path: str) -> set[str]:
    """The first parts of the names that a source imports; those of relative imports begin with a dot."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, ValueError, SyntaxError):  # it fails when it is executed
        return set()
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level < 2:
            dot = "." * node.level
            names += [dot + each.partition(".")[0] for each in ([node.module] if node.module else _names(node))]
    return set(names)


def _names(node: ast.ImportFrom) -> list[str]:
    return [alias.name for alias in node.names]


def _found_elsewhere(name: str) -> bool:
    finders = (finder for finder in sys.meta_path if not isinstance(finder, PluginFile))
    return any(finder.find_spec(name, None) is not None for finder in finders)
