"""The plugins that a run was started with: which have changed since, and which are not loaded now."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from attrs import evolve

from fluxflow_registry.check.checker import check
from fluxflow_registry.engine.run.folder import ENVIRONMENT, flags, read_plugins
from fluxflow_registry.errors import RecipeError, RunError, printable
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.files import sources_of
from fluxflow_registry.registry.registry import Registry
from fluxflow_registry.state.bookkeeping import WRONG, read_back, read_json

#: The codes of problems that a plugin which is not loaded may cause.
UNKNOWN = {"unknown-component", "unknown-value"}


def plugin_rows(registry: Registry) -> list[dict[str, Any]]:
    """The plugins as a run records them: by name, distribution, version and the digest of their sources."""
    return [
        {
            "name": p.name,
            "distribution": p.distribution,
            "version": p.version,
            "source": source_digest(p.where),
            "error": p.error,
        }
        for p in registry.plugins
    ]


def checked_environment(content: Any) -> dict[str, Any]:
    """What a run recorded of its environment; raises TypeError or LookupError for anything else."""
    plugins = {str(plugin["name"]): plugin.get("source") for plugin in content.get("plugins", [])}
    facts = {name: content[name] for name in ("torch", "device", "gpu", "threads") if name in content}
    if not all(isinstance(fact, (str, int)) for fact in facts.values()):
        raise TypeError("an entry is neither a string nor an integer")
    return {**facts, "plugins": plugins}


def changed(run: Path, plugins: Sequence[dict[str, Any]]) -> list[str]:
    """The plugins, by name, whose sources are not those that the run in this folder was started with."""
    try:
        before = checked_environment(read_json(run / ENVIRONMENT))
    except (RunError, *WRONG):
        return []
    return _changed(before, plugins)


def _changed(before: Mapping[str, Any], plugins: Sequence[dict[str, Any]]) -> list[str]:
    return [p["name"] for p in plugins if before["plugins"].get(p["name"], p["source"]) != p["source"]]


def changes(run: Path, facts: Mapping[str, Any], warn: Callable[[str], object] = lambda _: None) -> list[str]:
    """What has changed since a run was started: its plugins, and what its results depend on to the last bit.

    `warn` is called with a message if the record of that is damaged.
    """
    before = read_back(run / ENVIRONMENT, checked_environment, warn)
    if before is None:
        return []
    found = [f"plugin `{name}` has changed" for name in _changed(before, facts["plugins"])]
    for name in ("torch", "device", "gpu", "threads"):
        if name in before and name in facts and before[name] != facts[name]:
            was = printable(str(before[name]))
            found.append(f"{name} has changed from {was} to {facts[name]}, so results may differ in their last bits")
    return found


def source_digest(where: str) -> str | None:
    """SHA-256 over the Python sources of a plugin, a module's name or a file; None where there are none."""
    digest = sha256()
    try:
        for file in _sources(where):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    except Exception:  # finding a module imports its parent packages, which may do anything
        return None
    return digest.hexdigest()


def _sources(where: str) -> list[Path]:
    if Path(where).is_file():
        return sources_of(Path(where))
    spec = importlib.util.find_spec(where.partition(":")[0])
    if spec is None or spec.origin is None:
        raise FileNotFoundError(where)
    origin = Path(spec.origin)
    return sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]


def check_again(recipe: Path, registry: Registry, command: str) -> RecipePlan:
    """Check the recipe in a run or a bundle; `command` is the one being run.

    Raises RecipeError: if plugin files of the run are not loaded, it names them and the command that loads them. What
    is unknown without them is then not reported as a problem of its own.
    """
    try:
        return check(recipe, registry)
    except RecipeError as error:
        problems = error.problems
    loaded = {plugin.name for plugin in registry.plugins}
    missing = tuple(file for file in read_plugins(recipe.parent).files if Path(file).stem not in loaded)
    if not missing:
        hint = ("hint", "if a plugin file provides it, load it with --plugin FILE")
        raise RecipeError([evolve(p, notes=(*p.notes, hint)) if p.code in UNKNOWN else p for p in problems])
    given = " ".join(f"`--plugin {file}`" for file in flags(missing)[1::2])
    them, is_not = ("it", "is not") if len(missing) == 1 else ("them", "are not")
    message = f"the run was started with {given}, which {is_not} loaded now: add {them} to this command"
    notes = [("command", f"{command} {shlex.join(flags(missing))}")]
    notes += [("cause", f"{file} no longer exists") for file in missing if not Path(file).is_file()]
    notes.append(("status", "\n".join(problem.message for problem in problems)))
    raise RecipeError(message, str(recipe), notes, code="missing-plugin")
