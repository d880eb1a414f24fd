"""The registry: every component of every plugin, each with its provenance, and every plugin's fate."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from hashlib import blake2b
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy
from attrs import Factory, define, frozen

from fluxflow_registry import hookspecs
from fluxflow_registry.contracts import CONTEXT, KINDS, Kind
from fluxflow_registry.errors import Location, Place, PluginError, Problem, Variable, choices, one_line
from fluxflow_registry.registry.observer_hooks import listener_problems
from fluxflow_registry.registry.signature import (
    Signature,
    call_of,
    definition,
    fields_of,
    is_configurable,
    key_of,
    read,
    shorten,
)

#: The hook that says what a file is that is no recipe; all others register components of a kind.
RECOGNIZE = "fluxflow_recognize_file"

#: Group of the entry points by which distributions announce their plugins.
GROUP = "fluxflow"

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@frozen
class Plugin:
    """One plugin as the listing shows it; `error` says why it is not there, if it is not."""

    name: str
    distribution: str
    version: str
    where: str
    error: str | None = None

    def __str__(self) -> str:
        return f"{self.name}, {self.distribution} {self.version}".rstrip()


@frozen
class Component:
    """Something that a recipe can name: what it is, what it needs, and who brought it."""

    kind: str
    name: str
    factory: Any
    signature: Signature
    plugin: Plugin

    @property
    def doc(self) -> str:
        """Its docstring, unindented."""
        return inspect.getdoc(self.factory) or ""

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return self.doc.split("\n", 1)[0]

    @property
    def where(self) -> Place:
        """File and line of its definition."""
        return Place(shorten(self._source[0]), self._source[1]) if self._source else self.signature.where

    @cached_property
    def _source(self) -> tuple[str, int] | None:
        try:
            return inspect.getfile(self.factory), inspect.getsourcelines(self.factory)[1]
        except (OSError, TypeError):
            return None


@define
class Registry:
    """All components by kind and name; made by `load`, changed by nothing afterwards."""

    plugins: list[Plugin] = Factory(list)
    components: dict[str, dict[str, Component]] = Factory(lambda: {kind: {} for kind in KINDS})
    #: Names that several plugins claim: nobody gets them, and a recipe that asks is told who claims.
    contested: dict[tuple[str, str], list[Component]] = Factory(dict)
    #: What each plugin that knows files of another kind says of one; see `fluxflow_recognize_file`.
    recognizers: list[tuple[Plugin, Callable[..., Problem | None]]] = Factory(list)

    def names(self, kind: str) -> list[str]:
        """The names of a kind, sorted."""
        return sorted(self.components[kind])

    def get(self, kind: str, name: str) -> Component | None:
        """The component, or None."""
        return self.components[kind].get(name)

    def has(self, plugin: Plugin) -> bool:
        """Whether some component of the plugin can be used; a plugin with a contested name may have others."""
        found = (component for named in self.components.values() for component in named.values())
        return any(component.plugin.name == plugin.name for component in found)

    def unknown(self, kind: str, name: str, asked: str, where: Location | None) -> Problem:
        """The problem that `name` is not a `kind`, with the nearest name, what there is, and broken plugins."""
        label = KINDS[kind].name
        claims = self.contested.get((kind, name))
        if claims:
            notes = tuple(("claimed by", f"{claim.plugin} at {claim.where}") for claim in claims)
            return Problem(f"{label} `{name}`{asked} is claimed by two plugins; remove one of them", where, notes)
        notes = choices(name, self.components[kind])
        if notes[0][0] == "nearest":
            plugin = self.components[kind][notes[0][1]].plugin
            notes = (("nearest", f"{notes[0][1]}   ({plugin})"), *notes[1:])
        missing = [plugin for plugin in self.plugins if plugin.error and not self.has(plugin)]
        broken = tuple(("not loaded", f"{plugin}: {plugin.error}") for plugin in missing)
        return Problem(f"unknown {label} `{name}`{asked}", where, (*notes, *broken))


def load(names: Iterable[str] | None = None, files: Iterable[str | Path] = ()) -> Registry:
    """Load the plugins of all installed distributions, or exactly those `names`, and the plugin `files`.

    A plugin that fails is a row with its error; the others are there all the same. Raises
    PluginError when a plugin is asked for by a name that no distribution has, or when a file fails.
    """
    found, unread = _announced()
    if names is not None:
        wanted = [name for name in names if name]
        known = {plugin.name for plugin, _ in found}
        missing = [
            Problem(
                f"no installed distribution has a plugin `{name}`", Variable("FLUXFLOW_PLUGINS"), choices(name, known)
            )
            for name in wanted
            if name not in known
        ]
        if missing:
            raise PluginError(missing)
        found, unread = [(plugin, point) for plugin, point in found if plugin.name in wanted], []
    registry = Registry(plugins=unread)
    for plugin, point in found:
        twins = [other for other, _ in found if other.name == plugin.name and other is not plugin]
        _load_entry_point(registry, plugin, point, twins)
    for path in files:
        _load_file(registry, Path(path))
    _verdict(registry)
    return registry


def from_modules(modules: Mapping[str, Any]) -> Registry:
    """A registry of plugin objects already in memory, by name; a failure is raised at once."""
    registry = Registry()
    for name, module in modules.items():
        _register(registry, Plugin(name, "memory", "", ""), module)
    _verdict(registry)
    return registry


def _announced() -> tuple[list[tuple[Plugin, EntryPoint]], list[Plugin]]:
    """Every plugin that a distribution announces, and a row for each distribution that does so illegibly."""
    found: dict[tuple[str, str, str], tuple[Plugin, EntryPoint]] = {}
    unread = []
    for distribution in distributions():
        try:
            points = [point for point in distribution.entry_points if point.group == GROUP]
        except Exception as error:  # one damaged file must not hide all plugins, as `entry_points()` lets it
            if _mentions_us(distribution):
                name, version = _identity(distribution)
                unread.append(Plugin(name, name, version, "entry_points.txt", one_line(error)))
            continue
        for point in points:
            plugin = Plugin(point.name, *_identity(distribution), point.value)
            # Of two copies of a distribution the first on the path is the one that is imported.
            found.setdefault((plugin.name, plugin.where, plugin.distribution), (plugin, point))
    return [found[key] for key in sorted(found)], unread


def _mentions_us(distribution: Distribution) -> bool:
    try:
        return f"[{GROUP}]" in (distribution.read_text("entry_points.txt") or "")
    except Exception:
        return False


def _identity(distribution: Distribution) -> tuple[str, str]:
    """Name and version of a distribution, as far as its metadata says them."""
    try:
        return str(distribution.metadata["Name"] or "unknown"), str(distribution.metadata["Version"] or "")
    except Exception:
        return "unknown", ""


def _load_entry_point(registry: Registry, plugin: Plugin, point: EntryPoint, twins: list[Plugin]) -> None:
    if twins:
        error = f"the plugin name `{plugin.name}` is also claimed by {', '.join(twin.distribution for twin in twins)}"
        registry.plugins.append(_failed(plugin, error))
        return
    try:
        module = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # even SystemExit: one plugin must not take the others with it
        registry.plugins.append(_failed(plugin, one_line(error)))
        return
    try:
        _register(registry, plugin, module)
    except PluginError as error:
        registry.plugins.append(_failed(plugin, str(error)))


def _load_file(registry: Registry, path: Path) -> None:
    if not path.is_file():
        raise PluginError(Problem("there is no such plugin file", str(path)))
    # The path is part of the module's name: two files may be called alike.
    name = f"fluxflow_file_{path.stem}_{blake2b(str(path.resolve()).encode(errors='surrogateescape')).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(Problem("a plugin file is a Python module and ends in .py", str(path)))
    module = importlib.util.module_from_spec(spec)
    _remember(module)
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginError(Problem(f"the plugin cannot be imported: {one_line(error)}", str(path))) from error
    _register(registry, Plugin(path.stem, str(path), "", str(path)), module)


def _remember(module: ModuleType) -> None:
    """Enter a file's module in `sys.modules`, where attrs and inspect look annotations and sources up."""
    import sys

    sys.modules[module.__name__] = module


def _failed(plugin: Plugin, error: str) -> Plugin:
    return Plugin(plugin.name, plugin.distribution, plugin.version, plugin.where, error)


def _register(registry: Registry, plugin: Plugin, module: Any) -> None:
    """Ask one plugin for all its components; all of them are taken, or none."""
    manager = pluggy.PluginManager("fluxflow")
    manager.add_hookspecs(hookspecs)
    taken: list[Component] = []
    try:
        _check_hooks(manager, plugin, module)
        manager.register(module, plugin.name)
        for kind in KINDS.values():
            getattr(manager.hook, kind.hook)(register=_registrar(taken, plugin, kind))
    except (PluginError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise PluginError(f"plugin `{plugin.name}` fails to register: {one_line(error)}") from error
    for component in taken:
        _add(registry, component)
    if hasattr(module, RECOGNIZE):
        registry.recognizers.append((plugin, getattr(manager.hook, RECOGNIZE)))
    registry.plugins.append(plugin)


def _check_hooks(manager: pluggy.PluginManager, plugin: Plugin, module: Any) -> None:
    """Refuse hooks whose name or arguments are wrong: pluggy takes a misspelt hook in silence."""
    known = {*(kind.hook for kind in KINDS.values()), RECOGNIZE}
    hooks = [name for name in dir(module) if manager.parse_hookimpl_opts(module, name) is not None]
    problems = []
    for name in hooks:
        where, text = definition(getattr(module, name))
        if name not in known:
            problems.append(
                Problem(f"unknown hook `{name}` in plugin `{plugin.name}`", where, choices(name, known, "hooks"))
            )
            continue
        taken, expected = (list(inspect.signature(getattr(of, name)).parameters) for of in (module, hookspecs))
        if taken != expected:
            takes = ", ".join(f"`{each}`" for each in expected)
            notes = (("defined as", text), ("expected", f"def {name}({', '.join(expected)})"))
            problems.append(Problem(f"hook `{name}` of plugin `{plugin.name}` takes {takes}", where, notes))
    unmarked = [name for name in sorted(known & set(dir(module))) if name not in hooks]
    for name in unmarked:
        where = definition(getattr(module, name))[0]
        problems.append(Problem(f"`{name}` of plugin `{plugin.name}` is not marked: put `@hookimpl` above it", where))
    if not hooks and not unmarked:
        message = f"plugin `{plugin.name}` has no hook"
        problems.append(Problem(message, plugin.where or None, choices("", known, "hooks")))
    if problems:
        raise PluginError(problems)


def _registrar(taken: list[Component], plugin: Plugin, kind: Kind) -> hookspecs.Register:
    def register(name: str, component: Any) -> None:
        where = definition(call_of(component))[0] if kind.called else None
        if not isinstance(name, str) or not NAME.match(name):
            raise PluginError(Problem(f"`{name}` is no name for a {kind.name}: letters, digits and _", where))
        twin = next((c for c in taken if (c.kind, c.name) == (kind.name, name)), None)
        if twin:
            notes = (("first", str(twin.where)),)
            raise PluginError(Problem(f"plugin `{plugin.name}` registers {kind.name} `{name}` twice", where, notes))
        signature = _verified(kind, name, component)
        taken.append(Component(kind.name, name, component, signature, plugin))

    return register


def _verified(kind: Kind, name: str, component: Any) -> Signature:
    """The signature of a component that obeys the laws of its kind; raises PluginError otherwise."""
    if not callable(component):
        raise PluginError(f"{kind.name} `{name}` is neither a function nor a class, but {type(component).__name__}")
    if not kind.called:
        signature = Signature((), frozenset(), Place(""), "")
    else:
        if inspect.isclass(component) and "__call__" not in dir(component):
            raise PluginError(f"{kind.name} `{name}` has no `__call__`")
        signature = read(component)
    for method in ("fields",) if kind.name == "dataset" else ():
        if not callable(getattr(component, method, None)):
            raise PluginError(Problem(f"{kind.name} `{name}` has no method `{method}`", signature.where))
    if kind.parameters is not None:
        for need in signature.needs:
            if need not in kind.parameters:
                notes = (("defined as", signature.text), *choices(need, kind.parameters, "offered"))
                message = f"{kind.name} `{name}` asks for `{need}`, which no {kind.name} is given"
                raise PluginError(Problem(message, signature.where, notes))
    if kind.name == "value" and name in CONTEXT:
        raise PluginError(Problem(f"`{name}` is provided by the engine itself", signature.where))
    if not kind.called:
        problems = listener_problems(component, f"{kind.name} `{name}`")
        if problems:
            raise PluginError(problems)
    _verify_options(kind, name, component, signature)
    return signature


def _verify_options(kind: Kind, name: str, component: Any, signature: Signature) -> None:
    if is_configurable(component):
        try:
            options = fields_of(component)
        except NameError as error:
            message = f"{kind.name} `{name}` has an option whose type is not known at run time: {error}"
            raise PluginError(Problem(message, signature.where)) from None
        claimed = [key_of(option) for option in options if key_of(option) in kind.reserved]
        if claimed:
            message = f"option `{claimed[0]}` of {kind.name} `{name}` belongs to the recipe's own entry"
            raise PluginError(Problem(message, signature.where, (("reserved", ", ".join(kind.reserved)),)))
    elif inspect.isclass(component):
        unfinished = [key for key, value in vars(component).items() if type(value).__name__ == "_CountingAttr"]
        if unfinished:
            message = (
                f"{kind.name} `{name}` has the field `{unfinished[0]}` but is no attrs class: put `@frozen` above it"
            )
            raise PluginError(Problem(message, signature.where))
        required = [
            p.name
            for p in inspect.signature(component).parameters.values()
            if p.default is inspect.Parameter.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        if required:
            message = f"{kind.name} `{name}` takes `{required[0]}` but declares no fields: make it an attrs class"
            raise PluginError(Problem(message, signature.where))


def _add(registry: Registry, component: Component) -> None:
    key = (component.kind, component.name)
    claims = registry.contested.get(key)
    if claims is not None:
        claims.append(component)
        return
    first = registry.components[component.kind].pop(component.name, None)
    if first is None:
        registry.components[component.kind][component.name] = component
    else:
        registry.contested[key] = [first, component]


def _verdict(registry: Registry) -> None:
    """Write each contested name into the rows of all plugins that claim it."""
    for (kind, name), claims in registry.contested.items():
        parties = " and ".join(f"{claim.plugin} ({claim.where})" for claim in claims)
        for index, plugin in enumerate(registry.plugins):
            if any(claim.plugin.name == plugin.name for claim in claims):
                error = f"{kind} `{name}` is claimed by {parties}"
                both = f"{plugin.error}\n{error}" if plugin.error else error
                registry.plugins[index] = _failed(plugin, both)
