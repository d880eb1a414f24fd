"""A component that the recipe configures: the registered component, its options, and its location in the recipe."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import frozen

from fluxflow_registry.contracts import Naming
from fluxflow_registry.errors import Location
from fluxflow_registry.recipe.node import Node
from fluxflow_registry.recipe.schema import ComponentEntry
from fluxflow_registry.registry.registry import Component


@frozen(eq=False)
class ConfiguredComponent:
    """A component with the recipe's options: `instance` is what is called."""

    label: str
    component: Component
    instance: Any
    where: Location
    #: None for a component that the recipe does not mention.
    entry: ComponentEntry | None = None

    @property
    def name(self) -> str:
        """The name under which the component is registered."""
        return self.component.name

    @property
    def definition(self) -> str:
        """Where the component is defined, and the line that defines it."""
        signature = self.component.signature
        if signature.text:
            return f"{signature.where}  {signature.text}"
        return f"{self.component.where}  class {self.component.factory.__name__}"

    @property
    def needs(self) -> dict[str, str]:
        """For each parameter of its call, the name of the value that fills it."""
        renamed = self.entry.renames if self.entry else {}
        return {need: renamed.get(need, need) for need in self.component.signature.needs}

    def renamed_at(self, parameter: str) -> Location | None:
        """Where the recipe renames a need; None where it does not."""
        renames = self.entry.node.get("with") if self.entry else None
        return None if renames is None or renames.get(parameter) is None else renames.at(parameter)

    def place_of(self, name: str) -> Location:
        """Where the component's options mention `name`; where the component is named, if none of them does."""
        options: Iterable[Node] = self.entry.options.value.values() if self.entry else ()
        for child in options:
            if isinstance(child.value, dict) and name in child.keys:
                return child.keys[name]
            items: list[Node] = child.value if isinstance(child.value, list) else [child]
            for item in items:
                if item.value == name:
                    return item.where
        return self.where

    def watched_metrics(self) -> list[str]:
        """The metrics that the options of a transition or an observer name, as it declares them."""
        return list(Naming.of(self.instance).metrics())
