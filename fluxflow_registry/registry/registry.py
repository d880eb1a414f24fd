"""The registry: every component of every plugin, each with its provenance, and every plugin, loaded or not."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from attrs import Factory, define, evolve, frozen

from fluxflow_registry.contracts import KINDS
from fluxflow_registry.errors import Choices, Location, Place, Problem
from fluxflow_registry.registry.signature import Signature, place_of


@frozen
class Plugin:
    """One plugin; `problems` are why it is not loaded, or only in part."""

    name: str
    distribution: str
    version: str
    where: str
    problems: tuple[Problem, ...] = ()

    @property
    def identity(self) -> tuple[str, str]:
        """What tells it from every other plugin: two distributions may use one name."""
        return self.name, self.distribution

    @property
    def error(self) -> str | None:
        """Its problems as text; None where there are none."""
        return "\n".join(map(str, self.problems)) or None

    def failed(self, problems: Iterable[Problem]) -> Plugin:
        """The same plugin with these problems too."""
        return evolve(self, problems=(*self.problems, *problems))

    def __str__(self) -> str:
        return f"{self.name}, {self.distribution} {self.version}".rstrip()


@frozen
class Component:
    """Something that a recipe can name: what it is, what it needs, and the plugin that registers it."""

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

    @cached_property
    def where(self) -> Place:
        """File and line of its definition."""
        return place_of(self.factory) or self.signature.where


@define
class Registry:
    """All components by kind and name; built by `discovery.load`, and not changed afterwards."""

    plugins: list[Plugin] = Factory(list)
    components: dict[str, dict[str, Component]] = Factory(lambda: {kind: {} for kind in KINDS})
    #: Names that several plugins register: none of them counts, and a recipe that uses one is rejected.
    contested: dict[tuple[str, str], list[Component]] = Factory(dict)
    #: For each plugin that identifies files other than recipes, the call that does; see `fluxflow_recognize_file`.
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
        return any(component.plugin.identity == plugin.identity for component in found)

    def add(self, component: Component) -> None:
        """Add a component; a name that another plugin has registered too is contested."""
        key = (component.kind, component.name)
        first = self.components[component.kind].pop(component.name, None)
        if first is not None or key in self.contested:
            self.contested.setdefault(key, [first] if first else []).append(component)
        else:
            self.components[component.kind][component.name] = component

    def claims(self, kind: str) -> dict[str, tuple[str, ...]]:
        """The contested names of a kind; for each the places that define it, with their plugins."""
        return {
            name: tuple(f"{claim.where}   ({claim.plugin})" for claim in claims)
            for (of, name), claims in self.contested.items()
            if of == kind
        }

    def unknown(self, kind: str, name: str, where_used: str, where: Location | None) -> Problem:
        """The problem that `name` is not a `kind`, with the nearest name and the plugins that are not loaded."""
        claims = self.claims(kind).get(name)
        if claims:
            message = f"{kind} `{name}`{where_used} is registered by two plugins: remove one of them"
            notes = tuple(("defined in", claim) for claim in claims)
            return Problem(message, where, notes, code="duplicate-name", subject=name)
        found = Choices.of(name, self.components[kind])
        if found.nearest is not None:
            found = evolve(found, detail=f"({self.components[kind][found.nearest].plugin})")
        missing = [plugin for plugin in self.plugins if plugin.problems and not self.has(plugin)]
        notes = tuple(("status", f"{plugin} is not loaded: {plugin.error}") for plugin in missing)
        message = f"unknown {kind} `{name}`{where_used}"
        return Problem(message, where, notes, code="unknown-component", subject=name, choices=found)
