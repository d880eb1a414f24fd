"""How plugins are found and loaded: the entry points of installed distributions, files, and modules in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import Distribution, EntryPoint, distributions, version
from pathlib import Path
from typing import Any

import pluggy
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fluxflow_registry import hookspecs
from fluxflow_registry.contracts import KINDS, Kind
from fluxflow_registry.errors import Place, PluginError, Problem, Variable, one_line
from fluxflow_registry.registry.files import load_file
from fluxflow_registry.registry.registry import Component, Plugin, Registry
from fluxflow_registry.registry.signature import raised_in
from fluxflow_registry.registry.verification import RECOGNIZE, check_hooks, check_name, verified

#: Group of the entry points by which distributions announce their plugins.
GROUP = "fluxflow"

#: This distribution, whose plugins keep their names whatever else is installed.
OWN = "fluxflow-registry"


def load(names: Iterable[str] | None = None, files: Iterable[str | Path] = ()) -> Registry:
    """Load the plugins of all installed distributions, or exactly those `names`, and the plugin `files`.

    A plugin that fails is a row with its problems; the others are loaded. Raises PluginError for a name that no
    distribution has, and for a file that fails.
    """
    found, unreadable = _announced()
    if names is not None:
        wanted = [name for name in names if name]
        known = {plugin.name for plugin, _ in found}
        missing = [
            Problem(
                f"no installed distribution has a plugin `{name}`",
                Variable("FLUXFLOW_PLUGINS"),
                code="unknown-name",
                subject=name,
                choices=known,
            )
            for name in wanted
            if name not in known
        ]
        if missing:
            raise PluginError(missing)
        found, unreadable = [(plugin, point) for plugin, point in found if plugin.name in wanted], []
    registry = Registry(plugins=unreadable)
    for plugin, point in found:
        _load_entry_point(registry, plugin, point, _rivals(plugin, [other for other, _ in found]))
    for path in files:
        _load_file(registry, Path(path))
    _report_contested(registry)
    return registry


def from_modules(modules: Mapping[str, Any]) -> Registry:
    """A registry of plugin objects already in memory, by name; raises PluginError for one that fails."""
    registry = Registry()
    for name, module in modules.items():
        add_plugin(registry, Plugin(name, "memory", "", ""), module)
    _report_contested(registry)
    return registry


def add_plugin(registry: Registry, plugin: Plugin, module: Any) -> None:
    """Register all components of one plugin, or none; raises PluginError."""
    manager = pluggy.PluginManager("fluxflow")
    manager.add_hookspecs(hookspecs)
    components: list[Component] = []
    try:
        check_hooks(manager, plugin, module)
        manager.register(module, plugin.name)
        for kind in KINDS.values():
            getattr(manager.hook, kind.hook)(register=_registrar(components, plugin, kind))
    except (PluginError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise PluginError(_broken(plugin, "cannot register its components", error)) from error
    for component in components:
        registry.add(component)
    if hasattr(module, RECOGNIZE):
        registry.recognizers.append((plugin, getattr(manager.hook, RECOGNIZE)))
    registry.plugins.append(plugin)


def _registrar(components: list[Component], plugin: Plugin, kind: Kind) -> hookspecs.Register:
    def register(name: str, component: Any) -> None:
        check_name(kind, name, component)
        twin = next((each for each in components if (each.kind, each.name) == (kind.name, name)), None)
        signature = verified(kind, name, component)
        if twin:
            message = f"plugin `{plugin.name}` registers {kind.name} `{name}` twice"
            notes = (("see also", twin.where),)
            raise PluginError(message, signature.where, notes, code="duplicate-name", subject=name)
        components.append(Component(kind.name, name, component, signature, plugin))

    return register


def _announced() -> tuple[list[tuple[Plugin, EntryPoint]], list[Plugin]]:
    """Every plugin that a distribution announces, and a row for each distribution whose entry points are damaged."""
    found: dict[tuple[str, str, str], tuple[Plugin, EntryPoint]] = {}
    unreadable = []
    for distribution in distributions():
        try:
            points = [point for point in distribution.entry_points if point.group == GROUP]
        except Exception as error:  # one damaged file must not hide all plugins, as `entry_points()` lets it
            if _mentions_us(distribution):
                name, number = _identity(distribution)
                message = f"entry_points.txt of distribution `{name}` is damaged: {one_line(error)}"
                problem = Problem(message, code="unreadable-file", subject=name)
                unreadable.append(Plugin(name, name, number, "entry_points.txt", (problem,)))
            continue
        name, number = _identity(distribution) if points else ("", "")  # reading it takes longer than all the rest
        for point in points:
            plugin = Plugin(point.name, name, number, point.value)
            # Of two copies of a distribution the first on the path is the one that is imported.
            where = "" if _is_own(plugin) else plugin.where
            found.setdefault((plugin.name, where, plugin.distribution), (plugin, point))
    return [found[key] for key in sorted(found)], unreadable


def _mentions_us(distribution: Distribution) -> bool:
    try:
        return f"[{GROUP}]" in (distribution.read_text("entry_points.txt") or "")
    except Exception:
        return False


def _identity(distribution: Distribution) -> tuple[str, str]:
    """Name and version of a distribution, as far as its metadata has them."""
    try:
        metadata = distribution.metadata
        name, number = (metadata[key] if key in metadata else "" for key in ("Name", "Version"))  # noqa: SIM401
        return str(name or "unknown"), str(number or "")
    except Exception:
        return "unknown", ""


def _load_entry_point(registry: Registry, plugin: Plugin, point: EntryPoint, rivals: list[Plugin]) -> None:
    if rivals:
        registry.plugins.append(plugin.failed([_name_in_use(plugin, rivals)]))
        return
    try:
        add_plugin(registry, plugin, _imported(plugin, point.load))
    except PluginError as error:
        unmet = _unmet_requirement(plugin, point, error.problems)
        registry.plugins.append(plugin.failed([unmet] if unmet else error.problems))


def _is_own(plugin: Plugin) -> bool:
    return canonicalize_name(plugin.distribution) == OWN


def _rivals(plugin: Plugin, announced: Sequence[Plugin]) -> list[Plugin]:
    """The plugins whose name keeps this one from being loaded; a plugin of this distribution is always loaded."""
    if _is_own(plugin):
        return []
    return [other for other in announced if other.name == plugin.name and other is not plugin]


def _name_in_use(plugin: Plugin, rivals: Sequence[Plugin]) -> Problem:
    notes = []
    message = f"the plugin name `{plugin.name}` is also used by {', '.join(rival.distribution for rival in rivals)}"
    if any(map(_is_own, rivals)):
        message = f"the plugin name `{plugin.name}` belongs to {OWN}"
        notes = [("hint", f"the entry point of {plugin.distribution} needs another name")]
    return Problem(message, None, notes, code="duplicate-name", subject=plugin.name)


def _unmet_requirement(plugin: Plugin, point: EntryPoint, problems: Sequence[Problem]) -> Problem | None:
    """What a plugin that cannot be loaded requires of this distribution, if another version is installed."""
    for required in _requirements(point):
        if canonicalize_name(required.name) != OWN:
            continue
        installed = version(OWN)
        if not required.specifier.contains(installed, prereleases=True):
            message = f"plugin `{plugin.name}` requires {OWN}{required.specifier}, but {installed} is installed"
            notes = [("cause", problem.message) for problem in problems]
            notes.append(("command", f"pip install --upgrade {OWN} {plugin.distribution}"))
            return Problem(message, None, notes, code="wrong-version", subject=plugin.name)
    return None


def _requirements(point: EntryPoint) -> list[Requirement]:
    """What the distribution of a plugin requires here, as far as its metadata can be read."""
    try:
        requirements = [Requirement(text) for text in (point.dist.requires if point.dist else None) or ()]
        return [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    except Exception:
        return []


def _load_file(registry: Registry, path: Path) -> None:
    if not path.is_file():
        message = f"plugin file `{path.name}` does not exist"
        raise PluginError(message, str(path), code="missing-file")
    plugin = Plugin(path.stem, str(path), "", str(path))
    module = _imported(plugin, lambda: load_file(path))
    if module is None:
        message = f"plugin file `{path.name}` is not a Python module: its name must end in .py"
        raise PluginError(message, str(path), code="unreadable-file")
    add_plugin(registry, plugin, module)


def _imported(plugin: Plugin, load: Callable[[], Any]) -> Any:
    """The module of a plugin; raises PluginError, even for SystemExit: one plugin must not take the others with it."""
    try:
        return load()
    except (PluginError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise PluginError(_broken(plugin, "cannot be imported", error)) from error


def _broken(plugin: Plugin, how: str, error: BaseException) -> Problem:
    where = raised_in(error) or (Place(plugin.where) if plugin.where == plugin.distribution else None)  # a file
    message = f"plugin `{plugin.name}` {how}: {one_line(error)}"
    return Problem(message, where, code="broken-plugin", subject=plugin.name)


def _report_contested(registry: Registry) -> None:
    """Add each contested name to the problems of all plugins that register it."""
    for (kind, name), claims in registry.contested.items():
        parties = " and by ".join(f"{claim.plugin} ({claim.where})" for claim in claims)
        problem = Problem(f"{kind} `{name}` is registered by {parties}", code="duplicate-name", subject=name)
        owners = {claim.plugin.identity for claim in claims}
        registry.plugins = [
            plugin.failed([problem]) if plugin.identity in owners else plugin for plugin in registry.plugins
        ]
