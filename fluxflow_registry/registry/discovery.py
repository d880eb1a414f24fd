"""How plugins are found and loaded: the entry points of installed distributions, files, and modules in memory."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from typing import Any

import pluggy

from fluxflow_registry import hookspecs
from fluxflow_registry.contracts import KINDS, Kind
from fluxflow_registry.errors import PluginError, Problem, Variable, one_line
from fluxflow_registry.registry.registry import Component, Plugin, Registry
from fluxflow_registry.registry.verification import RECOGNIZE, check_hooks, check_name, verified

#: Group of the entry points by which distributions announce their plugins.
GROUP = "fluxflow"


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
        twins = [other for other, _ in found if other.name == plugin.name and other is not plugin]
        _load_entry_point(registry, plugin, point, twins)
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
        raise PluginError(_broken(plugin, f"cannot register its components: {one_line(error)}")) from error
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
                name, version = _identity(distribution)
                message = f"entry_points.txt of distribution `{name}` is damaged: {one_line(error)}"
                problem = Problem(message, code="unreadable-file", subject=name)
                unreadable.append(Plugin(name, name, version, "entry_points.txt", (problem,)))
            continue
        name, version = _identity(distribution) if points else ("", "")  # reading it takes longer than all the rest
        for point in points:
            plugin = Plugin(point.name, name, version, point.value)
            # Of two copies of a distribution the first on the path is the one that is imported.
            found.setdefault((plugin.name, plugin.where, plugin.distribution), (plugin, point))
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
        return str(metadata["Name"] or "unknown"), str(metadata["Version"] or "")
    except Exception:
        return "unknown", ""


def _load_entry_point(registry: Registry, plugin: Plugin, point: EntryPoint, twins: list[Plugin]) -> None:
    if twins:
        others = ", ".join(twin.distribution for twin in twins)
        message = f"the plugin name `{plugin.name}` is also used by {others}"
        problem = Problem(message, code="duplicate-name", subject=plugin.name)
        registry.plugins.append(plugin.failed([problem]))
        return
    try:
        module = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # even SystemExit: one plugin must not take the others with it
        registry.plugins.append(plugin.failed([_broken(plugin, f"cannot be imported: {one_line(error)}")]))
        return
    try:
        add_plugin(registry, plugin, module)
    except PluginError as error:
        registry.plugins.append(plugin.failed(error.problems))


def _load_file(registry: Registry, path: Path) -> None:
    if not path.is_file():
        message = f"plugin file `{path.name}` does not exist"
        raise PluginError(message, str(path), code="missing-file")
    plugin = Plugin(path.stem, str(path), "", str(path))
    # The path is part of the module's name: two files may have the same name.
    name = f"fluxflow_file_{path.stem}_{blake2b(str(path.resolve()).encode(errors='surrogateescape')).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        message = f"plugin file `{path.name}` is not a Python module: its name must end in .py"
        raise PluginError(message, str(path), code="unreadable-file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where attrs and inspect look up annotations and sources
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginError(_broken(plugin, f"cannot be imported: {one_line(error)}")) from error
    add_plugin(registry, plugin, module)


def _broken(plugin: Plugin, how: str) -> Problem:
    where = plugin.where if plugin.where == plugin.distribution else None  # a file
    return Problem(f"plugin `{plugin.name}` {how}", where, code="broken-plugin", subject=plugin.name)


def _report_contested(registry: Registry) -> None:
    """Add each contested name to the problems of all plugins that register it."""
    for (kind, name), claims in registry.contested.items():
        parties = " and by ".join(f"{claim.plugin} ({claim.where})" for claim in claims)
        problem = Problem(f"{kind} `{name}` is registered by {parties}", code="duplicate-name", subject=name)
        owners = {claim.plugin.name for claim in claims}
        registry.plugins = [
            plugin.failed([problem]) if plugin.name in owners else plugin for plugin in registry.plugins
        ]
