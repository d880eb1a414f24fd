"""Entries of a recipe to components with options: each from the registry, its options read strictly."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from attrs import evolve

from fluxflow_registry.contracts import KINDS, Naming, ObserverExtras
from fluxflow_registry.errors import FluxflowError, Location, Place, Problem, one_line
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.recipe.convert import structure, unknown_keys
from fluxflow_registry.recipe.node import Node
from fluxflow_registry.recipe.schema import ComponentEntry, RecipeEntry
from fluxflow_registry.registry.members import value_problems
from fluxflow_registry.registry.registry import Component, Registry
from fluxflow_registry.registry.signature import is_configurable, raised_at

T = TypeVar("T")

Components = Mapping[str, ConfiguredComponent]


class Configurator:
    """Configures the components of a recipe and collects every problem on the way."""

    def __init__(self, registry: Registry, recipe: RecipeEntry, problems: Iterable[Problem]) -> None:
        self.registry = registry
        self.recipe = recipe
        self.problems = list(problems)
        self._defaults: dict[str, ConfiguredComponent] | None = None

    def attempt(self, what: str, where: Location | None, call: Callable[[], T]) -> T | None:
        """What a component returns; an exception is reported as a problem of the recipe that chose the component."""
        try:
            return call()
        except FluxflowError as error:
            self.problems.extend(error.problems)
        except Exception as error:
            message = f"{what} failed: {one_line(error)}"
            self.problems.append(Problem(message, where, raised_at(error), code="component-failed", subject=what))
        return None

    def configure_all(self, kind: str, entries: Mapping[str, ComponentEntry], context: str = "") -> Components:
        """The components of entries, by label, but for those with problems."""
        built = {label: self.configure(kind, entry, context) for label, entry in entries.items()}
        return {label: configured for label, configured in built.items() if configured is not None}

    def configure(self, kind: str, entry: ComponentEntry, context: str = "") -> ConfiguredComponent | None:
        """The component of an entry with its options, or None after reporting what is wrong."""
        configured = self.look_up(kind, entry, context)
        return None if configured is None or configured.instance is None else configured

    def look_up(self, kind: str, entry: ComponentEntry, context: str = "") -> ConfiguredComponent | None:
        """The same, but with `instance` None where the options are wrong: what it needs is known all the same."""
        component = self.registry.get(kind, entry.type)
        if component is None:
            self.problems.append(self._unknown(kind, entry, context))
            return None
        instance = self._instance(component, entry.options, f"{kind} `{entry.type}`")
        self._check_renames(component, entry)
        return ConfiguredComponent(entry.label, component, instance, entry.where, entry)

    def values(self, entries: Mapping[str, ComponentEntry], base: Components, context: str) -> Components:
        """Every provider: the registry's with default options, the recipe's with its own."""
        providers = dict(base) or self._default_values()
        for label, entry in entries.items():
            if label != entry.type and self.registry.get("value", label) is not None:
                message = f"value `{label}`: the name belongs to a registered value; choose another name"
                self.problems.append(Problem(message, entry.where, code="duplicate-name", subject=label))
                continue
            configured = self.configure("value", entry, context)
            if configured is not None:
                providers[label] = configured
        return providers

    def observers(self) -> Components:
        """The recipe's observers, and those that join every run unless the recipe removes them."""
        entries = self.recipe.observers
        present = dict(self.configure_all("observer", {k: v for k, v in entries.items() if v is not None}))
        types = {configured.name for configured in present.values()}
        for name, component in self.registry.components["observer"].items():
            if ObserverExtras.of(component.factory).default and name not in entries and name not in types:
                instance = self.attempt(f"observer `{name}`", component.where, partial(_with_defaults, component))
                if instance is not None:
                    present[name] = ConfiguredComponent(name, component, instance, component.where)
        contested = {name: claims for (kind, name), claims in self.registry.contested.items() if kind == "observer"}
        for name, claims in contested.items():
            if name not in entries and any(ObserverExtras.of(claim.factory).default for claim in claims):
                self.problems.append(
                    self.registry.unknown("observer", name, ", of every run,", Place(self.recipe.path))
                )
        for label, entry in entries.items():
            if entry is None and label not in contested and self.registry.get("observer", label) is None:
                where = self.recipe.node.value["observers"].keys[label]
                self.problems.append(self.registry.unknown("observer", label, "", where))
        return present

    def names(self, configured: ConfiguredComponent, method: Callable[[], Sequence[str]]) -> list[str]:
        """The names that the options of a component mention, as this method of it returns them."""
        what = f"`{method.__name__}` of {configured.component.kind} `{configured.name}`"
        return self.attempt(what, configured.where, lambda: list(method())) or []

    def watched(self, configured: ConfiguredComponent) -> list[str]:
        """The metrics that a transition or an observer watches, as it declares them."""
        return self.names(configured, Naming.of(configured.instance).metrics)

    def _unknown(self, kind: str, entry: ComponentEntry, context: str) -> Problem:
        """The problem of a type that is not registered, or of a misspelled key `type`."""
        strays, _ = unknown_keys(entry.options, ["type"], f"{kind} `{entry.label}`")
        misspelled = [problem for problem in strays if problem.nearest == "type"]
        if misspelled and entry.node.get("type") is None:
            return misspelled[0]
        return self.registry.unknown(kind, entry.type, context, entry.where)

    def _instance(self, component: Component, options: Node, what: str) -> Any:
        reserved = KINDS[component.kind].reserved
        if is_configurable(component.factory):
            instance, problems = structure(component.factory, options, what, reserved)
            if instance is not None:
                notes = (("defined in", str(component.where)),)
                wrong = value_problems(KINDS[component.kind], what, instance)
                problems = [evolve(each, where=options.at(str(each.subject)), notes=notes) for each in wrong]
            self.problems.extend(problems)
            return None if problems else instance
        self.problems.extend(unknown_keys(options, reserved, what)[0])
        return self.attempt(what, component.where, lambda: _with_defaults(component))

    def _check_renames(self, component: Component, entry: ComponentEntry) -> None:
        needs = component.signature.needs
        for need in entry.renames:
            if need not in needs:
                renames = entry.node.get("with")
                where = renames.keys[need] if renames else entry.where
                message = f"`with` replaces `{need}`, but {component.kind} `{entry.type}` requests no such name"
                self.problems.append(Problem(message, where, code="unknown-name", subject=need, choices=needs))

    def _default_values(self) -> dict[str, ConfiguredComponent]:
        """Each registered value whose options all have defaults; the others wait for the recipe."""
        if self._defaults is None:
            self._defaults = {}
            for name, component in self.registry.components["value"].items():
                try:
                    instance = _with_defaults(component)
                except Exception:  # reported when the value is requested: see `World.unset`
                    continue
                self._defaults[name] = ConfiguredComponent(name, component, instance, component.signature.where)
        return dict(self._defaults)


def _with_defaults(component: Component) -> Any:
    """A component without options: a function as it is, a class with its defaults."""
    return component.factory() if inspect.isclass(component.factory) else component.factory
